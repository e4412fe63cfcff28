# Sourced by predict.sh and test.sh: makes $here/.venv and installs the requirements file $1 into it.
# It installs again if this file, or a file that it includes, has changed. Sets $python.

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "SwiftMedSAM needs Python 3.10 or newer, but found none on the PATH." >&2
    exit 1
}

python=$here/.venv/bin/python
requirements=$here/$1
stamp=$here/.venv/installed-$1
contents() {
    cat "$requirements"
    sed -n 's/^-r //p' "$requirements" | while read -r included; do cat "$here/$included"; done
}
if ! contents | cmp -s - "$stamp"; then
    if [ ! -x "$python" ]; then
        base=$(find_python)
        echo "Making a virtual environment in .venv ..." >&2
        (cd "$here" && exec "$base" -m venv .venv) || {
            echo "Could not make it; on Debian and Ubuntu: apt install python3-venv" >&2
            rm -f "$python" # it may exist without pip; the next run makes it again
            exit 1
        }
    fi
    echo "Installing the packages of $1 into .venv (once, some minutes) ..." >&2
    ( # into .venv, also if the environment or pip.conf tells pip another place
        unset PIP_TARGET PIP_PREFIX PIP_ROOT
        cd "$here" # the current folder may hold a pip.py, or may be deleted
        PIP_USER=0 exec "$python" -m pip install --quiet --disable-pip-version-check \
            -r "$requirements"
    )
    contents >"$stamp"
fi
