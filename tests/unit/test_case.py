"""The border: what is a case, what is refused and in which words, and files whole or not at all."""

import logging
import os
import random
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from swiftmedsam import CaseError, make_case, read_case, write_labels
from swiftmedsam.display import Window
from swiftmedsam.messages import printable
from swiftmedsam.npz import MAX_MEMBER_BYTES, is_case_name
from swiftmedsam.result import label_dtype
from tests.helpers import (
    BoxesAsMasks,
    image_case,
    labels_of,
    make_case_file,
    picture,
    read_labels,
    volume_case,
)
from tests.helpers.npz import (
    IMAGE,
    REFUSAL_BYTES,
    VOLUME,
    header_of,
    lock,
    members_with,
    npy,
    npy_with,
    zip_file,
)


def refusal(path, *words):
    """The message with which a file is refused: one line, the file's name first."""
    with pytest.raises(CaseError) as caught:
        read_case(path)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert len(message.splitlines()) == 1, message
    assert message.isprintable(), message
    for word in words:
        assert word in message
    return message


# What is a case


def test_an_image_is_read_as_it_is_stored(tmp_path):
    case = read_case(make_case_file(tmp_path, IMAGE))
    assert (case.name, case.is_volume, case.label_shape) == (IMAGE, False, (48, 80))
    assert (case.image.dtype, case.boxes.dtype) == (np.uint8, np.float64)
    np.testing.assert_array_equal(case.image, image_case()["imgs"])
    np.testing.assert_array_equal(case.boxes, image_case()["boxes"])


def test_a_volume_is_read_as_it_is_stored_and_spacing_is_not_needed(tmp_path):
    case = read_case(make_case_file(tmp_path, VOLUME, spacing=None))
    assert (case.name, case.is_volume, case.label_shape) == (VOLUME, True, (6, 40, 64))
    np.testing.assert_array_equal(case.image, volume_case()["imgs"])
    np.testing.assert_array_equal(case.boxes, volume_case()["boxes"])


@pytest.mark.parametrize(
    "name",
    ["2DBox_US_05.npz", "3DBox_CT_1.npz", "2DBox_X-Ray_a b.npz", "2DBox_Fundus.npz", "2DBox_.npz"],
)
def test_names_of_cases(tmp_path, name):
    assert is_case_name(name)
    read_case(make_case_file(tmp_path, name))


@pytest.mark.parametrize(
    "name", ["4DBox_US_1.npz", "2Dbox_US_1.npz", "2DBox_US_1.npz.bak", "a2DBox_US_1.npz", "1.npz"]
)
def test_names_of_other_files(tmp_path, name):
    assert not is_case_name(name)
    refusal(make_case_file(tmp_path, name), "expected a name like 2DBox_*.npz or 3DBox_*.npz")


