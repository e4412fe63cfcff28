# Sourced by predict.sh and test.sh: makes $here/.venv and installs the requirements file $1 into it,
# once per content of that file and of those that it includes. Sets $python.

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "SwiftMedSAM needs Python 3.10 or newer, and found none on the PATH." >&2
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
            rm -f "$python" # which may be there without pip: the next run makes it anew
            exit 1
        }
    fi
    echo "Installing the packages of $1 into .venv (once, some minutes) ..." >&2
    ( # into .venv, whatever pip is told by the environment or by `user = true` in its pip.conf
        unset PIP_TARGET PIP_PREFIX PIP_ROOT
        cd "$here" # where the user stands may be a pip.py, or nothing any more
        PIP_USER=0 exec "$python" -m pip install --quiet --disable-pip-version-check \
            -r "$requirements"
    )
    contents >"$stamp"
fi
