"""The whole program over one folder of bad and odd files; docs/inputs.md is what is tested here."""

import errno
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from swiftmedsam.program.main import main
from tests.helpers import (
    ROOT,
    fresh_logging,
    make_case_file,
    names,
    picture,
    read_labels,
    volume_case,
)
from tests.helpers.npz import header_of, lock, members_with, npy, npy_with, zip_file

GOOD = "2DBox_US_good.npz"
NOT_NPZ = "not a readable npz file"
IMAGE_SHAPES = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def run(inputs, outputs, weights, capsys, *options):
    """Exit status and the lines on stderr."""
    arguments = [str(inputs), str(outputs), "--weights", str(weights), "--threads", "1", "--quiet"]
    with fresh_logging():
        status = main([*arguments, *options])
    return status, capsys.readouterr().err.splitlines()


def arrays(**content):
    """A maker of the helpers' image or volume with other content."""
    return lambda path: make_case_file(path.parent, path.name, **content)


def members(content):
    return lambda path: zip_file(path.parent, content, name=path.name)


def box(*corners):
    return arrays(boxes=np.array([corners]))


def truncated(path):
    whole = make_case_file(path.parent, path.name).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def locked(path):
    lock(make_case_file(path.parent, path.name))


# By the middle of the file's name, which begins 2DBox_US_ unless it says 3DBox: who makes it, and
# its message after that name.
BAD = {
    "truncated": (truncated, f"{NOT_NPZ} (File is not a zip file)"),
    "empty": (
        lambda path: path.touch(), f"{NOT_NPZ} (expected a zip archive, found an empty file)",
    ),
    "text": (lambda path: path.write_bytes(b"text"), f"{NOT_NPZ} (File is not a zip file)"),
    "locked": (
        locked, f"{NOT_NPZ} (File 'imgs.npy' is encrypted, password required for extraction)",
    ),
    "directory": (lambda path: path.mkdir(), f"{NOT_NPZ} (expected a file, found a directory)"),
    "dangling": (
        lambda path: path.symlink_to("nowhere"), f"{NOT_NPZ} (No such file or directory)",
    ),
    "loop": (
        lambda path: path.symlink_to(path.name), f"{NOT_NPZ} (Too many levels of symbolic links)",
    ),
    "fifo": (os.mkfifo, f"{NOT_NPZ} (expected a file, found a fifo, socket or device)"),
    "device": (
        lambda path: path.symlink_to("/dev/zero"),
        f"{NOT_NPZ} (expected a file, found a fifo, socket or device)",
    ),
    "paths": (
        members({"/imgs.npy": npy(np.ones((5, 6))), "../boxes.npy": b""}),
        "key 'imgs' is missing, found ['../boxes', '/imgs']",
    ),
    "missing": (arrays(boxes=None), "key 'boxes' is missing, found ['imgs']"),
    "misspelt": (
        arrays(boxes=None, Boxes=[[1, 1, 4, 4]]), "key 'boxes' is missing, found ['Boxes', 'imgs']",
    ),
    "huge": (
        members(members_with(npy_with(header_of((1 << 20, 1 << 20))))),
        "'imgs' declares 1099511627776 bytes, more than the limit of 4294967296",
    ),
    "short": (
        members(members_with(npy_with(header_of((300, 500))))),
        "'imgs' ends before its 150000 bytes, found 64",
    ),
    "objects": (
        arrays(boxes=np.array([[None]])), "'boxes' should hold real numbers, got dtype object",
    ),
    "complex": (
        arrays(imgs=np.ones((4, 5), np.complex64)),
        "'imgs' should hold real numbers, got dtype complex64",
    ),
    "0d": (arrays(imgs=np.uint8(3)), f"'imgs' should be {IMAGE_SHAPES}, got ()"),
    "1d": (arrays(imgs=np.ones(7)), f"'imgs' should be {IMAGE_SHAPES}, got (7,)"),
    "5d": (
        arrays(imgs=np.ones((1, 2, 3, 4, 5))),
        f"'imgs' should be {IMAGE_SHAPES}, got (1, 2, 3, 4, 5)",
    ),
    "nothing": (arrays(imgs=np.ones((0, 7))), f"'imgs' should be {IMAGE_SHAPES}, got (0, 7)"),
    "nan": (
        arrays(imgs=np.full((4, 5), np.nan)), "'imgs' should be finite, found NaN or infinity",
    ),
    "infinite": (
        arrays(imgs=np.array([[0, -np.inf]])), "'imgs' should be finite, found NaN or infinity",
    ),
    "astronomic": (
        arrays(imgs=np.array([[0, 1e300]])), "'imgs' should be within 1e+30 of 0, found 0..1e+300",
    ),
    "volume": (
        arrays(**volume_case()), f"'imgs' should be {IMAGE_SHAPES}, got (6, 40, 64)",
    ),
    "six": (box(1, 1, 0, 9, 9, 1), "'boxes' should be (N, 4) for an image, got (1, 6)"),
    "3DBox_MR_image": (
        arrays(imgs=picture(40, 64)), "'imgs' should be (D, H, W), got (40, 64)",
    ),
    "3DBox_MR_four": (
        box(1, 1, 9, 9), "'boxes' should be (N, 6) for a volume, got (1, 4)",
    ),
    "box_nan": (box(1, np.nan, 9, 9), "'boxes' should be finite, found NaN or infinity"),
    "inverted": (box(9, 5, 8, 7), "'boxes' row 0 has a minimum above its maximum: [9, 5, 8, 7]"),
    "outside": (
        box(80, 5, 90, 7), "'boxes' row 0 lies outside the image of (48, 80): [80, 5, 90, 7]",
    ),
    "3DBox_MR_z": (
        box(1, 1, 6, 9, 9, 7),
        "'boxes' row 0 lies outside the image of (6, 40, 64): [1, 1, 6, 9, 9, 7]",
    ),
}  # fmt: skip


