"""Which slices of a DICOM series are one volume: by their tags, or refused with the tags that tie.

Voxel (0, 0, k) of volume v is 100 v + k, so a slice of another volume or place shows.
"""

import re

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from swiftmedsam.scans.formats.by_suffix import read_scan
from swiftmedsam.scans.scan import ScanError
from tests.helpers.dicom import ENHANCED_MR, ROUNDED, image, place_tags
from tests.helpers.scans import ALIGNED, itk_affine

SLICES = 5


def plane(volume, k):
    return np.full((5, 7), 100 * volume + k, np.int16)


def saved(folder, slices, instance_numbers=True):
    """Write datasets under names, and with instance numbers, that say nothing of their order."""
    folder.mkdir(exist_ok=True)
    names = np.random.default_rng(3).permutation(len(slices))
    for name, dataset in zip(names.tolist(), slices, strict=True):
        if instance_numbers:
            dataset.InstanceNumber = name + 1
        dataset.save_as(folder / f"IM{name:04d}", enforce_file_format=True)
    return folder


def write(folder, tags_of, volumes, slices=SLICES):
    """Write `volumes` x `slices` images of one series; `tags_of(volume, k)` are their own tags."""
    made = []
    for volume in range(volumes):
        for k in range(slices):
            tags = {"Modality": "MR", **place_tags(ALIGNED, k)}
            dataset = image(plane(volume, k), **tags)
            for keyword, value in tags_of(volume, k).items():
                if isinstance(keyword, tuple):  # group, element, creator
                    group, element, creator, vr = keyword
                    block = dataset.private_block(group, creator, create=True)
                    block.add_new(element, vr, value)
                elif value is None:
                    delattr(dataset, keyword)
                else:
                    setattr(dataset, keyword, value)
            made.append(dataset)
    return saved(folder, made)


def first_voxels(scan):
    return scan.voxels[0, 0].tolist()


def said(path, volume=None, series=None):
    with pytest.raises(ScanError) as raised:
        read_scan(path, volume, series)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def clock(seconds):
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.50"