@pytest.mark.parametrize("shape", [(48, 80), (48, 80, 1), (48, 80, 3), (48, 80, 4)])
def test_images_have_one_three_or_four_channels_and_alpha_is_dropped(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    case = read_case(make_case_file(tmp_path, IMAGE, imgs=image))
    wanted = image[:, :, 0] if shape[2:] == (1,) else image[..., :3]
    np.testing.assert_array_equal(case.image, image if len(shape) == 2 else wanted)
    assert case.label_shape == (48, 80)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, ">u2", ">f8", "<i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_real_dtype_in_any_order_is_the_same_case(tmp_path, dtype, order):
    arrays = volume_case()
    stored = np.asarray(arrays["imgs"].astype(dtype), order=order)
    boxes = np.asarray(arrays["boxes"].astype(dtype), order=order)
    case = read_case(make_case_file(tmp_path, VOLUME, imgs=stored, boxes=boxes))
    np.testing.assert_array_equal(case.image, arrays["imgs"])
    np.testing.assert_array_equal(case.boxes, arrays["boxes"])


def test_the_modality_of_the_name_decides_on_raw_values(tmp_path):
    raw = np.array([[-1000, 40, 240, 3000]] * 3, np.int16)
    box = np.array([[0, 0, 1, 1]])
    ct = read_case(make_case_file(tmp_path, "2DBox_CT_1.npz", imgs=raw, boxes=box))
    np.testing.assert_array_equal(ct.image[0, [0, 2, 3]], [0, 255, 255])
    path = make_case_file(tmp_path, "2DBox_CT_2.npz", imgs=raw, boxes=box)
    wide = read_case(path, Window(1000, 4000))
    np.testing.assert_array_equal(wide.image[0, [0, 3]], [0, 255])
    assert wide.image[0, 2] == 79  # (240 + 1000) / 4000 * 255


def test_an_unknown_modality_is_said_and_segmented(tmp_path, caplog):
    read_case(make_case_file(tmp_path, "2DBox_Sonar_1.npz"))
    assert caplog.messages == [
        "2DBox_Sonar_1.npz: unknown modality 'Sonar', the general rule is used"
    ]


@pytest.mark.parametrize(("name", "width"), [(IMAGE, 4), (VOLUME, 6)])
def test_no_boxes_are_no_objects(tmp_path, name, width):
    for boxes in (np.zeros((0, width)), np.zeros((0,)), np.zeros((0, 4), np.int32)):
        case = read_case(make_case_file(tmp_path, name, boxes=boxes))
        assert case.boxes.shape == (0, width)
        labels = labels_of(case, BoxesAsMasks())
        assert labels.shape == case.label_shape
        assert not labels.any()


def test_arrays_make_a_case_without_a_file():
    arrays = volume_case()
    case = make_case(arrays["imgs"].tolist(), arrays["boxes"].tolist(), modality="MR")
    assert case.is_volume
    assert not make_case(picture(5, 7), [[0, 0, 3, 3]], modality="MR").is_volume
    with pytest.raises(CaseError, match=r"^array: 'imgs' should be \(D, H, W\), got \(5, 7\)$"):
        make_case(picture(5, 7), [[0, 0, 0, 3, 3, 3]])


# What is refused


@pytest.mark.parametrize("key", ["imgs", "boxes"])
def test_a_missing_key_is_named_with_those_that_are_there(tmp_path, key):
    path = make_case_file(tmp_path, VOLUME, **{key: None})
    rest = sorted({"imgs", "boxes", "spacing"} - {key})
    refusal(path, f"key '{key}' is missing, found {rest}")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        (IMAGE, (80,), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (IMAGE, (48, 80, 2), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (IMAGE, (48, 80, 5), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (IMAGE, (2, 48, 80, 3), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (IMAGE, (), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (IMAGE, (0, 80), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (IMAGE, (48, 0, 3), "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"),
        (VOLUME, (40, 64), "(D, H, W)"),
        (VOLUME, (6, 40, 64, 3), "(D, H, W)"),
        (VOLUME, (0, 40, 64), "(D, H, W)"),
        (VOLUME, (6, 40, 0), "(D, H, W)"),
    ],
)
def test_an_image_of_the_wrong_shape_is_refused(tmp_path, name, shape, wanted):
    path = make_case_file(tmp_path, name, imgs=np.zeros(shape, np.uint8))
    refusal(path, f"'imgs' should be {wanted}, got {shape}")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        (IMAGE, (4,), "(N, 4) for an image"),
        (IMAGE, (2, 6), "(N, 4) for an image"),
        (IMAGE, (2, 5), "(N, 4) for an image"),
        (IMAGE, (1, 1, 4), "(N, 4) for an image"),
        (IMAGE, (), "(N, 4) for an image"),
        (VOLUME, (6,), "(N, 6) for a volume"),
        (VOLUME, (2, 4), "(N, 6) for a volume"),
    ],
)
def test_boxes_of_the_wrong_shape_are_refused(tmp_path, name, shape, wanted):
    path = make_case_file(tmp_path, name, boxes=np.ones(shape))
    refusal(path, f"'boxes' should be {wanted}, got {shape}")


@pytest.mark.parametrize("key", ["imgs", "boxes"])
@pytest.mark.parametrize("dtype", ["c8", "c16", "S3", "U3", "M8[s]", "m8[s]", "V4", "u1,u1"])
def test_what_is_not_a_real_number_is_refused(tmp_path, key, dtype):
    path = make_case_file(tmp_path, IMAGE, **{key: np.zeros((4, 4), dtype)})
    refusal(path, f"'{key}' should hold real numbers, got dtype {np.dtype(dtype)}")


class Unpickled:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["imgs", "boxes"])
def test_objects_are_refused_and_never_unpickled(tmp_path, key):
    marker = tmp_path / "unpickled"
    path = make_case_file(tmp_path, IMAGE, **{key: np.array([[Unpickled(marker)]], object)})
    refusal(path, f"'{key}' should hold real numbers, got dtype object")
    assert not marker.exists()
    with np.load(path, allow_pickle=True) as archive:
        archive[key]
    assert marker.exists()  # else the pickle was harmless and this test is worthless


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    image = image_case()["imgs"].astype(np.float32)
    image[3, 4, 1] = value
    refusal(make_case_file(tmp_path, IMAGE, imgs=image), "'imgs' should be finite")
    boxes = np.array([[1, 2, 3, value]])
    refusal(make_case_file(tmp_path, IMAGE, boxes=boxes), "'boxes' should be finite")


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("imgs", 1e300, "should be within 1e+30 of 0, found 0..1e+300"),
        ("imgs", -3e38, "should be within 1e+30 of 0, found -3e+38..0"),
        ("imgs", np.longdouble("1e4000"), "should be finite"),
        ("boxes", np.longdouble("1e4000"), "should be finite"),
    ],
)
def test_numbers_that_cannot_be_reckoned_with_are_refused(tmp_path, key, value, problem):
    array = np.zeros((4, 4), np.asarray(value).dtype)
    array[2, 3] = value
    refusal(make_case_file(tmp_path, IMAGE, **{key: array}), f"'{key}' {problem}")


