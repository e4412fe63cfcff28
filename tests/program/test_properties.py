"""What holds for any file and any folder of them; hypothesis looks for the one it does not."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis.extra import numpy as arrays

from swiftmedsam import CaseError, read_case
from swiftmedsam.program.main import main
from tests.helpers import fresh_logging, make_case_file, names, read_labels
from tests.helpers.generated import given, st

MODALITIES = st.sampled_from(["CT", "MR", "US", "X-Ray", "Sonar", ""])
SIDE = st.integers(1, 40)
REAL = st.one_of(
    arrays.boolean_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(),
)  # fmt: skip
ANY = st.one_of(
    REAL, arrays.complex_number_dtypes(), arrays.unicode_string_dtypes(max_len=3),
    arrays.datetime64_dtypes(),
)  # fmt: skip


@st.composite
def boxes_in(draw, sizes):
    """(N, 4) or (N, 6) for `sizes` (W, H[, D]), minima first; some reach over the border."""
    rows = []
    for _ in range(draw(st.integers(0, 4))):
        low = [draw(st.integers(0, size - 1)) for size in sizes]
        high = [draw(st.integers(start, size + 3)) for start, size in zip(low, sizes, strict=True)]
        rows.append([*low, *high])
    dtype = draw(st.sampled_from([np.int64, np.uint16, np.float32, ">f8", np.int8]))
    return np.array(rows, dtype).reshape(-1, 2 * len(sizes))


@st.composite
def good(draw):
    """Name and arrays of a case as documented."""
    volume = draw(st.booleans())
    sides = [draw(SIDE) for _ in range(2)]
    channels = [] if volume else draw(st.sampled_from([[], [1], [3], [4]]))
    shape = [draw(st.integers(1, 4)), *sides] if volume else [*sides, *channels]
    dtype = draw(REAL)
    elements = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False, **(
        {"min_value": -2e4, "max_value": 2e4} if dtype.kind == "f" else {}
    ))  # fmt: skip
    imgs = draw(arrays.arrays(dtype, tuple(shape), elements=elements, fill=elements))
    if draw(st.booleans()):
        imgs = np.asfortranarray(imgs)
    boxes = draw(boxes_in([*sides[::-1], shape[0]] if volume else sides[::-1]))
    name = f"{'32'[not volume]}DBox_{draw(MODALITIES)}_"
    return name, {"imgs": imgs, "boxes": boxes, "spacing": None}


@st.composite
def anything(draw):
    """Name and arrays of a file that may be a case or not."""
    shapes = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)
    name = f"{draw(st.sampled_from('23'))}DBox_{draw(MODALITIES)}_"
    imgs = draw(arrays.arrays(draw(ANY), draw(shapes)))
    corners = arrays.arrays(draw(REAL), st.tuples(st.integers(0, 3), st.sampled_from([4, 6])))
    boxes = draw(st.one_of(corners, arrays.arrays(draw(ANY), draw(shapes))))
    content = {"imgs": imgs, "boxes": boxes, "spacing": None}
    for key in draw(st.lists(st.sampled_from(sorted(content)), max_size=1)):
        content[key] = None
    return name, content


@given(good())
def test_what_is_documented_is_a_case(file):
    name, content = file
    with tempfile.TemporaryDirectory() as folder:
        case = read_case(make_case_file(Path(folder), f"{name}1.npz", **content))
    imgs, boxes = content["imgs"], content["boxes"]
    assert case.is_volume == name.startswith("3")
    assert case.label_shape == (imgs.shape if case.is_volume else imgs.shape[:2])
    assert case.boxes.shape == boxes.shape
    inside = boxes.astype(float) < np.array([*case.label_shape[::-1]] * 2)
    np.testing.assert_array_equal(case.boxes[inside], boxes[inside])
    if imgs.dtype == np.uint8 and (case.is_volume or imgs.ndim == 2):
        np.testing.assert_array_equal(case.image, imgs)


@given(st.lists(st.one_of(good(), anything()), min_size=1, max_size=4))
def test_a_folder_of_anything_is_outputs_and_lines(tiny_network, files):
    """Each file is written whole or is one line; its labels fit it; nothing else is left."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        inputs, outputs = Path(folder, "inputs"), Path(folder, "outputs")
        inputs.mkdir()
        paths = [make_case_file(inputs, f"{name}{i}.npz", **content)
                 for i, (name, content) in enumerate(files)]  # fmt: skip
        cases = {}
        for path in paths:
            with contextlib.suppress(CaseError):
                cases[path.name] = read_case(path)
        patch.setattr("swiftmedsam.program.main.load", lambda *_, **__: tiny_network)
        failures, stderr = Path(folder, "failures.json"), io.StringIO()
        with fresh_logging(), contextlib.redirect_stderr(stderr):
            status = main([str(inputs), str(outputs), "--quiet", "--failures", str(failures)])
        failed = {entry["file"]: entry["message"] for entry in json.loads(failures.read_text())}
        assert status == (1 if failed else 0)
        assert names(outputs) == sorted(cases)
        assert sorted([*cases, *failed]) == names(inputs)
        lines = stderr.getvalue().splitlines()
        for name, message in failed.items():
            assert lines.count(message) == 1
            assert message.startswith(f"{name}: ")
        for name, case in cases.items():
            labels = read_labels(outputs / name)
            assert labels.shape == case.label_shape
            assert labels.max() <= len(case.boxes)
