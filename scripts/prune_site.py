"""Remove the parts of installed packages that the program does not use.

    prune_site.py SITE    (needs gcc and nm)

OpenVINO's wheel contains compilers for other devices, readers of other model formats, tools and
headers. OpenCV's extension is linked to libraries for video and AVIF and to OpenBLAS. These have 80
MB, and resizing an image never calls them. They are replaced by libraries of the same name whose
functions print a message and abort. The lists name what is kept, so that new files of a later
version are removed, too.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

KEPT_OPENVINO_LIBRARIES = re.compile(
    r"libopenvino\.so.*|libopenvino_intel_cpu_plugin\.so|libopenvino_ir_frontend\.so.*"
    r"|libtbb\.so.*|libtbbmalloc\.so.*|libhwloc\.so.*"
)
KEPT_OPENCV_LIBRARIES = re.compile(r"libpng.*")
STUBBED_OPENCV_LIBRARIES = re.compile(r"lib(avcodec|avformat|avutil|swscale|avif|openblasp)-.*")
DROPPED = (
    "bin", "openvino/tools", "openvino/torch", "openvino/include", "openvino/cmake",
    "cv2/data", "numpy/f2py", "numpy/distutils", "openvino_telemetry*",
)  # fmt: skip
FUNCTION_TYPES = "TWi"  # types of nm: code, weak code, code chosen at load time

STUB = """#include <stdio.h>
#include <stdlib.h>
#define STUB(name) void name(void) {{ \\
    fputs(#name ": left out of this image (scripts/prune_site.py)\\n", stderr); abort(); }}
{functions}
"""


def symbols(library: Path, which: str) -> Iterator[tuple[str, str, str]]:
    """Yield type, name and version of the `which` symbols ("defined", "undefined") of `library`."""
    command = ["nm", "-D", "--with-symbol-versions", f"--{which}-only", str(library)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        kind, symbol = line.split()[-2:]
        name, _, version = symbol.partition("@")
        yield kind, name, version.lstrip("@")


def write_stub(library: Path, users_symbols: set[str]) -> None:
    """Replace `library` by a stub of the same name with its functions in `users_symbols`."""
    by_version = defaultdict(list)
    for kind, name, version in symbols(library, "defined"):
        if name in users_symbols:
            if kind not in FUNCTION_TYPES:
                raise SystemExit(f"{library.name}: {name} is data ({kind}), a stub cannot hold it")
            by_version[version].append(name)
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "stub.c"), Path(folder, "versions")
        names = sorted(name for group in by_version.values() for name in group)
        source.write_text(STUB.format(functions="\n".join(f"STUB({name})" for name in names)))
        groups = ((v, names) for v, names in by_version.items() if v)
        script.write_text("".join(f"{v} {{ global: {'; '.join(n)}; }};\n" for v, n in groups))
        versions = [f"-Wl,--version-script={script}"] if script.read_text() else []
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-fno-builtin", "-s", f"-Wl,-soname,{library.name}",
             *versions, "-o", str(library), str(source)],
            check=True,
        )  # fmt: skip


def prune(site: Path) -> None:
    """Remove from `site`, a folder of installed packages, all that inference does not use."""
    for path in (site / "openvino" / "libs").iterdir():
        if not KEPT_OPENVINO_LIBRARIES.fullmatch(path.name):
            path.unlink()
    extension = next((site / "cv2").glob("cv2*.so"))
    wanted = {name for _, name, _ in symbols(extension, "undefined")}
    for library in (site / "opencv_python_headless.libs").iterdir():
        if STUBBED_OPENCV_LIBRARIES.fullmatch(library.name):
            write_stub(library, wanted)
        elif not KEPT_OPENCV_LIBRARIES.fullmatch(library.name):
            library.unlink()
    for name in DROPPED:
        for path in sorted(site.glob(name)):
            shutil.rmtree(path)
    for tests in sorted(site.glob("numpy/**/tests")):
        shutil.rmtree(tests)


if __name__ == "__main__":
    prune(Path(sys.argv[1]))
