#!/bin/sh
# Segment all cases of a folder:  sh predict.sh [INPUTS OUTPUTS] [options of python -m app]
# or one scan:                    sh predict.sh SCAN [OUTPUT] --box ...
# On a new machine this first makes .venv with the pinned packages; if a scan needs more packages, it
# adds them. In the container all packages are there.
# Without arguments: /workspace/inputs to /workspace/outputs if they exist, else the demo cases.
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

# Whether an argument needs the packages for scans. A name of an input or output needs them by its
# suffix, a file by the DICM at byte 128 (DICOM), a folder (if there are --box options) if it holds
# any file that is not npz, a picture or a table.
needs_scans() {
    case $1 in
    *.[nN][iI][iI] | *.[nN][iI][iI].[gG][zZ] | *.[nN][rR][rR][dD] | *.[nN][hH][dD][rR] | *.[mM][hH][aAdD] | \
        *.[dD][cC][mM] | *.[iI][mM][aA])
        return 0
        ;;
    esac
    if [ -d "$1" ]; then
        [ -n "$boxes" ] && find -L "$1" -type f ! -name '.*' 2>/dev/null |
            grep -Eivq '\.(npz|png|jpe?g|bmp|tiff?|csv|tsv|json|txt)$'
    else
        [ -f "$1" ] && [ "$(dd if="$1" bs=4 skip=32 count=1 2>/dev/null | tr -d '\0')" = DICM ]
    fi
}

if [ -n "${SWIFTMEDSAM_PYTHON:-}" ]; then # an interpreter with all packages; the image sets it
    python=$SWIFTMEDSAM_PYTHON
else
    unset PYTHONPATH PYTHONHOME # else packages of other programs would come before those of .venv
    needed=requirements.lock
    case " $*" in *" --box"*) boxes=yes ;; *) boxes= ;; esac # cases of the challenge contain their boxes
    for word in "$@"; do
        case $word in --*=*) word=${word#*=} ;; esac
        if needs_scans "$word"; then
            needed="requirements.lock requirements-scans.lock"
            break
        fi
    done
    for file in $needed; do
        set -- "$file" "$@"
        . "$here/scripts/venv.sh"
        shift
    done
fi

if [ $# -eq 0 ] && [ ! -d /workspace/inputs ]; then
    set -- "$here/examples/inputs" "$here/outputs"
fi
# PYTHONSAFEPATH: else Python would prefer a numpy.py or a folder "app" in the current folder
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 exec "$python" -m app "$@"
