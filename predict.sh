#!/bin/sh
# Segment every case of a folder:  sh predict.sh [INPUTS OUTPUTS] [options of python -m app]
# In the container it just runs. On a fresh machine it first makes .venv with the pinned packages.
# Without arguments: /workspace/inputs to /workspace/outputs where that is there, else the demo cases.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ -n "${SWIFTMEDSAM_PYTHON:-}" ]; then # an interpreter that has the packages; set in the image
    python=$SWIFTMEDSAM_PYTHON
else
    set -- requirements.lock "$@"
    . "$here/scripts/venv.sh"
    shift
fi

if [ $# -eq 0 ] && [ ! -d /workspace/inputs ]; then
    set -- "$here/examples/inputs" "$here/outputs"
fi
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m app "$@"
