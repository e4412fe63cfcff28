"""What does not fit is refused before it is allocated; what is estimated covers what is used."""

import os
import tracemalloc
import zipfile
from functools import cache

import numpy as np
import pytest

import swiftmedsam.case
import swiftmedsam.memory
from benchmarks.limits.memory import Shape, peak_of, write_case
from swiftmedsam import CaseError, make_case, read_case, system
from swiftmedsam.frame import Frame
from swiftmedsam.masks import STRIP_PIXELS, Answer, mask_of, strips
from swiftmedsam.memory import (
    COMFORT_BYTES,
    EMBEDDING_BYTES,
    PROGRAM_BYTES,
    PROMPT_BYTES,
    TRACKED_BYTES,
    available_memory,
    embeddings_kept,
    estimate_peak,
    parse_size,
)
from swiftmedsam.program.main import main
from tests.helpers import (
    BoxesAsMasks,
    fresh_logging,
    image_case,
    labels_of,
    make_case_file,
    names,
    picture,
    read_labels,
    volume_case,
)
from tests.helpers.generated import given, st
from tests.helpers.npz import (
    IMAGE,
    REFUSAL_BYTES,
    VOLUME,
    header_of,
    members_with,
    npy_with,
    zip_file,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8G", 8 << 30), ("8GB", 8 << 30), ("8GiB", 8 << 30), ("512m", 512 << 20), ("1.5K", 1536),
     ("2T", 2 << 40), ("1000", 1000), ("1b", 1)],
)  # fmt: skip
def test_sizes_are_dockers(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0.5", "-1G", "8X", "G", "1e9", "8 G", "nan", "²G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=f"expected a size like 8G or 512M, got '{text}'"):
        parse_size(text)


