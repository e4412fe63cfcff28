#!/bin/sh
# Run the tests:  sh test.sh [options of pytest].  Sets up .venv on a fresh machine.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
set -- requirements-dev.txt "$@"
. "$here/scripts/venv.sh"
shift
cd "$here"
exec "$python" -m pytest "$@"
