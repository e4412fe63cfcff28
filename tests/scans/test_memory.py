"""Scans that do not fit are refused by their headers; what is estimated covers what is used."""

import gzip
import math
import os
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from swiftmedsam.display import DEFAULT_WINDOW
from swiftmedsam.memory import estimate_labels_peak, estimate_scan_peak
from swiftmedsam.modality import UNKNOWN
from swiftmedsam.scans.dicom import reader as dicom
from swiftmedsam.scans.formats import itk, nifti, pictures
from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.formats.picture_headers import Page, read_pages
from swiftmedsam.scans.label_maps import boxes_around_labels, extents
from swiftmedsam.scans.orientation import choose_orientation
from swiftmedsam.scans.place import case_of
from swiftmedsam.scans.scan import ScanError
from swiftmedsam.segment import segment
from tests.helpers import names
from tests.helpers.boxes import box_words, layered, slicer_file
from tests.helpers.dicom import image, place_tags, series
from tests.helpers.scans import ALIGNED, save, scan_of

LIMIT = 1 << 30
REFUSED_BYTES = 4 << 20
NOTHING = estimate_scan_peak((1, 1, 1), np.dtype(np.uint8), 0)  # the program without a scan


def nifti_of(path, *shape):
    save(path, np.zeros((2, 2, 2), np.int16))
    header = nibabel.load(path).header.copy()
    header.set_data_shape(shape)
    header["vox_offset"] = 352  # nibabel forgets it
    path.write_bytes((gzip.compress if path.suffix == ".gz" else bytes)(header.binaryblock))


def nrrd_of(path, sizes):
    path.write_text(f"NRRD0004\ntype: short\ndimension: {len(sizes.split())}\nsizes: {sizes}\n"
                    "encoding: raw\nendian: little\n\n..")  # fmt: skip


def mha_of(path, sizes):
    path.write_text(f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\n"
                    "ElementDataFile = LOCAL\n")  # fmt: skip
    os.truncate(path, path.stat().st_size + 2 * math.prod(map(int, sizes.split())))  # holes


def dicom_of(path, rows, columns, frames=1, **tags):
    dataset = image(np.zeros((2, 2), np.int16), **place_tags(ALIGNED, 0), **tags)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, frames
    dataset.save_as(path, enforce_file_format=True)


def png_of(path, *size):
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", *size, 0, 0, 0))


def bmp_of(path, *size):
    path.write_bytes(b"BM" + bytes(12) + struct.pack("<Iii", 40, *size) + bytes(40))


def jpeg_of(path, *size):
    """An empty comment before the frame, and bytes of padding."""
    frame = struct.pack(">HBHHB", 17, 8, *size, 3)
    path.write_bytes(b"\xff\xd8\xff\xfe\0\x02\xff\xff\xff\xc2" + frame + bytes(20))


def tiff_of(path, width, height, order=">"):
    tags = zip((256, 257, 258, 262, 277), (width, height, 16, 1, 1), strict=True)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    start = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8)
    path.write_bytes(start + struct.pack(f"{order}H", 5) + entries + bytes(4))


