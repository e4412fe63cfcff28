"""Measure the peak memory by shape of the case: `python -m benchmarks.limits.memory [OPTIONS]`.

Each case is written in chunks, so that this process stays small. A process of its own segments it
and prints its peak memory at the end. The table is in docs/limits.md. Its last column is the
estimate with which `--memory-limit` refuses a case.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from swiftmedsam.memory import estimate_peak

CHUNK = 16 << 20  # bytes of pixels that are written at a time
WAVE = 251  # period of the pixel values; it is prime, so that rows and columns differ
SEED = 7

# ru_maxrss would include the memory of the process that starts this one.
MEASURED = r"""
import re, sys
from pathlib import Path
from swiftmedsam.program.main import main
status = main()
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""


@dataclass(frozen=True)
class Shape:
    """The shape of a case, its boxes and its values."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    boxes: Callable[[tuple[int, ...]], np.ndarray]
    fortran: bool = False
    low: int = 0  # added to the values 0..250
    gain: int = 1  # the values are first multiplied by this

    @property
    def is_volume(self) -> bool:
        """Whether it is a volume, by its name."""
        return self.name.startswith("3D")


def whole_and_parts(shape: tuple[int, ...]) -> np.ndarray:
    """Return a box around the whole image, one around a quarter, and eight small ones for crops."""
    height, width = shape[:2]
    small = [[width // 9 * i, height // 9 * i, width // 9 * i + 90, height // 9 * i + 70]
             for i in range(8)]  # fmt: skip
    quarter = [width // 4, height // 4, width // 2, height // 2]
    return np.array([[0, 0, width - 1, height - 1], quarter, *small])


def many(shape: tuple[int, ...]) -> np.ndarray:
    """Return 70,000 random boxes."""
    corners = np.random.default_rng(SEED).integers(0, [shape[1] - 40, shape[0] - 40], (70_000, 2))
    return np.concatenate([corners, corners + [30, 20]], axis=1)


def twenty(shape: tuple[int, ...]) -> np.ndarray:
    """Return twenty boxes; three are long with different middles, so that embeddings are kept."""
    depth, height, width = shape
    spans = [(0, depth - 1), (depth // 2, depth - 1), (0, depth // 2)]
    spans += [(z, z + 3) for z in np.linspace(0, depth - 4, 17).astype(int)]
    rows = []
    for i, (first, last) in enumerate(spans):
        x, y = width * (i % 5) // 6, height * (i // 5) // 6
        rows.append([x, y, first, x + width // 4, y + height // 5, last])
    return np.array(rows)


SHAPES = (
    Shape("2DBox_US_small", (512, 700, 3), "|u1", whole_and_parts),
    Shape("2DBox_US_grey", (20_000, 20_000), "|u1", whole_and_parts),
    Shape("2DBox_Microscopy_colour", (20_000, 20_000, 3), "|u1", whole_and_parts),
    Shape("2DBox_Microscopy_fortran", (20_000, 20_000, 3), "|u1", whole_and_parts, fortran=True),
    Shape("2DBox_X-Ray_raw", (20_000, 20_000), "<u2", whole_and_parts, gain=9),
    Shape("2DBox_Microscopy_raw", (20_000, 20_000, 3), "<u2", whole_and_parts, gain=9),
    Shape("2DBox_Microscopy_float", (20_000, 20_000, 3), "<f4", whole_and_parts, gain=9),
    Shape("2DBox_US_70000", (2000, 3000), "|u1", many),
    Shape("3DBox_MR_20", (1000, 512, 512), "|u1", twenty),
    Shape("3DBox_CT_raw", (1000, 512, 512), "<i2", twenty, low=-1000, gain=9),
)


def write_case(shape: Shape, folder: Path) -> Path:
    """Write the npz of a shape, in chunks."""
    path = folder / f"{shape.name}.npz"
    dtype = np.dtype(shape.dtype)
    header = {"descr": shape.dtype, "fortran_order": shape.fortran, "shape": shape.shape}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("imgs.npy", "w", force_zip64=True) as stream:
            npy.write_array_header_1_0(stream, header)
            count = int(np.prod(shape.shape))
            for start in range(0, count, CHUNK):
                index = np.arange(start, min(start + CHUNK, count))
                values = index % WAVE * shape.gain + shape.low
                stream.write(values.astype(dtype).tobytes())
        with archive.open("boxes.npy", "w") as stream:
            npy.write_array(stream, shape.boxes(shape.shape))
    return path


def peak_of(arguments: list[str]) -> tuple[int, int]:
    """Run the program in a process; return its exit status and peak bytes, start included."""
    command = [sys.executable, "-c", MEASURED, *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return process.returncode, int(process.stdout or 0) * 1024


def main() -> int:
    """Measure the shapes; with a word, only those whose name contains it."""
    parser = argparse.ArgumentParser("python -m benchmarks.limits.memory", description=__doc__)
    parser.add_argument(
        "only", nargs="?", default="", help="measure only shapes whose name contains this"
    )
    parser.add_argument(
        "--folder", type=Path, help="folder for the cases, some GB (default: temporary)"
    )
    options, rest = parser.parse_known_args()  # the rest goes to the program
    failed = False
    print("| case | imgs | boxes | peak MB | estimate MB |\n|---|---|---|---|---|", flush=True)
    for shape in SHAPES:
        if options.only not in shape.name:
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            inputs, outputs = Path(folder, "inputs"), Path(folder, "outputs")
            inputs.mkdir()
            write_case(shape, inputs)
            status, peak = peak_of([str(inputs), str(outputs), "--quiet", *rest])
            size = " x ".join(map(str, shape.shape))
            count = len(shape.boxes(shape.shape))
            estimate = estimate_peak(
                shape.shape, np.dtype(shape.dtype), count, is_volume=shape.is_volume
            )
            print(f"| {shape.name} | {size} {np.dtype(shape.dtype)} | {count} "
                  f"| {peak / 1e6:.0f}{' failed' if status else ''} | {estimate / 1e6:.0f} |",
                  flush=True)  # fmt: skip
            failed |= status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