ORDER = (3, 0, 4, 1, 2)  # in which the slices of a volume are acquired
# Two or more volumes by tags of volume v and slice k: how many, tags, and what a message calls them
APART = {
    "trigger times": (2, lambda v, k: {"TriggerTime": 400 * v}, "TriggerTime 400"),
    "trigger times of a heart that beats unevenly": (
        12, lambda v, k: {"TriggerTime": 5 + k + v * (40 + 3 * k)}, "TriggerTime 45"
    ),
    "times of acquisition, slice after slice": (
        2, lambda v, k: {"AcquisitionTime": clock(36000 + 20 * v + ORDER[k])},
        "AcquisitionTime 100020.50",
    ),
    "times of acquisition over midnight": (
        2, lambda v, k: {
            "AcquisitionDate": f"2024010{1 + (86390 + 8 * v + ORDER[k]) // 86400}",
            "AcquisitionTime": clock((86390 + 8 * v + ORDER[k]) % 86400),
        }, "AcquisitionTime 235958.50",
    ),
    "date and time in one tag": (
        2, lambda v, k: {"AcquisitionDateTime": f"20240101{clock(36000 + 20 * v + k)}+0100"},
        "AcquisitionTime 100020.50",
    ),
    "times of content": (2, lambda v, k: {"ContentTime": clock(60 * v)}, "ContentTime 000100.50"),
    "echo times": (2, lambda v, k: {"EchoTime": 2.46 + 2.46 * v}, "EchoTime 4.92"),
    "echo numbers": (2, lambda v, k: {"EchoNumbers": v + 1}, "EchoNumbers 2"),
    "b-values": (2, lambda v, k: {"DiffusionBValue": 1000.0 * v}, "DiffusionBValue 1000"),
    "b-values, of which 0 is not said": (
        2, lambda v, k: {"DiffusionBValue": 1000.0} if v else {}, "DiffusionBValue 1000"
    ),
    "directions of one b-value": (
        3, lambda v, k: {"DiffusionBValue": 1000.0,
                         "DiffusionGradientOrientation": np.eye(3)[2 - v].tolist()},
        "DiffusionGradientOrientation 0 1 0",
    ),
    "b-values and repetitions": (
        4, lambda v, k: {"DiffusionBValue": 500.0 * (v // 2), "AcquisitionNumber": 1 + v % 2},
        "DiffusionBValue 0, AcquisitionNumber 2",
    ),
    "magnitude and phase": (
        2, lambda v, k: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[v], "NONE"]},
        r"ImageType ORIGINAL\PRIMARY\P\NONE",
    ),
    "temporal positions": (
        2, lambda v, k: {"TemporalPositionIdentifier": v + 1}, "TemporalPosition 2"
    ),
    "acquisition numbers": (2, lambda v, k: {"AcquisitionNumber": v + 4}, "AcquisitionNumber 5"),
    "inversion times": (3, lambda v, k: {"InversionTime": 50 + 200 * v}, "InversionTime 250"),
    "flip angles": (2, lambda v, k: {"FlipAngle": 3 + 12 * v}, "FlipAngle 15"),
    "frames of a dynamic PET": (
        3, lambda v, k: {"Modality": "PT", "FrameReferenceTime": 1000.0 * v + 300}, "FrameRef"
    ),
    "b-values of Siemens": (
        2, lambda v, k: {(0x19, 0x0C, "SIEMENS MR HEADER", "IS"): 800 * v}, "(0019,xx0c) of SIEME"
    ),
    "b-values of GE": (
        2, lambda v, k: {(0x43, 0x39, "GEMS_PARM_01", "IS"): [800 * v, 8, 0, 0]}, "(0043,xx39) of"
    ),
    "phases of Philips": (
        2, lambda v, k: {(0x2005, 0x11, "Philips MR Imaging DD 001", "CS"): "MP"[v]}, "(2005,xx11)"
    ),
    "frames of reference": (
        2, lambda v, k: {"FrameOfReferenceUID": f"1.2.{v + 1}"}, "FrameOfReferenceUID 1.2.2"
    ),
    "studies": (2, lambda v, k: {"StudyInstanceUID": f"1.2.{v + 1}"}, "StudyInstanceUID 1.2.2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", APART)
def test_tags_say_which_slices_are_one_volume(kind, tmp_path):
    volumes, tags_of, label = APART[kind]
    folder = write(tmp_path / "mr", tags_of, volumes)
    message = said(folder)
    assert message.startswith(
        f"mr: has {volumes} volumes, --volume should name one of 0..{volumes - 1}: 0 ("
    )
    second = message.split("; ")[1]
    assert re.fullmatch(rf"1 \(.*{re.escape(label)}.*, {SLICES} slices\)", second), second
    for volume in range(volumes):
        scan = read_scan(folder, volume)
        assert first_voxels(scan) == [100 * volume + k for k in range(SLICES)]
        # GDCM, asked of these files alone, puts them in the same order at the same places
        alone = tmp_path / f"{volume}"
        alone.mkdir()
        for file, _ in scan.sources:
            (alone / file.name).symlink_to(file)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(alone)))
        theirs = reader.Execute()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).T, scan.voxels)
        np.testing.assert_allclose(itk_affine(theirs), scan.affine, atol=ROUNDED)
    assert said(folder, volumes).startswith(f"mr: --volume should be one of 0..{volumes - 1}, got")