@pytest.mark.parametrize(
    ("name", "write", "size", "message"),
    [
        ("a.nii", nifti_of, (1000, 900, 300), "1000x900x300 voxels of int16 need about 2.7 GB"),
        ("a.nii.gz", nifti_of, (1000, 900, 300, 1), "1000x900x300 voxels of int16 need about 2.7"),
        ("b.nii", nifti_of, (1000, 900, 300, 2), "has 2 volumes"),
        ("a.nrrd", nrrd_of, ("1000 900 300",), "1000x900x300 voxels of int16 need about 2.7 GB"),
        ("b.nrrd", nrrd_of, ("100 90 60 700",), "100x90x60 voxels of int16 need about 2.3 GB"),
        ("a.mha", mha_of, ("1000 900 300",), "1000x900x300 voxels of int16 need about 2.7 GB"),
        ("a.dcm", dicom_of, (30000, 20000), "20000x30000x1 voxels of float32 need about 12.8 GB"),
        ("b.dcm", dicom_of, (1, 1, 10**8), "100000000 frames need about 64.0 GB"),
        ("a.png", png_of, (30000, 20000, 8, 0), "30000x20000x1 voxels of uint8 need about 4.4 GB"),
        ("b.png", png_of, (30000, 20000, 16, 2), "30000x20000x1x3 voxels of uint16 need about 8.6"),
        ("a.bmp", bmp_of, (30000, -20000), "30000x20000x1x3 voxels of uint8 need about 6.8 GB"),
        ("a.jpg", jpeg_of, (20000, 30000), "30000x20000x1x3 voxels of uint8 need about 6.8 GB"),
        ("a.tif", tiff_of, (30000, 20000), "30000x20000x1 voxels of uint16 need about 5.0 GB"),
        ("b.tif", tiff_of, (30000, 20000, "<"), "30000x20000x1 voxels of uint16 need about 5.0 "),
    ],
)
def test_a_scan_that_does_not_fit_is_refused_by_its_header(name, write, size, message, tmp_path):
    """What there is of its pixels would not do; nothing is allocated for them."""
    write(tmp_path / name, *size)
    tracemalloc.start()
    try:
        with pytest.raises(ScanError) as raised:
            read_scan(tmp_path / name, memory_limit=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < REFUSED_BYTES
    finally:
        tracemalloc.stop()
    assert str(raised.value).startswith(f"{name}: {message}")
    assert message == "has 2 volumes" or str(raised.value).endswith(", the memory limit is 1.1 GB")


def test_what_fits_exactly_is_read(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((64, 40, 6), np.int16))
    peak = estimate_scan_peak((64, 40, 6), np.dtype(np.int16), 4 * 64 * 40 * 6)
    assert read_scan(path, memory_limit=peak).grid == (64, 40, 6)
    with pytest.raises(ScanError, match="need about 0.8 GB, the memory limit is 0.8 GB"):
        read_scan(path, memory_limit=peak - 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "1"])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".bmp", {}), (".jpg", {}), (".jpg", {"progressive": True}), (".tif", {}),
     (".tif", {"big_tiff": True}), (".tif", {"compression": "tiff_lzw"})],
)  # fmt: skip
def test_a_picture_is_as_large_as_its_header_says(suffix, options, mode, tmp_path):
    """Channels may be fewer once decoded: a palette can be one of greys."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 64), np.uint8)
    whole = (
        Image.fromarray(pixels.astype(np.uint16) * 257)
        if mode == "I;16"
        else (Image.fromarray(pixels).convert(mode))
    )
    path = tmp_path / f"a{suffix}"
    try:
        whole.save(path, **options)
    except OSError:
        pytest.skip(f"there is no {suffix} of mode {mode}")
    (page,) = read_pages(path)
    found = read_scan(path).voxels
    assert (page.width, page.height, 1) == found.shape[:3]
    assert page.itemsize == found.itemsize
    assert page.channels in (3, found[0, 0, 0].size)
    assert (
        mode not in ("L", "RGB", "RGBA", "I;16")
        or suffix == ".bmp"
        or (page.channels == found[0, 0, 0].size)
    )


def test_pages_of_a_tiff_are_counted_once_each(tmp_path):
    pages = [Image.fromarray(np.zeros((4, 6), np.uint8))] * 3
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert read_pages(tmp_path / "a.tif") == [Page(6, 4, 1, 1)] * 3
    tiff_of(tmp_path / "b.tif", 6, 4)
    content = bytearray((tmp_path / "b.tif").read_bytes())
    content[-4:] = struct.pack(">I", 8)  # the next page is this one
    (tmp_path / "b.tif").write_bytes(content)
    assert read_pages(tmp_path / "b.tif") == [Page(6, 4, 1, 2)]


def test_pages_before_a_damaged_one_count(tmp_path):
    """OpenCV decodes them; they were forgotten, and the limit with them."""
    tiff_of(tmp_path / "a.tif", 30000, 20000)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[-4:] = struct.pack(">I", 1 << 30)  # the next page would begin beyond the end
    (tmp_path / "a.tif").write_bytes(content)
    assert read_pages(tmp_path / "a.tif") == [Page(30000, 20000, 1, 2)]
    with pytest.raises(ScanError, match="voxels of uint16 need about 5.0 GB"):
        read_scan(tmp_path / "a.tif", memory_limit=LIMIT)


def test_the_older_header_of_a_bmp_has_numbers_of_16_bits(tmp_path):
    path = tmp_path / "a.bmp"
    pixels = np.random.default_rng(1).integers(0, 256, (40, 64, 3), np.uint8)
    head = b"BM" + bytes(8) + struct.pack("<IIHHHH", 26, 12, 64, 40, 1, 24)
    path.write_bytes(head + pixels[::-1, :, ::-1].tobytes())
    assert read_pages(path) == [Page(64, 40, 3, 1)]
    assert read_scan(path).grid == (64, 40, 1)


def test_a_header_that_would_take_minutes_is_refused(tmp_path):
    entries = 1 << 15
    page = struct.pack("<H", entries) + struct.pack("<HHII", 256, 4, 1, 9) * entries
    pages = [page + struct.pack("<I", 8 + (k + 1) * (len(page) + 4)) for k in range(40)]
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + b"".join(pages))
    jpeg_of(tmp_path / "a.jpg", 40, 30)
    content = (tmp_path / "a.jpg").read_bytes()
    assert read_pages(tmp_path / "a.jpg") == [Page(30, 40, 3, 1)]
    (tmp_path / "b.jpg").write_bytes(content.replace(b"\xff\xff", b"\xff" * 9000))
    (tmp_path / "c.jpg").write_bytes(content.replace(b"\xff\xfe\0\x02", b"\xff\xfe\0\x02" * 9000))
    for name in ("a.tif", "b.jpg", "c.jpg"):
        assert read_pages(tmp_path / name) == []
        with pytest.raises(ScanError, match=f"^{name}: not a readable picture, expected the"):
            read_scan(tmp_path / name)


def test_a_picture_of_a_kind_that_only_opencv_knows_is_refused(tmp_path):
    Image.fromarray(np.zeros((40, 64), np.uint8)).save(tmp_path / "a.webp")
    path = (tmp_path / "a.webp").rename(tmp_path / "a.png")
    with pytest.raises(ScanError, match=r"^a.png: not a readable picture, expected the header"):
        read_scan(path)


@pytest.mark.parametrize("kept", [0, 1, 3, 8, 11, 20, 25, 40])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif"])
def test_a_header_that_ends_too_early_has_no_size(suffix, kept, tmp_path):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:kept])
    assert read_pages(path) in ([], [Page(6, 4, 1 if suffix == ".png" else 3, 1)])
    with pytest.raises(ScanError, match=f"^a{suffix}: not a readable picture"):
        read_scan(path, memory_limit=LIMIT)


def scans(folder):
    """Scans of 1 million values, whose parts numpy allocates: SimpleITK's are not seen here."""
    voxels = np.random.default_rng(1).integers(-999, 999, (100, 100, 100), np.int16)
    save(folder / "a.nii.gz", voxels)
    save(folder / "b.nii", voxels, slope_inter=(2, 1))
    save(folder / "c.nii.gz", voxels.astype(np.float32) + np.float32(0.5))
    save(folder / "d.nii.gz", voxels.astype(np.float64) + 0.5)
    series(folder / "ct", voxels[:, :, :20], RescaleSlope="2")
    series(folder / "cr", voxels.reshape(1000, 1000, 1), PhotometricInterpretation="MONOCHROME1")
    small = np.random.default_rng(1).integers(0, 256, (100, 100, 100, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(small, isVector=True), str(folder / "a.mha"))
    colour = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), np.uint8)
    Image.fromarray(colour).save(folder / "a.png")
    Image.fromarray(colour).save(folder / "a.bmp")
    grey = [Image.fromarray(colour[..., channel]) for channel in range(3)]
    grey[0].save(folder / "a.tif", save_all=True, append_images=grey[1:])


