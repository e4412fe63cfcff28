#!/bin/sh
# Segment every case of a folder:  sh predict.sh [INPUTS OUTPUTS] [options of python -m app]
# or one scan of yours:            sh predict.sh SCAN [OUTPUT] --box ...
# In the container it just runs. On a fresh machine it first makes .venv with the pinned packages,
# and adds those for scans when it meets one that needs them.
# Without arguments: /workspace/inputs to /workspace/outputs where that is there, else the demo cases.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ -n "${SWIFTMEDSAM_PYTHON:-}" ]; then # an interpreter that has the packages; set in the image
    python=$SWIFTMEDSAM_PYTHON
else
    needed=requirements.lock
    for word in "$@"; do # an output may ask for them, too
        case $word in
        -*) ;;
        *.[nN][iI][iI] | *.[nN][iI][iI].[gG][zZ] | *.[nN][rR][rR][dD] | *.[nN][hH][dD][rR] | *.[mM][hH][aAdD] | \
            *.[dD][cC][mM] | *.[iI][mM][aA])
            needed="requirements.lock requirements-scans.txt"
            ;;
        esac
    done
    case " $* " in *" --box"*) # a folder of scans, mostly DICOM; that of the challenge has its boxes
        [ ! -d "$1" ] || needed="requirements.lock requirements-scans.txt"
        ;;
    esac
    for file in $needed; do
        set -- "$file" "$@"
        . "$here/scripts/venv.sh"
        shift
    done
fi

if [ $# -eq 0 ] && [ ! -d /workspace/inputs ]; then
    set -- "$here/examples/inputs" "$here/outputs"
fi
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m app "$@"
