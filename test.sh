#!/bin/sh
# Run the tests:  sh test.sh [folder of tests/] [options of pytest].  Sets up .venv on a fresh machine.
set -eu
script=$0
while [ -L "$script" ]; do # a link to this file: the program lies beside what it points to
    target=$(readlink "$script")
    case $target in
    /*) script=$target ;;
    *) script=$(dirname -- "$script")/$target ;;
    esac
done
# with CDPATH set, cd prints the folder that it found there
here=$(CDPATH= cd -- "$(dirname -- "$script")" && pwd -P)
set -- requirements-dev.txt "$@"
. "$here/scripts/venv.sh"
shift
cd "$here"
case ${1-} in
'' | -* | */*) ;; # pytest's own words
*) if [ -d "tests/$1" ]; then
    folder=tests/$1
    shift
    set -- "$folder" "$@"
fi ;;
esac
exec "$python" -m pytest "$@"