def test_what_is_estimated_covers_what_is_used(tmp_path, monkeypatch):
    scans(tmp_path)
    monkeypatch.setattr("swiftmedsam.chunks.CHUNK", 1 << 12)  # a piece counts to the program
    estimates = []
    for module in (nifti, dicom, itk, pictures):
        monkeypatch.setattr(
            module, "require_memory",
            lambda name, shape, dtype, reading, limit: estimates.append(
                (shape, estimate_scan_peak(shape, np.dtype(dtype), reading))
            ),
        )  # fmt: skip
    for path in sorted(tmp_path.iterdir()):
        read_scan(path)  # so that what its library keeps does not count
        tracemalloc.start()
        scan = read_scan(path)
        case_of(scan, [], choose_orientation(scan), UNKNOWN, DEFAULT_WINDOW)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        shape, estimate = estimates[-1]
        assert shape == scan.voxels.shape, path.name
        # of values alone: beside them there are pieces of a stream, and 30 kB of a DICOM header
        more = 200_000 + 50_000 * len(scan.sources)
        assert scan.voxels.nbytes <= used <= estimate - NOTHING + more, path.name


@pytest.mark.parametrize("shape", [(200, 150, 100), (2000, 1500, 1), (3, 1, 1_000_000)])
def test_the_extents_of_labels_take_little_memory(shape):
    """However many voxels a slice has: their places at once took 21 times a slice of uint16."""
    labels = np.ones(shape, np.uint16, order="F")
    tracemalloc.start()
    found = dict(extents(labels))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [end.tolist() for end in found[1]] == [[0, 0, 0], [size - 1 for size in shape]]
    assert used < labels.nbytes / 2