def name_of(key):
    return f"{key}.npz" if key.startswith("3DBox") else f"2DBox_US_{key}.npz"


def test_every_bad_file_is_one_line_and_no_output_and_the_good_one_is_written(
    inputs, tmp_path, tiny_weights, capsys
):
    for key, (make, _) in BAD.items():
        make(inputs / name_of(key))
    make_case_file(inputs, GOOD)
    before = names(tmp_path)
    failures = tmp_path / "failures.json"
    status, lines = run(
        inputs, tmp_path / "outputs", tiny_weights, capsys, "--failures", str(failures)
    )
    wanted = {name_of(key): f"{name_of(key)}: {message}" for key, (_, message) in BAD.items()}
    assert status == 1
    assert dict(zip(sorted(wanted), lines, strict=True)) == wanted
    listed = json.loads(failures.read_text())
    assert {entry["file"]: entry["message"] for entry in listed} == wanted
    assert names(tmp_path / "outputs") == [GOOD]
    assert names(tmp_path) == sorted([*before, "failures.json", "outputs"])


# By the whole name: who makes it, and the shape and dtype of its labels.
A4 = (48, 80)  # of the helpers' image
A6 = (6, 40, 64)  # and volume


def of_size(height, width, **content):
    corners = [[0, 0, width - 1, height - 1]]
    return arrays(imgs=picture(height, width), boxes=np.array(corners), **content)


