#!/bin/sh
# Segment every case of a folder:  sh predict.sh [INPUTS OUTPUTS] [options of python -m app]
# or one scan of yours:            sh predict.sh SCAN [OUTPUT] --box ...
# In the container it just runs. On a fresh machine it first makes .venv with the pinned packages,
# and adds those for scans when it meets one that needs them.
# Without arguments: /workspace/inputs to /workspace/outputs where that is there, else the demo cases.
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

# Whether a word asks for more than npz and pictures: by how it ends, as an output may; as a file by
# the DICM that DICOM has at byte 128; as a folder, where there are boxes, by any file of another kind.
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

if [ -n "${SWIFTMEDSAM_PYTHON:-}" ]; then # an interpreter that has the packages; set in the image
    python=$SWIFTMEDSAM_PYTHON
else
    unset PYTHONPATH PYTHONHOME # of other programs: their packages would come before those of .venv
    needed=requirements.lock
    case " $*" in *" --box"*) boxes=yes ;; *) boxes= ;; esac # cases of the challenge have their own
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
# PYTHONSAFEPATH: else a numpy.py or a folder "app" where the user stands would be run instead
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1 exec "$python" -m app "$@"