@pytest.mark.parametrize(
    ("name", "box", "problem"),
    [
        (IMAGE, [9, 5, 8, 7], "has a minimum above its maximum"),
        (IMAGE, [5, 9, 7, 8], "has a minimum above its maximum"),
        (IMAGE, [80, 5, 90, 7], "lies outside the image of (48, 80)"),
        (IMAGE, [5, 48, 7, 60], "lies outside the image of (48, 80)"),
        (IMAGE, [-9, 5, -1, 7], "lies outside the image of (48, 80)"),
        (IMAGE, [5, -9, 7, -1], "lies outside the image of (48, 80)"),
        (VOLUME, [1, 1, 4, 2, 2, 3], "has a minimum above its maximum"),
        (VOLUME, [1, 1, 6, 2, 2, 6], "lies outside the image of (6, 40, 64)"),
        (VOLUME, [1, 1, -2, 2, 2, -1], "lies outside the image of (6, 40, 64)"),
        (VOLUME, [64, 1, 0, 70, 2, 5], "lies outside the image of (6, 40, 64)"),
        (VOLUME, [1, 40, 0, 2, 50, 5], "lies outside the image of (6, 40, 64)"),
    ],
)
def test_an_impossible_box_is_named_by_its_row(tmp_path, name, box, problem):
    good = [1, 1, 4, 4] if name == IMAGE else [1, 1, 0, 4, 4, 5]
    path = make_case_file(tmp_path, name, boxes=np.array([good, box]))
    refusal(path, f"'boxes' row 1 {problem}: {box}")


def test_boxes_that_reach_outside_are_cut_and_said(tmp_path, caplog):
    boxes = np.array([[-3, 5, 90, 100], [1, 2, 80, 48]])
    case = read_case(make_case_file(tmp_path, IMAGE, boxes=boxes))
    np.testing.assert_array_equal(case.boxes, [[0, 5, 80, 48], [1, 2, 80, 48]])
    assert caplog.messages == [f"{IMAGE}: 1 boxes reached outside the image and were cut to it"]


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [79, 47, 79, 47], [79.5, 0, 80, 0.5]])
def test_a_box_of_one_pixel_in_a_corner_is_a_box(tmp_path, box, caplog):
    case = read_case(make_case_file(tmp_path, IMAGE, boxes=np.array([box])))
    np.testing.assert_array_equal(case.boxes, [box])
    assert not caplog.messages


def test_a_volumes_box_ends_at_a_slice_that_exists(tmp_path):
    boxes = np.array([[1, 2, -3, 64, 40, 99], [1, 2, 1.9, 3, 4, 4.9], [1, 2, 5, 3, 4, 6]])
    case = read_case(make_case_file(tmp_path, VOLUME, boxes=boxes))
    np.testing.assert_array_equal(
        case.boxes, [[1, 2, 0, 64, 40, 5], [1, 2, 1, 3, 4, 4], [1, 2, 5, 3, 4, 5]]
    )


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / IMAGE
    refusal(path, "not a readable npz file", "No such file")
    path.mkdir()
    refusal(path, "not a readable npz file", "directory")
    path.rmdir()
    for content in (b"", b"PK", b"no zip at all" * 100, npy(image_case()["imgs"])):
        path.write_bytes(content)
        refusal(path, "not a readable npz file")