def of_boxes(count):
    x = np.arange(count) % 60
    return arrays(boxes=np.stack([x, x // 2, x + 9, x // 2 + 9], axis=1))


ODD = {
    "2DBox_US_1x1.npz": (of_size(1, 1), (1, 1), np.uint8),
    "2DBox_US_1xN.npz": (of_size(1, 90), (1, 90), np.uint8),
    "2DBox_US_Nx1.npz": (of_size(90, 1), (90, 1), np.uint8),
    "2DBox_US_8px.npz": (of_size(8, 8), (8, 8), np.uint8),
    "2DBox_US_long.npz": (of_size(20_000, 4), (20_000, 4), np.uint8),
    "2DBox_US_wide.npz": (of_size(7, 700), (7, 700), np.uint8),
    "2DBox_US_zero.npz": (arrays(imgs=np.zeros(A4)), A4, np.uint8),
    "2DBox_US_constant.npz": (arrays(imgs=np.full(A4, -7.5)), A4, np.uint8),
    "2DBox_US_bool.npz": (arrays(imgs=picture(*A4) > 60), A4, np.uint8),
    "2DBox_US_float16.npz": (
        arrays(imgs=np.where(picture(*A4) > 60, 6e4, -6e4).astype(np.float16)), A4, np.uint8,
    ),
    "2DBox_US_int64.npz": (
        arrays(imgs=np.where(picture(*A4) > 60, 2**63 - 1, -(2**63))), A4, np.uint8,
    ),
    "2DBox_US_fortran.npz": (
        arrays(imgs=np.asfortranarray(picture(*A4).astype(">i2"))), A4, np.uint8,
    ),
    "2DBox_US_0.npz": (arrays(boxes=np.zeros((0, 4))), A4, np.uint8),
    "2DBox_US_256.npz": (of_boxes(256), A4, np.uint16),
    "2DBox_US_300.npz": (of_boxes(300), A4, np.uint16),
    "2DBox_US_unsigned.npz": (
        arrays(boxes=np.array([[1, 1, 2**64 - 1, 9]], np.uint64)), A4, np.uint8,
    ),
    "2DBox_US_float.npz": (box(1.5, 2.25, 30.5, 40), A4, np.uint8),
    "2DBox_US_point.npz": (box(5, 5, 5, 5), A4, np.uint8),
    "2DBox_US_border.npz": (box(0, 0, 80, 48), A4, np.uint8),
    "2DBox_US_surplus.npz": (arrays(gts=np.array([None]), spacing=np.array([None])), A4, np.uint8),
    "2DBox_US_members.npz": (
        members({**members_with(npy(np.ones(A4))), "/x.npy": b"", "../y.npy": b""}), A4, np.uint8,
    ),
    "2DBox_US_CASE.npz": (arrays(), A4, np.uint8),
    "2DBox_US_case.npz": (arrays(), A4, np.uint8),
    "2DBox_US_a b.npz": (arrays(), A4, np.uint8),
    "2DBox_US_'\".npz": (arrays(), A4, np.uint8),
    "2DBox_US_a\nb.npz": (arrays(), A4, np.uint8),
    "2DBox_US_é日.npz": (arrays(), A4, np.uint8),
    os.fsdecode(b"2DBox_US_\xff.npz"): (arrays(), A4, np.uint8),
    "3DBox_MR_D1.npz": (
        arrays(imgs=volume_case()["imgs"][:1], boxes=np.array([[1, 1, 0, 9, 9, 0]])),
        (1, 40, 64), np.uint8,
    ),
    "3DBox_MR_z.npz": (box(1, 1, 3, 9, 9, 3), A6, np.uint8),
    "3DBox_MR_spacing_none.npz": (arrays(spacing=None), A6, np.uint8),
    "3DBox_MR_spacing_zero.npz": (arrays(spacing=np.zeros(3)), A6, np.uint8),
    "3DBox_MR_spacing_minus.npz": (arrays(spacing=np.array([1, -1, 1])), A6, np.uint8),
    "3DBox_MR_spacing_two.npz": (arrays(spacing=np.ones(2)), A6, np.uint8),
}  # fmt: skip


def test_every_odd_file_is_segmented(inputs, tmp_path, tiny_weights, capsys):
    for name, (make, _, _) in ODD.items():
        make(inputs / name)
    link = "2DBox_US_link.npz"
    make_case_file(tmp_path, "elsewhere")
    (inputs / link).symlink_to(tmp_path / "elsewhere")
    before, linked = names(tmp_path), (tmp_path / "elsewhere").read_bytes()
    outputs = tmp_path / "outputs"
    status, lines = run(inputs, outputs, tiny_weights, capsys)
    assert (status, lines) == (
        0, ["2DBox_US_unsigned.npz: 1 boxes reached outside the image and were cut to it"],
    )  # fmt: skip
    assert names(outputs) == sorted([*ODD, link])
    for name, (_, shape, dtype) in ODD.items():
        labels = read_labels(outputs / name)
        assert (labels.shape, labels.dtype) == (shape, dtype), name
    assert not read_labels(outputs / "2DBox_US_0.npz").any()
    assert read_labels(outputs / "2DBox_US_300.npz").max() > 255
    assert names(tmp_path) == sorted([*before, "outputs"])  # no member was unpacked
    assert (tmp_path / "elsewhere").read_bytes() == linked


def test_a_failed_case_with_an_odd_name_is_one_line_and_found_again_by_the_list(
    inputs, tmp_path, tiny_weights, capsys
):
    bad = sorted(["2DBox_US_a\nb.npz", "2DBox_US_é.npz", os.fsdecode(b"2DBox_US_\xff.npz")])
    for name in bad:
        (inputs / name).touch()
    (inputs / "other\nfile").touch()
    file = tmp_path / "failures.json"
    status, lines = run(inputs, tmp_path, tiny_weights, capsys, "--failures", str(file))
    assert (status, len(lines)) == (1, 1 + len(bad))
    assert lines[0] == "left alone (not [23]DBox_*.npz): other\\nfile"
    assert lines[1].startswith("2DBox_US_a\\nb.npz: not a readable npz file")
    assert [entry["file"] for entry in json.loads(file.read_text())] == bad


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_line(inputs, tmp_path, tiny_weights, capsys):
    make_case_file(inputs, GOOD).chmod(0)
    assert run(inputs, tmp_path, tiny_weights, capsys) == (
        1, [f"{GOOD}: {NOT_NPZ} (Permission denied)"],
    )  # fmt: skip


@pytest.mark.parametrize("step", ["tempfile.mkstemp", "numpy.savez_compressed"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_outputs_that_take_nothing_are_one_line_of_each_case(
    inputs, tmp_path, tiny_weights, capsys, monkeypatch, step, number
):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    make_case_file(inputs, GOOD)
    make_case_file(inputs, "3DBox_MR_good.npz")
    outputs = tmp_path / "outputs"
    monkeypatch.setattr(step, fail)
    reason = f"the labels could not be written ({os.strerror(number)})"
    assert run(inputs, outputs, tiny_weights, capsys) == (
        1, [f"{GOOD}: {reason}", f"3DBox_MR_good.npz: {reason}"],
    )  # fmt: skip
    assert names(outputs) == []


@pytest.fixture
def small_file_system(tmp_path):
    """A folder that is a file system of 8 kB, mounted for the test; skipped where none may be."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_outputs_on_a_file_system_that_fills_up_hold_whole_files_only(
    inputs, small_file_system, tiny_weights, capsys
):
    """Room for the first case, none for the second, which does not shrink; the third fits."""
    good = make_case_file(inputs, GOOD)
    chance = np.random.default_rng(0)
    corners = chance.integers(0, 390, (800, 2))
    make_case_file(
        inputs, "2DBox_US_large.npz", imgs=np.zeros((400, 400), np.uint8),
        boxes=np.concatenate([corners, corners + chance.integers(1, 9, (800, 2))], axis=1),
    )  # fmt: skip
    shutil.copy(good, inputs / "2DBox_US_last.npz")
    status, lines = run(inputs, small_file_system, tiny_weights, capsys)
    full = f"the labels could not be written ({os.strerror(errno.ENOSPC)})"
    assert (status, lines) == (1, [f"2DBox_US_large.npz: {full}"])
    assert names(small_file_system) == [GOOD, "2DBox_US_last.npz"]
    for name in names(small_file_system):
        assert read_labels(small_file_system / name).any()


def test_the_inputs_folder_is_no_outputs_folder(inputs, tmp_path, tiny_weights, capsys):
    whole = make_case_file(inputs, GOOD).read_bytes()
    (tmp_path / "link").symlink_to(inputs)
    for outputs in (inputs, tmp_path / "link"):
        status, lines = run(inputs, outputs, tiny_weights, capsys)
        assert (status, lines) == (
            1, [f"{outputs}: outputs would replace the inputs of the same name"],
        )  # fmt: skip
    assert (inputs / GOOD).read_bytes() == whole


def test_the_table_holds_every_message():
    text = (ROOT / "docs" / "inputs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| `(.*)` \|$", text, re.MULTILINE)
    assert sorted(set(rows)) == sorted({message for _, message in BAD.values()})
