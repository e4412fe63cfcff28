#!/bin/sh
# Run the tests:  sh test.sh [folder of tests/] [options of pytest].  Makes .venv on a new machine.
set -eu
script=$0
while [ -L "$script" ]; do # this file may be a link: the program is beside its target
    target=$(readlink "$script")
    case $target in
    /*) script=$target ;;
    *) script=$(dirname -- "$script")/$target ;;
    esac
done
# if CDPATH is set, cd prints the folder
here=$(CDPATH= cd -- "$(dirname -- "$script")" && pwd -P)
set -- requirements-dev.txt "$@"
. "$here/scripts/venv.sh"
shift
cd "$here"
case ${1-} in
'' | -* | */*) ;; # arguments for pytest
*) if [ -d "tests/$1" ]; then
    folder=tests/$1
    shift
    set -- "$folder" "$@"
fi ;;
esac
exec "$python" -m pytest "$@"