def test_a_file_is_refused_wherever_it_ends(tmp_path):
    path = make_case_file(tmp_path, IMAGE)
    whole = path.read_bytes()
    for size in range(0, len(whole), 61):
        path.write_bytes(whole[:size])
        refusal(path)


def test_a_member_that_ends_early_is_refused(tmp_path):
    path = zip_file(tmp_path, members_with(npy(image_case()["imgs"])[:-5]))
    refusal(path, "'imgs' ends before its 11520 bytes")
    refusal(zip_file(tmp_path, members_with(b"")), "'imgs' has a broken npy header")
    refusal(zip_file(tmp_path, members_with(b"\x93NUMPY\x01")), "'imgs' has a broken npy header")


def test_an_unknown_npy_format_is_refused(tmp_path):
    for version in ((3, 0), (9, 1)):
        path = zip_file(tmp_path, members_with(npy_with(header_of((8, 8)), version)))
        refusal(path, f"'imgs' should be npy format 1 or 2, got {version}")
    assert read_case(
        zip_file(tmp_path, members_with(npy_with(header_of((8, 8)), (2, 0))))
    ).label_shape == (8, 8)


@pytest.mark.parametrize("shape", [(1 << 20, 1 << 20), (MAX_MEMBER_BYTES + 1, 1), (10**30, 10**30)])
def test_a_huge_array_is_refused_before_it_is_allocated(tmp_path, shape):
    path = zip_file(tmp_path, members_with(npy_with(header_of(shape))))
    tracemalloc.start()
    try:
        refusal(path, f"'imgs' declares {shape[0] * shape[1]} bytes, more than the limit")
        assert tracemalloc.get_traced_memory()[1] < REFUSAL_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "no dictionary",
        "[1, 2]",
        "{'descr': '|u1'}",
        header_of("(2, 3)", descr="'zzz'"),
        header_of("(2, 3)", descr="None"),
        header_of("'2, 3'"),
        header_of("(-2, 3)"),
        header_of("(-2, -3)"),
        header_of("(2.0, 3)"),
        header_of("(1,) * 3"),
        header_of("(" + "1, " * 100 + ")"),
        header_of("(0, 1 << 62)"),
        header_of("(2, 3)", descr="'2 \x9b31m'"),  # numpy quotes it, and a terminal obeys it
        header_of(f"(0, {2**62})"),
        "-" * 9000 + "1",  # MemoryError
        "x" * 20_000,  # numpy explains itself in several lines
        "{'descr': ",  # numpy: tokenize.TokenError
        "(" * 300,
        "{[]: 1}",  # TypeError
        header_of("(True, 3)"),
        header_of(f"(0, {2**70})"),  # OverflowError
    ],
    ids=lambda header: header.split("'shape': ")[-1][:20].strip() or "nothing",
)
def test_a_broken_header_is_refused_in_one_line(tmp_path, header):
    refusal(zip_file(tmp_path, members_with(npy_with(header, data=b""))), "'imgs'")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_is_refused_or_harmless_whatever_byte_it_hits(tmp_path, method):
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    path = zip_file(tmp_path, members_with(npy(image)), method=method)
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            case = read_case(path)
        except CaseError as error:
            assert len(str(error).splitlines()) == 1, error
        else:
            np.testing.assert_array_equal(case.image, image)


def test_a_name_of_a_member_that_is_no_text_is_refused(tmp_path):
    path = zip_file(tmp_path, {**members_with(npy(np.ones((5, 6)))), "é.npy": b""})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    refusal(path, "not a readable npz file")


@pytest.mark.parametrize("key", ["imgs", "boxes"])
def test_a_header_as_long_as_a_bomb_is_refused_before_it_is_read(tmp_path, key):
    bomb = b"\x93NUMPY\x02\0" + struct.pack("<I", 2 * REFUSAL_BYTES) + bytes(2 * REFUSAL_BYTES)
    path = zip_file(tmp_path, {**members_with(npy(np.ones((5, 6)))), f"{key}.npy": bomb})
    tracemalloc.start()
    try:
        refusal(path, f"'{key}' has a broken npy header")
        assert tracemalloc.get_traced_memory()[1] < REFUSAL_BYTES
    finally:
        tracemalloc.stop()