@pytest.mark.parametrize(
    ("v2", "v1", "limit"),
    [("max", None, 16 << 30), ("8589934592", None, 8 << 30), (None, "3221225472", 3 << 30),
     (None, "9223372036854771712", 16 << 30), (None, None, 16 << 30), ("", "none", 16 << 30)],
)  # fmt: skip
def test_the_limit_is_the_containers_or_the_machines(tmp_path, monkeypatch, v2, v1, limit):
    files = [tmp_path / "v2", tmp_path / "v1"]
    for file, content in zip(files, (v2, v1), strict=True):
        if content is not None:
            file.write_text(content + "\n")
    monkeypatch.setattr(system, "CGROUP_LIMITS", [str(file) for file in files])
    pages = {"SC_PHYS_PAGES": 4 << 20, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert available_memory() == limit


def test_what_is_left_over_goes_to_embeddings_and_one_is_kept_at_least():
    assert embeddings_kept(COMFORT_BYTES, None, 256) == 1
    assert embeddings_kept(3 * COMFORT_BYTES, None, 256) == 1
    assert embeddings_kept(0, None, 256) == 256
    assert embeddings_kept(COMFORT_BYTES - 5 * EMBEDDING_BYTES, None, 256) == 5
    assert embeddings_kept(COMFORT_BYTES - 6 * EMBEDDING_BYTES + 1, None, 256) == 5
    assert embeddings_kept(0, 3 * EMBEDDING_BYTES, 256) == 3
    assert embeddings_kept(0, 100 * COMFORT_BYTES, 256) == 256


def test_the_estimate_of_the_largest_image_on_paper():
    """1.2 GB of pixels and 0.4 GB of labels."""
    found = estimate_peak((20_000, 20_000, 3), np.dtype("u1"), 10, is_volume=False)
    assert found - PROGRAM_BYTES - 2 * PROMPT_BYTES == pytest.approx(1.6e9, abs=1e5)


def test_a_case_that_does_not_fit_is_refused_before_it_is_allocated(tmp_path):
    header = npy_with(header_of((20_000, 10_000)), data=bytes(200_000_000))
    path = zip_file(tmp_path, members_with(header), method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        with pytest.raises(CaseError) as caught:
            read_case(path, memory_limit=700 << 20)
        assert tracemalloc.get_traced_memory()[1] < REFUSAL_BYTES
    finally:
        tracemalloc.stop()
    assert str(caught.value) == (
        f"{IMAGE}: 'imgs' of (20000, 10000) uint8 with 1 boxes needs about 1.0 GB, "
        "the memory limit is 0.7 GB"
    )


def test_boxes_count_as_well(tmp_path):
    """Ten million in ten pixels: their copies alone are gigabytes."""
    header = npy_with(header_of((10_000_000, 4)), data=bytes(40_000_000))
    members = members_with(npy_with(header_of((2, 5)))) | {"boxes.npy": header}
    with pytest.raises(CaseError, match=r"with 10000000 boxes needs about 2\d\.\d GB, the memory"):
        read_case(zip_file(tmp_path, members), memory_limit=8 << 30)


def run(inputs, outputs, weights, *options):
    arguments = [str(inputs), str(outputs), "--weights", str(weights), "--threads", "1", "--quiet"]
    with fresh_logging():
        return main([*arguments, *options])


def test_the_program_refuses_what_exceeds_the_option_and_goes_on(
    inputs, tmp_path, tiny_weights, capsys
):
    make_case_file(inputs, "2DBox_US_0.npz", imgs=picture(6000, 5000))
    make_case_file(inputs, IMAGE)
    outputs = tmp_path / "outputs"
    assert run(inputs, outputs, tiny_weights, "--memory-limit", "600M") == 1
    assert capsys.readouterr().err == (
        "2DBox_US_0.npz: 'imgs' of (6000, 5000) uint8 with 2 boxes needs about 0.7 GB, "
        "the memory limit is 0.6 GB\n"
    )
    assert names(outputs) == [IMAGE]
    assert run(inputs, outputs, tiny_weights, "--memory-limit", "850M") == 0
    assert names(outputs) == ["2DBox_US_0.npz", IMAGE]
    with pytest.raises(SystemExit):
        run(inputs, outputs, tiny_weights, "--memory-limit", "much")
    assert "expected a size like 8G or 512M, got 'much'" in capsys.readouterr().err


def test_without_the_option_the_container_decides(
    inputs, tmp_path, tiny_weights, capsys, monkeypatch
):
    make_case_file(inputs, IMAGE)
    monkeypatch.setattr("swiftmedsam.program.npz_jobs.available_memory", lambda: 1 << 20)
    assert run(inputs, tmp_path / "outputs", tiny_weights) == 1
    assert capsys.readouterr().err.endswith("the memory limit is 0.0 GB\n")


def test_memory_that_is_not_there_all_the_same_is_one_line(
    inputs, tmp_path, tiny_weights, capsys, monkeypatch
):
    """Under `ulimit -v`, of which no cgroup knows."""
    for name in ("2DBox_US_0.npz", IMAGE):
        make_case_file(inputs, name)
    real, calls = np.zeros, []

    def zeros(shape, *more):
        if shape == (48, 80):
            calls.append(shape)
            if len(calls) == 1:
                raise MemoryError("Unable to allocate")
        return real(shape, *more)

    monkeypatch.setattr(np, "zeros", zeros)
    assert run(inputs, tmp_path / "outputs", tiny_weights) == 1
    assert capsys.readouterr().err == "2DBox_US_0.npz: not enough memory\n"
    assert names(tmp_path / "outputs") == [IMAGE]


def test_an_array_that_cannot_be_allocated_is_one_line(tmp_path, monkeypatch):
    path = make_case_file(tmp_path, IMAGE)

    def empty(*_):
        raise MemoryError

    monkeypatch.setattr("swiftmedsam.case.np.empty", empty)
    with pytest.raises(CaseError, match="'imgs' needs 11520 bytes, more than can be allocated"):
        read_case(path)


# What is estimated covers what is used


SMALL = Shape("2DBox_US_s", (2100, 2000), "|u1", lambda _: np.array([[0, 0, 1999, 2099]]))
NOISE = 24e6  # bytes by which two runs of one case differ: pools, fragments
GROWING = {  # what is read in different ways; each costs a process, so four are enough
    "2DBox_US_colour": ((6000, 5000, 3), "|u1", False),
    "2DBox_US_float64": ((4500, 4000), "<f8", True),
    "2DBox_US_float32": ((12_000, 12_000), "<f4", False),  # more than is held
    "3DBox_MR_uint16": ((60, 1000, 1000), "<u2", True),
}


@pytest.fixture(scope="module")
def peak(tiny_weights, tmp_path_factory):
    """Peak bytes of a process that segments a case of a shape."""

    @cache
    def measure(shape):
        inputs = tmp_path_factory.mktemp("inputs")
        write_case(shape, inputs)
        status, found = peak_of([str(inputs), str(inputs / "out"), "--quiet",
                                 "--weights", str(tiny_weights), "--threads", "1"])  # fmt: skip
        assert status == 0
        return found

    return measure


def boxes_of(shape):
    if len(shape) == 3 and shape[2] > 4:
        return np.array([[0, 0, 0, shape[2] - 1, shape[1] - 1, shape[0] - 1]])
    return np.array([[0, 0, shape[1] - 1, shape[0] - 1]])


@pytest.mark.parametrize("name", GROWING)
def test_memory_grows_with_the_case_as_estimated(peak, name):
    sizes, dtype, fortran = GROWING[name]
    shape = Shape(name, sizes, dtype, boxes_of, fortran=fortran, gain=200 if dtype != "|u1" else 1)

    def estimate(of):
        return estimate_peak(of.shape, np.dtype(of.dtype), 1, is_volume=of.is_volume)

    wanted = estimate(shape) - estimate(SMALL)
    assert wanted > 3 * NOISE  # else there is nothing to see
    assert wanted * 0.6 - NOISE < peak(shape) - peak(SMALL) < wanted + NOISE


# And the means change no value


@given(
    st.lists(st.integers(0, 7), min_size=0, max_size=4),
    st.sampled_from(["|u1", "|b1", "<i2", ">f8", "<f2"]),
    st.booleans(),
    st.integers(16, 40),
)
def test_an_array_is_read_in_pieces_of_any_size(tmp_path_factory, shape, dtype, fortran, piece):
    count = int(np.prod(shape, dtype=int))
    values = np.arange(count).astype(dtype).reshape(shape, order="F" if fortran else "C")
    folder = tmp_path_factory.mktemp("pieces")
    path = make_case_file(folder, IMAGE, imgs=values)
    with pytest.MonkeyPatch.context() as patch, zipfile.ZipFile(path) as archive:
        patch.setattr("swiftmedsam.chunks.CHUNK", piece)
        found = swiftmedsam.npz._read_member(
            archive, swiftmedsam.npz._find_member(archive, IMAGE, "imgs")
        )
    assert found.flags.c_contiguous
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("dtype", ["|b1", "|i1", "<i2", ">u2", "<i4", "<f2", "<f4", ">f8"])
def test_pixels_that_are_not_held_become_the_same_image(
    tmp_path, monkeypatch, dtype, modality, order
):
    random = np.random.default_rng(3)
    read_member = swiftmedsam.npz._read_member
    cases = (
        (f"2DBox_{modality}_1.npz", (30, 40, 3), [[1, 2, 20, 21]]),
        (f"3DBox_{modality}_1.npz", (5, 30, 40), [[1, 2, 0, 20, 21, 4]]),
    )
    for name, shape, boxes in cases:
        values = (random.normal(size=shape) * 400 - 90).clip(-128, 127 if dtype == "|i1" else 3000)
        values = np.abs(values) if "u" in dtype else values
        pixels = np.asarray(values.astype(dtype), order=order)
        make_case_file(tmp_path, name, imgs=pixels, boxes=boxes)
        held = read_case(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr("swiftmedsam.memory.HELD_BYTES", 0)
            patch.setattr("swiftmedsam.chunks.CHUNK", 100)
            patch.setattr("swiftmedsam.npz._read_member", lambda *args: (
                read_member(*args) if args[1].key == "boxes" else pytest.fail("pixels were held")
            ))  # fmt: skip
            streamed = read_case(tmp_path / name)
        assert streamed.image.flags.c_contiguous
        np.testing.assert_array_equal(streamed.image, held.image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": np.full((9, 9), np.nan)}, "'imgs' should be finite, found NaN or infinity"),
        ({"imgs": np.full((9, 9), 1e35)}, "'imgs' should be within 1e\\+30 of 0"),
        ({"imgs": np.zeros((9, 9, 2))}, r"'imgs' should be \(H, W\)"),
    ],
)  # fmt: skip
def test_pixels_that_are_not_held_are_checked_as_others(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("swiftmedsam.memory.HELD_BYTES", 0)
    with pytest.raises(CaseError, match=f"^{IMAGE}: {message}"):
        read_case(make_case_file(tmp_path, IMAGE, **changes))


def test_pixels_that_are_not_held_but_end_early_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("swiftmedsam.memory.HELD_BYTES", 0)
    path = zip_file(tmp_path, members_with(npy_with(header_of((9, 9), "'<f4'"), data=bytes(300))))
    with pytest.raises(CaseError, match="'imgs' ends before its 324 bytes, found 300"):
        read_case(path)


@pytest.mark.parametrize("dtype", ["|b1", "<u2", "<f4", "<f8"])
def test_the_largest_image_fits_into_2_gb_whatever_its_values(dtype):
    size = (20_000, 20_000, 3)
    assert estimate_peak(size, np.dtype(dtype), 10, is_volume=False) < 2.1e9


def test_an_array_whose_last_byte_was_altered_is_refused(tmp_path):
    """Only the checksum knows, and zipfile looks at it when the end is reached."""
    path = make_case_file(tmp_path, IMAGE)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    whole = bytearray(path.read_bytes())
    end = whole.index(content["imgs.npy"]) + len(content["imgs.npy"])
    whole[end - 1] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CaseError, match="not a readable npz file .Bad CRC-32 for file 'imgs.npy'"):
        read_case(path)


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 99), st.integers(1, 5000))
def test_the_mask_in_strips_is_the_whole_mask(height, width, seed, pixels):
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(16, 16)).astype(np.float32)
    logits = np.kron(coarse, np.ones((16, 16), np.float32))
    frame = Frame(height, width)
    rows, columns = (slice(random.integers(0, side), side) for side in (height, width))
    whole, painted = (np.zeros((height, width), np.bool_) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swiftmedsam.masks.STRIP_PIXELS", pixels)
        cut = strips((rows, columns))
    for target, parts in ((whole, [(rows, columns)]), (painted, cut)):
        for part in parts:
            patch = mask_of([Answer(frame, logits, (0, 0))], part)
            target[patch.rows, patch.columns] |= patch.mask
    np.testing.assert_array_equal(painted, whole)


def test_strips_are_the_place_cut_into_parts_of_little_memory():
    parts = strips((slice(7, 19_000), slice(5, 29_000)))
    assert all(columns == slice(5, 29_000) for _, columns in parts)
    starts = [rows.start for rows, _ in parts]
    assert [rows.stop for rows, _ in parts] == [*starts[1:], 19_000]
    assert starts[0] == 7
    assert max(rows.stop - rows.start for rows, _ in parts) * 28_995 <= STRIP_PIXELS
    assert len(strips((slice(0, 48), slice(0, 80)))) == 1


@pytest.mark.parametrize("arrays", [image_case(), volume_case()], ids=["image", "volume"])
def test_labels_do_not_depend_on_the_memory_there_is(tiny_network, monkeypatch, arrays):
    case = make_case(arrays["imgs"], arrays["boxes"], modality="US")
    wanted = labels_of(case, tiny_network)
    assert wanted.any()
    np.testing.assert_array_equal(labels_of(case, tiny_network, memory_limit=1), wanted)
    released, real = [], tiny_network.release_encoder
    monkeypatch.setattr(tiny_network, "release_encoder", lambda: released.append(real()))
    monkeypatch.setattr("swiftmedsam.embeddings.LARGE_IMAGE", 0)
    monkeypatch.setattr("swiftmedsam.schedule.TRACKED_TOGETHER", 1)
    monkeypatch.setattr("swiftmedsam.masks.STRIP_PIXELS", 100)
    np.testing.assert_array_equal(labels_of(case, tiny_network), wanted)
    assert released


class Quick(BoxesAsMasks):
    """A network that answers at once: the whole frame, for any box."""

    logits = np.ones((1, 256, 256), np.float32)

    def encode(self, pixels):
        return np.zeros(1, np.float32)

    def decode(self, embedding, prompts, cells):
        count, height, width = cells.shape
        shape = count, 4 * height, 4 * width
        return np.broadcast_to(self.logits[:, : shape[1], : shape[2]], shape), np.ones(count)


def test_labels_have_as_many_bits_as_their_number_needs(tmp_path):
    """Of 300 boxes 16, more than the 8 of most cases; label_dtype says it of more (test_case)."""
    x = np.arange(300) % 29
    corners = np.stack([x, np.arange(300) // 29], axis=1)
    boxes = np.concatenate([corners, corners + 1], axis=1)
    path = make_case_file(tmp_path, IMAGE, imgs=picture(25, 30), boxes=boxes)
    labels = labels_of(read_case(path), Quick(), crops=0)
    assert (labels.dtype, labels.shape) == (np.uint16, (25, 30))
    assert labels[corners[-1, 1], corners[-1, 0]] == 300
    assert labels[0, 0] == 1


def test_labels_of_32_bits_are_written_whole(tmp_path):
    labels = np.array([[0, 1], [65_536, 70_000]], np.uint32)
    swiftmedsam.write_labels(tmp_path / "labels.npz", labels)
    found = read_labels(tmp_path / "labels.npz")
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, labels)


def test_the_boxes_of_a_volume_that_wait_for_a_neighbour_are_bounded(monkeypatch):
    """Each keeps a mask and logits, 48 as much as 16."""
    monkeypatch.setattr("swiftmedsam.schedule.TRACKED_TOGETHER", 8)

    def peak_of_boxes(count):
        boxes = [[0, 0, 0, 255, 255, 29]] * count
        case = make_case(np.zeros((30, 256, 256), np.uint8), boxes, is_volume=True, modality="MR")
        tracemalloc.start()
        try:
            labels_of(case, Quick())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    least = 8 * 256 * 256 * (1 + 4)
    assert least < peak_of_boxes(8) < 8 * TRACKED_BYTES + (16 << 20)
    assert peak_of_boxes(48) < peak_of_boxes(16) + least / 2  # the second walk makes flows anew


def test_a_volume_is_read_with_the_limit_of_its_mask(tmp_path):
    path = make_case_file(tmp_path, VOLUME)
    peak = estimate_peak((6, 40, 64), np.dtype("u1"), 3, is_volume=True)
    read_case(path, memory_limit=peak)
    with pytest.raises(CaseError, match="memory limit"):
        read_case(path, memory_limit=peak - 1)
