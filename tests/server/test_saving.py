"""What a session saves: read back by other readers, with the objects' places, names and colours.

Objects are masks that are given, so no network has a part in it.
"""

import csv

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from highdicom.color import CIELabColor
from PIL import Image

from swiftmedsam import open_image
from swiftmedsam.scans.label_maps import objects_of
from swiftmedsam.server.page_saving import drawn, formats_of, write_to
from swiftmedsam.server.planes import SessionError
from swiftmedsam.server.session import Session
from tests.helpers import BoxesAsMasks
from tests.helpers.dicom import TILTED, series
from tests.helpers.scans import AFFINES, ALIGNED, itk_affine
from tests.helpers.structures import READERS, headers_of, read_back

GRID = (30, 24, 6)  # i, j, k
FLIPPED = ALIGNED @ np.diag([-1, 1, -1, 1])
ANISOTROPIC = ALIGNED @ np.diag([0.3, 1.4, 5, 1])
GO_ON = {".nii.gz", ".seg.nrrd", ".mha", ".dcm", ".png", ".tif"}
OBJECTS = {"Leber, links": (200, 30, 60), "肝臓": (10, 90, 250), "hidden": (1, 2, 3)}


def voxels():
    return np.random.default_rng(1).integers(0, 900, GRID).astype(np.int16)


def dicom(folder, affine):
    return series(folder / "study", voxels(), affine, Modality="MR")


def nifti(folder, affine):
    path = folder / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels(), affine), path)
    return path


def nrrd(folder, affine):
    path = folder / "scan.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(nifti(folder, affine))), str(path))
    return path


def picture(folder, _):
    path = folder / "photo.png"
    Image.fromarray(voxels()[:, :, 0].T.astype(np.uint8)).save(path)
    return path


SCANS = {
    "DICOM, oblique": (dicom, AFFINES["oblique"]),
    "DICOM, flipped": (dicom, FLIPPED),
    "DICOM, anisotropic": (dicom, ANISOTROPIC),
    "DICOM, tilted gantry": (dicom, TILTED),
    "NIfTI, flipped": (nifti, FLIPPED),
    "NIfTI, oblique": (nifti, AFFINES["oblique"]),
    "NRRD, anisotropic": (nrrd, ANISOTROPIC),
    "picture": (picture, None),
}


@pytest.fixture(params=SCANS)
def session(request, tmp_path):
    """A session with three objects: two overlap, the last has no voxel of its own."""
    make, affine = SCANS[request.param]
    opened = Session(open_image(make(tmp_path, affine), BoxesAsMasks(), modality="MR"))
    masks = np.zeros((3, *opened.shape), bool)
    last = opened.shape[0]
    masks[0, : min(3, last), 4:15, 3:20] = True
    masks[0, 0, 8:10, 6:9] = False  # a hole
    masks[1, min(2, last - 1) :, 10:20, 12:29] = True
    masks[2] = masks[0]
    for (name, colour), mask in zip(OBJECTS.items(), masks, strict=True):
        opened.seed(opened.new_object(name, colour).number, mask)
    return opened


def save(session, path):
    what = drawn(session, list(session.objects), later_wins=False)
    write_to(path, session, what)
    return what


def labels_of(session):
    """1 and 2 where the objects are, (K, J, I); what overlaps belongs to the earlier one."""
    labels = np.zeros(session.shape, np.uint8)
    for number in (2, 1):
        (k0, k1), (j0, j1), (i0, i1) = session[number].box
        labels[k0:k1, j0:j1, i0:i1][session[number].mask] = number
    return labels