def test_an_array_that_is_not_there_is_refused_before_it_is_allocated(tmp_path):
    """Of 1 GiB, so within the limit, but the archive holds 64 bytes of it."""
    path = zip_file(tmp_path, members_with(npy_with(header_of((1 << 15, 1 << 15)))))
    tracemalloc.start()
    try:
        refusal(path, "'imgs' ends before its 1073741824 bytes, found 64")
        assert tracemalloc.get_traced_memory()[1] < REFUSAL_BYTES
    finally:
        tracemalloc.stop()


def test_what_follows_an_array_is_not_read(tmp_path):
    content = npy(image_case()["imgs"]) + bytes(2 * REFUSAL_BYTES)
    path = zip_file(tmp_path, members_with(content))
    tracemalloc.start()
    try:
        case = read_case(path)
        assert tracemalloc.get_traced_memory()[1] < REFUSAL_BYTES
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(case.image, image_case()["imgs"])


def test_of_many_keys_the_first_are_named(tmp_path):
    message = refusal(zip_file(tmp_path, {f"key{i:04}.npy": b"" for i in range(2000)}))
    assert f"{IMAGE}: key 'imgs' is missing, found ['key0000', 'key0001', " in message
    assert message.endswith("...")
    assert len(message) < 300


def test_a_name_is_shown_in_one_line(tmp_path):
    name = "2DBox_\x1b_a\nb é'\".npz"
    path = make_case_file(tmp_path, name)
    assert read_case(path).name == "2DBox_\\x1b_a\\nb é'\".npz"
    path.write_bytes(b"")
    with pytest.raises(CaseError) as caught:
        read_case(path)
    assert str(caught.value).startswith("2DBox_\\x1b_a\\nb é'\".npz: not a readable npz file")
    assert printable("\udcff") == "\\udcff"  # a byte that is no text


def test_a_locked_file_is_refused(tmp_path):
    path = make_case_file(tmp_path, IMAGE)
    lock(path)
    refusal(path, "not a readable npz file", "encrypted")


# What is written


def test_labels_come_back_as_they_were_written(tmp_path):
    for labels in (
        np.arange(35, dtype=np.uint8).reshape(5, 7),
        np.arange(300, dtype=np.uint16).reshape(3, 10, 10),
    ):
        write_labels(tmp_path / IMAGE, labels)
        found = read_labels(tmp_path / IMAGE)
        assert found.dtype == labels.dtype
        np.testing.assert_array_equal(found, labels)
    assert [path.name for path in tmp_path.iterdir()] == [IMAGE]


@pytest.mark.parametrize(
    ("count", "dtype"),
    [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)],
)
def test_labels_take_one_byte_up_to_255_objects_then_two_then_four(count, dtype):
    assert label_dtype(count) == dtype


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o000, 0o666), (0o027, 0o640)])
def test_the_file_is_for_whom_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_labels(tmp_path / IMAGE, np.zeros((2, 3), np.uint8))
        assert os.umask(umask) == umask  # as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / IMAGE).stat().st_mode) == mode


@pytest.mark.parametrize("error", [OSError("disk full"), MemoryError(), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["numpy.savez_compressed", "os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step, error):
    def fail(*_, **__):
        raise error

    write_labels(tmp_path / IMAGE, np.ones((2, 3), np.uint8))
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        for name in (IMAGE, "2DBox_US_2.npz"):
            with pytest.raises(type(error)):
                write_labels(tmp_path / name, np.zeros((2, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == [IMAGE]
    assert read_labels(tmp_path / IMAGE).all()


def test_a_folder_that_cannot_be_written_to_is_an_os_error(tmp_path):
    labels = np.zeros((2, 3), np.uint8)
    with pytest.raises(FileNotFoundError):
        write_labels(tmp_path / "missing" / IMAGE, labels)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_labels(tmp_path / "file" / IMAGE, labels)
    (tmp_path / IMAGE).mkdir()
    with pytest.raises(IsADirectoryError):
        write_labels(tmp_path / IMAGE, labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == [IMAGE, "file"]


def test_reading_says_nothing_when_nothing_is_wrong(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    read_case(make_case_file(tmp_path, IMAGE))
    read_case(make_case_file(tmp_path, VOLUME))
    assert not caplog.messages
