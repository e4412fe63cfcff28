"""Range and percentiles of an array that is never held whole."""

import functools

import numpy as np
import pytest

from swiftmedsam.chunks import CHUNK, chunks_of, extent, visible_percentiles
from tests.helpers.generated import given, st

PERCENTS = (0.5, 37, 99.5)
DTYPES = ("i1", "<u2", ">i2", "<i4", ">u4", "<i8", "<u8", "<f2", "<f4", ">f4", "<f8", np.longdouble)


def of(array):
    return functools.partial(chunks_of, array)


def test_pieces_are_views_that_cover_an_array_in_its_order(monkeypatch):
    monkeypatch.setattr("swiftmedsam.chunks.CHUNK", 7)
    array = np.arange(120).reshape(4, 5, 6).transpose(2, 0, 1)[::-1]
    parts = list(chunks_of(array))
    assert max(part.size for part in parts) <= 7
    assert all(np.shares_memory(part, array) for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), array.ravel())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)])
def test_a_small_array_is_one_piece(shape):
    (part,) = chunks_of(np.zeros(shape))
    assert part.shape == shape
    assert len(list(chunks_of(np.zeros(CHUNK + 1, np.uint8)))) == 2


def test_the_extent_is_that_of_all_pieces_and_nan_where_one_is(monkeypatch):
    monkeypatch.setattr("swiftmedsam.chunks.CHUNK", 2)
    values = np.array([3, -7, 5, 9, 2], np.int16)
    assert extent(of(values)) == (-7, 9)
    for place in range(5):
        one = values.astype(np.float32)
        one[place] = np.nan
        assert np.isnan(extent(of(one))).all()


@given(st.sampled_from(DTYPES), st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(1, 50))
def test_percentiles_are_numpys(dtype, seed, count, piece):
    """Of values of any size, many of them equal or zero."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        values = random.normal(size=count) * 10.0 ** random.integers(-4, 5, count)
    else:
        ends = np.iinfo(dtype)
        values = random.integers(ends.min, ends.max, count, dtype.newbyteorder("="), endpoint=True)
        values >>= random.integers(0, 8 * dtype.itemsize, count).astype(values.dtype)
    values[random.random(count) < 0.3] = 0
    values = np.repeat(values, 2).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swiftmedsam.chunks.CHUNK", piece)
        found = visible_percentiles(of(values), dtype, PERCENTS)
    visible = values[values != 0].astype(np.float64)
    if visible.size:
        assert found == pytest.approx(np.percentile(visible, PERCENTS), rel=1e-12)
    else:
        assert found is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_and_ends_of_a_type_are_in_their_order(dtype):
    dtype = np.dtype(dtype)
    ends = np.finfo(np.float64) if dtype.itemsize > 8 else (
        np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    )  # fmt: skip
    values = np.array([ends.max, 1, ends.min], dtype)
    wanted = [ends.min, 1, ends.max] if ends.min else [1, (1 + ends.max) / 2, ends.max]  # no zero
    assert visible_percentiles(of(values), dtype, (0, 50, 100)) == [float(w) for w in wanted]
    assert visible_percentiles(of(np.zeros(3, dtype)), dtype, (50,)) is None
    if dtype.kind == "f":
        zeros = np.array([-0.0, 0.0, 2], dtype)
        assert visible_percentiles(of(zeros), dtype, (0,)) == [2]