def test_every_format_that_is_offered_is_read_back_by_another_reader(session, tmp_path):
    scan, found, folder = session.image.scan, labels_of(session), tmp_path / "out"
    folder.mkdir()
    offered = [one["suffix"] for one in formats_of(scan)]
    is_dicom, is_picture = bool(scan.sources), not scan.has_mm
    assert ({".dcm", ".rtstruct.dcm"} <= {*offered}) == is_dicom
    assert ({".png", ".tif"} <= {*offered}) == is_picture
    assert {".nii.gz", ".seg.nrrd", ".mha", ".csv"} <= {*offered}
    for suffix in offered:
        path = folder / f"labels{suffix}"
        what = save(session, path)
        assert what.left_out == ("hidden",)
        if suffix == ".nii.gz":
            image = nibabel.load(path)
            np.testing.assert_array_equal(np.asarray(image.dataobj).T, found)
            np.testing.assert_allclose(image.affine, scan.affine, atol=1e-3)
        elif suffix in (".seg.nrrd", ".mha"):
            image = sitk.ReadImage(str(path))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), found)
            np.testing.assert_allclose(itk_affine(image), scan.affine, atol=1e-3)
        elif suffix in (".png", ".tif"):
            np.testing.assert_array_equal(np.asarray(Image.open(path)), found[0])
        elif suffix == ".dcm":
            written = labels_of_segmentation(path, scan)
            np.testing.assert_array_equal(written.T, found)
        elif suffix == ".rtstruct.dcm":
            structures = read_back(path, headers_of(scan.path))
            for number, name in enumerate([*OBJECTS][:2], start=1):
                for reader in READERS:
                    np.testing.assert_array_equal(structures[name][reader], found == number)
        else:
            rows = list(csv.DictReader(path.read_text().splitlines()))
            assert [row["name"] for row in rows] == [*OBJECTS][:2]
            assert [int(row["voxels"]) for row in rows] == [(found == n).sum() for n in (1, 2)]
            if scan.has_mm:
                mm3 = abs(np.linalg.det(scan.affine[:3, :3]))
                volumes = [float(row["volume_ml"]) * 1000 / mm3 for row in rows]
                assert volumes == pytest.approx([(found == n).sum() for n in (1, 2)], rel=1e-4)


def labels_of_segmentation(path, scan):
    """Labels (I, J, K) of a SEG, on images in the order of the scan."""
    order = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID
             for file, _ in scan.sources]  # fmt: skip
    seg = pydicom.dcmread(path)
    size = seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    labels = np.zeros(scan.grid, np.uint8)
    for count, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        plane = bits[count * size : (count + 1) * size].reshape(seg.Rows, seg.Columns).T
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        k = order.index(image.ReferencedSOPInstanceUID)
        labels[:, :, k][plane > 0] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    return labels


def test_one_can_go_on_from_what_was_saved(session, tmp_path):
    """In a new session, with the same voxels, names and colours."""
    scan, found = session.image.scan, labels_of(session)
    (tmp_path / "out").mkdir()
    for suffix in {one["suffix"] for one in formats_of(scan)} & GO_ON:
        path = tmp_path / "out" / f"labels{suffix}"
        save(session, path)
        later = Session(open_image(scan.path, BoxesAsMasks(), modality="MR"))
        for name, colour, mask in objects_of(path, later.image.scan):
            later.seed(later.new_object(name, colour).number, mask.T)
        assert [one.name for one in later.objects.values()] == [*OBJECTS][:2]
        np.testing.assert_array_equal(labels_of(later), found)
        for one, colour in zip(later.objects.values(), OBJECTS.values(), strict=False):
            # the colours of DICOM are CIELab, in whole numbers
            away = np.abs(np.subtract(one.colour, colour)).max()
            assert away <= (2 if suffix == ".dcm" else 0), suffix


def test_names_and_colours_are_in_the_files_for_others(tmp_path):
    session = Session(open_image(dicom(tmp_path, ALIGNED), BoxesAsMasks(), modality="MR"))
    mask = np.zeros(session.shape, bool)
    for n, (name, colour) in enumerate(OBJECTS.items()):
        mask[...] = False
        mask[n, 3:9, 4:12] = True
        session.seed(session.new_object(name, colour).number, mask)
    out = {suffix: tmp_path / f"out{suffix}" for suffix in (".dcm", ".rtstruct.dcm", ".seg.nrrd")}
    for path in out.values():
        save(session, path)
    seg = pydicom.dcmread(out[".dcm"]).SegmentSequence
    assert [one.SegmentLabel for one in seg] == [*OBJECTS]
    assert [[*one.RecommendedDisplayCIELabValue] for one in seg] == [
        [*CIELabColor.from_rgb(*colour).value] for colour in OBJECTS.values()
    ]
    plan = pydicom.dcmread(out[".rtstruct.dcm"])
    assert [one.ROIName for one in plan.StructureSetROISequence] == [*OBJECTS]
    assert [tuple(one.ROIDisplayColor) for one in plan.ROIContourSequence] == [*OBJECTS.values()]
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(out[".seg.nrrd"]))
    reader.ReadImageInformation()
    for n, (name, colour) in enumerate(OBJECTS.items()):
        assert reader.GetMetaData(f"Segment{n}_Name") == name
        own = np.array(reader.GetMetaData(f"Segment{n}_Color").split(), float)
        assert np.rint(own * 255).astype(int).tolist() == [*colour]


def test_nothing_is_saved_of_nothing(tmp_path):
    session = Session(open_image(picture(tmp_path, None), BoxesAsMasks(), modality="MR"))
    session.new_object("empty")
    with pytest.raises(SessionError, match="^there is nothing to save yet: no object has a voxel"):
        save(session, tmp_path / "out.png")