TOLD = r"^mr: 2 slices lie at each of 5 positions, and no tag says which belong together: "
# Tags of volume v and slice k that say nothing, or not the same, of what belongs together.
TIES = {
    "instance numbers alone": (
        lambda v, k: {},
        TOLD + "times, trigger and echo times, b-values and image types are missing$",
    ),
    "tags that are the same": (
        lambda v, k: {"EchoTime": 30, "ImageType": ["ORIGINAL", "PRIMARY"], "SliceThickness": 3,
                      "AcquisitionTime": "101010"},
        TOLD + "ImageType, EchoTime, SliceThickness, AcquisitionTime are the same in all$",
    ),
    "times without a pattern": (
        lambda v, k: {"ContentTime": clock([0, 2, 3, 9, 7, 5, 8, 1, 4, 6][2 * k + v])},
        TOLD + "ContentTime differ without a pattern$",
    ),
    "two trigger times that overlap": (
        lambda v, k: {"TriggerTime": 500 + (-1) ** (v + k) + 10 * k},
        TOLD + "TriggerTime differ without a pattern$",
    ),
    "times of day without a date, over midnight": (
        lambda v, k: {"AcquisitionTime": clock((86392 + 9 * v + ORDER[k]) % 86400)},
        TOLD + "AcquisitionTime differ without a pattern$",
    ),
    "two tags that contradict each other": (
        lambda v, k: {"TriggerTime": 400 * v, "AcquisitionNumber": 1 + (v + k) % 2},
        "^mr: several slices lie at each position, and TriggerTime and AcquisitionNumber say "
        "different things of which belong together$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIES)
def test_where_nothing_tells_slices_apart_the_tags_that_tie_are_named(kind, tmp_path):
    tags_of, message = TIES[kind]
    folder = write(tmp_path / "mr", tags_of, 2)
    for volume in (None, 0, 1):
        assert re.search(message, said(folder, volume))


def test_what_ties_in_one_volume_does_not_stop_another(tmp_path):
    """Two images of b = 0 lie at each position, and nothing tells them apart."""
    folder = write(tmp_path / "mr", lambda v, k: {"DiffusionBValue": 0.0 if v < 2 else 800.0}, 3)
    assert said(folder) == (
        "mr: has 2 volumes, --volume should name one of 0..1: 0 (DiffusionBValue 0, 10 slices); "
        "1 (DiffusionBValue 800, 5 slices)"
    )
    assert said(folder, 0).startswith("mr: 2 slices lie at each of 5 positions, and no tag says")
    assert first_voxels(read_scan(folder, 1)) == [200, 201, 202, 203, 204]


@pytest.mark.parametrize("tag", ["ImageType", "EchoTime", "DiffusionBValue", "StudyInstanceUID"])
def test_slices_of_two_kinds_are_never_one_volume(tag, tmp_path):
    """Every second one is of the other kind; together they would be an even stack."""
    values = {"ImageType": ["M", "P"], "EchoTime": [10, 20], "DiffusionBValue": [0.0, 1000.0],
              "StudyInstanceUID": ["1.2.3", "1.2.4"]}  # fmt: skip
    folder = write(tmp_path / "mr", lambda v, k: {tag: values[tag][k % 2]}, 1, slices=6)
    assert re.match(rf"mr: has 2 volumes, .*: 0 \({tag} .*, 3 slices\); 1 \({tag}", said(folder))
    assert first_voxels(read_scan(folder, 0)) == [0, 2, 4]
    assert first_voxels(read_scan(folder, 1)) == [1, 3, 5]


def test_times_and_numbers_may_differ_within_a_volume(tmp_path):
    folder = write(tmp_path / "mr", lambda v, k: {
        "AcquisitionTime": clock(100 * ORDER[k]), "AcquisitionNumber": 1 + k // 2,
        "TriggerTime": 7 * k, "SliceLocation": k, "WindowCenter": k,
    }, 1)  # fmt: skip
    assert first_voxels(read_scan(folder)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("TemporalPositionIdentifier", (1, 2)), ("InversionTime", ("100", "900")),
        ("FlipAngle", ("5", "30")), ("KVP", ("80", "140")), ("ConvolutionKernel", ("B30", "B70")),
        ("ProtocolName", ("a", "b")), ("SeriesDescription", ("a", "b")),
        ("ContrastBolusAgent", (None, "b")),
    ],
)  # fmt: skip
def test_a_mixture_that_lies_as_one_volume_is_said(tag, values, tmp_path, caplog):
    """Two acquisitions whose slices lie between each other's."""
    folder = write(
        tmp_path / "mr",
        lambda volume, k: {tag: values[k % 2]} if values[k % 2] is not None else {}, 1,
    )  # fmt: skip
    assert first_voxels(read_scan(folder)) == list(range(SLICES))
    name = tag.removesuffix("Identifier")
    first = f"no {name}" if values[0] is None else f"{name} {values[0]}"
    assert caplog.messages == [
        f"mr: the slices of the volume differ in {first}, {name} {values[1]}: "
        "they may be of several volumes"
    ]


@pytest.mark.parametrize("tag", ["NumberOfSlices", "ImagesInAcquisition"])
def test_fewer_slices_than_are_declared_are_said(tag, tmp_path, caplog):
    for declared in (SLICES - 1, SLICES, SLICES + 2):
        read_scan(write(tmp_path / "mr", lambda volume, k: {tag: declared}, 1))  # noqa: B023
    assert caplog.messages == [
        f"mr: {SLICES} slices, {tag} says {SLICES + 2}: some may be missing at the ends"
    ]


def test_phases_may_cover_more_and_less(tmp_path):
    """A late phase of a CT begins and ends elsewhere."""
    made = [
        image(plane(v, k), AcquisitionNumber=v + 1, **place_tags(ALIGNED, k))
        for v, places in enumerate((range(8), range(2, 7)))
        for k in places
    ]
    folder = saved(tmp_path / "ct", made)
    assert said(folder).endswith("0 (AcquisitionNumber 1, 8 slices); "
                                 "1 (AcquisitionNumber 2, 5 slices)")  # fmt: skip
    assert first_voxels(read_scan(folder, 0)) == list(range(8))
    assert first_voxels(read_scan(folder, 1)) == list(range(102, 107))
    np.testing.assert_allclose(
        read_scan(folder, 1).affine[:3, 3], (ALIGNED @ [0, 0, 2, 1])[:3], atol=ROUNDED
    )


@pytest.mark.parametrize("clocks", [False, True])
def test_slices_that_are_all_at_one_position_are_said_to_be(clocks, tmp_path):
    """As where an anonymiser sets positions to 0."""
    folder = write(tmp_path / "mr", lambda v, k: {
        "ImagePositionPatient": [0, 0, 0], **({"ContentTime": clock(k)} if clocks else {})
    }, 1)  # fmt: skip
    message = said(folder)
    assert message.startswith("mr: all 5 slices are at the same position, ")
    assert "volumes" not in message
    if clocks:
        assert first_voxels(read_scan(folder, 3)) == [3]


def test_a_message_lists_a_few_of_many_volumes(tmp_path):
    folder = write(tmp_path / "mr", lambda v, k: {"TemporalPositionIdentifier": v + 1}, 11)
    message = said(folder)
    assert "0..10: 0 (TemporalPosition 1, 5 slices); 1 (" in message
    assert message.endswith("7 (TemporalPosition 8, 5 slices); 3 more")


def test_slices_of_each_volume_are_rescaled_by_their_own_slope(tmp_path):
    folder = write(tmp_path / "pt", lambda v, k: {
        "Modality": "PT", "FrameReferenceTime": 1000.0 * v,
        "RescaleSlope": str(1 + k + v), "RescaleIntercept": "0",
    }, 2)  # fmt: skip
    for v in (0, 1):
        wanted = [(100 * v + k) * (1 + k + v) for k in range(SLICES)]
        assert first_voxels(read_scan(folder, v)) == wanted


# --- enhanced files: the frames of all volumes in one, in any order


def enhanced(path, tags_of, volumes, dimensions=(), affine=ALIGNED):
    """Write one file; `tags_of(v, k)` are {sequence: {keyword: value}} of the groups of a frame."""
    order = np.random.default_rng(5).permutation(volumes * SLICES).tolist()
    made = [divmod(at, SLICES) for at in order]
    dataset = image(np.stack([plane(*one) for one in made]), ENHANCED_MR, Modality="MR")
    dataset.PerFrameFunctionalGroupsSequence = []
    for v, k in made:
        group = Dataset()
        tags = place_tags(affine, k)
        for sequence, values in {
            "PixelMeasuresSequence": {"PixelSpacing": tags["PixelSpacing"], "SliceThickness": "3"},
            "PlanePositionSequence": {"ImagePositionPatient": tags["ImagePositionPatient"]},
            "PlaneOrientationSequence": {
                "ImageOrientationPatient": tags["ImageOrientationPatient"]
            },
            **tags_of(v, k),
        }.items():
            item = Dataset()
            for keyword, value in values.items():
                if isinstance(value, dict):
                    inner = Dataset()
                    for inner_keyword, inner_value in value.items():
                        setattr(inner, inner_keyword, inner_value)
                    value = [inner]
                setattr(item, keyword, value)
            setattr(group, sequence, [item])
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    dataset.DimensionIndexSequence = []
    for keyword in dimensions:
        item = Dataset()
        item.DimensionIndexPointer = keyword
        dataset.DimensionIndexSequence.append(item)
    dataset.save_as(path, enforce_file_format=True)
    return path


FRAMES = {
    "stacks": (lambda v, k: {"FrameContentSequence": {"StackID": "ab"[v]}}, "StackID b"),
    "temporal positions": (
        lambda v, k: {"FrameContentSequence": {"TemporalPositionIndex": v + 1}},
        "TemporalPosition 2",
    ),
    "dimensions": (
        lambda v, k: {"FrameContentSequence": {"DimensionIndexValues": [k + 1, v + 1]}},
        "DimensionIndexValues of ContrastBolusAgentNumber 2",
    ),
    "times of frames": (
        lambda v, k: {"FrameContentSequence": {
            "FrameAcquisitionDateTime": f"20240101{clock(40000 + 9 * v + k)}"}},
        "AcquisitionTime 110649.50",
    ),
    "echo times": (
        lambda v, k: {"MREchoSequence": {"EffectiveEchoTime": 5.0 + v}}, "EchoTime 6"
    ),
    "b-values": (
        lambda v, k: {"MRDiffusionSequence": {"DiffusionBValue": 1000.0 * v}},
        "DiffusionBValue 1000",
    ),
    "directions": (
        lambda v, k: {"MRDiffusionSequence": {"DiffusionBValue": 1000.0,
            "DiffusionGradientDirectionSequence": {
                "DiffusionGradientOrientation": np.eye(3)[1 - v].tolist()}}},
        "DiffusionGradientOrientation 1 0 0",
    ),
    "trigger delays": (
        lambda v, k: {"CardiacSynchronizationSequence": {
            "NominalCardiacTriggerDelayTime": 33.0 * v}},
        "NominalCardiacTriggerDelayTime 33",
    ),
    "types of frames": (
        lambda v, k: {"MRImageFrameTypeSequence": {
            "FrameType": ["ORIGINAL", "PRIMARY", ["DIFFUSION", "PHASE MAP"][v], "NONE"]}},
        "ImageType ORIGINAL\\PRIMARY\\PHASE MAP\\NONE",
    ),
    "components": (
        lambda v, k: {"MRImageFrameTypeSequence": {
            "ComplexImageComponent": ["MAGNITUDE", "PHASE"][v]}},
        "ComplexImageComponent PHASE",
    ),
}  # fmt: skip
INDICES = ("InStackPositionNumber", "ContrastBolusAgentNumber")


@pytest.mark.parametrize("kind", FRAMES)
def test_functional_groups_say_which_frames_are_one_volume(kind, tmp_path):
    tags_of, label = FRAMES[kind]
    dimensions = INDICES if kind == "dimensions" else ()
    path = enhanced(tmp_path / "a.dcm", tags_of, 2, dimensions)
    message = said(path)
    assert message.startswith("a.dcm: has 2 volumes, --volume should name one of 0..1: 0 (")
    assert message.endswith(f"1 ({label}, 5 slices)")
    for v in (0, 1):
        scan = read_scan(path, v)
        assert first_voxels(scan) == [100 * v + k for k in range(SLICES)]
        np.testing.assert_allclose(scan.affine, ALIGNED, atol=ROUNDED)


def test_frames_that_nothing_tells_apart_are_refused(tmp_path):
    path = enhanced(tmp_path / "a.dcm", lambda v, k: {
        "FrameContentSequence": {"DimensionIndexValues": [k + 1, 1]}
    }, 2, INDICES)  # fmt: skip
    assert said(path) == (
        "a.dcm: 2 slices lie at each of 5 positions, and no tag says which belong together: "
        "SliceThickness, DimensionIndexValues of ContrastBolusAgentNumber are the same in all"
    )


def test_a_file_with_fewer_groups_than_frames_is_refused(tmp_path):
    path = enhanced(tmp_path / "a.dcm", lambda v, k: {}, 1)
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[4]
    dataset.save_as(path)
    assert said(path) == ("a.dcm: PerFrameFunctionalGroupsSequence should have 5 items, found 4")