def test_labels_are_read_within_what_the_scan_leaves(program, volume, mine):
    nifti_of(mine / "labels.nii", 4000, 4000, 100)
    options = ["--quiet", "--boxes-from", str(mine / "labels.nii"), "--memory-limit", "2G"]
    status, lines = program(*options, inputs=volume, outputs=mine / "out.nii")
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("labels.nii: 4000x4000x100 voxels of int16 need about ")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("layers", "shape"), [(1, (100, 100, 100)), (4, (100, 100, 100)), (1, (1000, 1000, 1))]
)
def test_a_label_map_is_charged_what_it_takes_and_no_case(
    layers, shape, dtype, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "swiftmedsam.scans.label_maps.CHUNK_VOXELS", 1 << 12
    )  # counts to the program
    estimates = []

    def spied(*arguments):
        estimates.append(estimate_labels_peak(*arguments))
        return estimates[-1]

    monkeypatch.setattr("swiftmedsam.scans.label_maps.estimate_labels_peak", spied)
    labels = np.zeros(shape, dtype)
    labels[10:90, 10:90] = 1
    if layers == 1:
        path = save(tmp_path / "a.nii", labels)
    else:
        path = slicer_file(tmp_path / "a.seg.nrrd", *map(layered, range(layers)),
                           voxels=np.stack([labels] * layers, axis=-1))  # fmt: skip
    around = scan_of(labels, ALIGNED)
    boxes_around_labels(path, around, 0)  # so that what its library keeps does not count
    tracemalloc.start()
    assert len(boxes_around_labels(path, around, 0, memory_limit=1 << 30)) == layers
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used <= estimates[-1] - estimate_labels_peak((0, 0, 0), np.dtype(dtype), 0) + 800_000
    boxes_around_labels(path, around, 0, memory_limit=estimates[-1])
    with pytest.raises(ScanError, match=r"need about 0.\d GB, the memory limit is 0"):
        boxes_around_labels(path, around, 0, memory_limit=estimates[-1] - 1)


def test_a_large_label_map_that_fits_is_not_refused(tmp_path):
    """As a scan it would need 10 GB: a case, and labels that are written."""
    shape, dtype = (512, 512, 2000), np.dtype(np.float32)
    assert estimate_labels_peak(shape, dtype, 8 * 512 * 512 * 2000) < 5.6e9
    assert estimate_scan_peak(shape, dtype, 8 * 512 * 512 * 2000) > 7.5e9


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_program_refuses_a_scan_beyond_the_limit(program, more, volume, mine):
    options = ["--quiet", *box_words(), "--memory-limit", "600M", *more]
    status, lines = program(*options, inputs=volume, outputs=mine / "out.nii")
    assert status == 1
    assert lines == [
        "scan.nii.gz: 64x40x6 voxels of uint8 need about 0.8 GB, the memory limit is 0.6 GB"
    ]
    assert names(mine) == ["scan.nii.gz"]


def test_what_the_voxels_take_is_not_spent_twice(program, volume, mine, monkeypatch):
    limits = []

    def spied(case, network, settings, *, memory_limit, **more):
        limits.append(memory_limit)
        return segment(case, network, settings, memory_limit=memory_limit, **more)

    monkeypatch.setattr("swiftmedsam.program.scan_jobs.segment", spied)
    options = [*box_words(), "--memory-limit", "2000000000"]
    assert program(*options, inputs=volume, outputs=mine / "out.nii")[0] == 0
    assert limits == [2_000_000_000 - 64 * 40 * 6]
