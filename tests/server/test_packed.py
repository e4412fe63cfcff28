"""Packed arrays: as the official client packs them, and whatever else may come."""

import struct
import sys
import tracemalloc

import numpy as np
import pytest

from swiftmedsam.server.packed import DTYPES, PackedError, declared, pack, unpack
from tests.helpers.generated import example, given, st

LIMIT = 1 << 20
SMALL = pack(np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5))
HEAD = 8 + len("int16") + 4 * 8  # where the number of chunks stands
CHUNK = HEAD + 4  # where the lengths of the first chunk stand


def packed_head(*shape, name=b"uint8", codec=1, version=1, magic=b"NNIA", axes=None):
    count = len(shape) if axes is None else axes
    return (
        struct.pack("<4sBBBB", magic, version, codec, count, len(name))
        + name
        + struct.pack(f"<{len(shape)}q", *shape)
    )


def put(data, at, content):
    return data[:at] + content + data[at + len(content) :]


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(1,), (2, 3, 5), (1, 1, 7, 64), (3, 40, 50)])
def test_what_is_packed_comes_back(name, shape):
    rng = np.random.default_rng(1)
    for values in (rng.normal(0, 60, shape), np.zeros(shape), np.full(shape, 7)):
        array = np.asarray(values).astype(name)
        again = unpack(pack(array), LIMIT)
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the client needs Python 3.11")
@pytest.mark.parametrize("codec", ["ZSTD", "LZ4"])
@pytest.mark.parametrize("name", sorted(DTYPES))
def test_the_official_client_packs_and_unpacks_the_same(name, codec):
    import blosc2
    from nnInteractive.inference.remote.serialization import pack_array, unpack_array

    rng = np.random.default_rng(2)
    for values in (rng.normal(0, 60, (2, 30, 41)), np.zeros((2, 30, 41))):
        array = values.astype(name)
        for filters in (None, [blosc2.Filter.NOFILTER], [blosc2.Filter.SHUFFLE]):
            content = pack_array(array, codec=getattr(blosc2.Codec, codec), filters=filters)
            np.testing.assert_array_equal(unpack(content, LIMIT), array)
        np.testing.assert_array_equal(unpack_array(pack(array)), array)


def test_an_array_of_other_strides_or_byte_order_is_packed_as_it_looks():
    array = np.arange(60, dtype=">i4").reshape(3, 4, 5)[::-1, :, ::2].T
    np.testing.assert_array_equal(unpack(pack(array), LIMIT), array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "too few bytes"),
        (put(SMALL, 0, b"X"), "begins with NNIA"),
        (put(SMALL, 4, b"\2"), "version 1"),
        (put(SMALL, 5, b"\3"), "codec 1 or 2"),
        (put(SMALL, 6, b"\0"), "1 to 8 axes"),
        (put(SMALL, 6, b"\xff"), "1 to 8 axes"),
        (put(SMALL, 7, b"\xff"), "ends in its head"),
        (put(SMALL, 8, b"objec"), "whole or real numbers"),
        (put(SMALL, 8, b"\xff\xff"), "whole or real numbers"),
        (packed_head(4, 4, name=b"object") + b"\0" * 4, "whole or real numbers"),
        (packed_head(4, 4, name=b"V8") + b"\0" * 4, "whole or real numbers"),
        (packed_head(4, 4, name=b"complex64") + b"\0" * 4, "whole or real numbers"),
        (packed_head(-4, -4) + b"\0" * 4, "lengths above 0"),
        (packed_head(0, 9) + b"\0" * 4, "lengths above 0"),
        (packed_head(1 << 62, 1 << 62, 1 << 62) + b"\0" * 4, "can have 1048576 bytes"),
        (packed_head(1 << 20, name=b"float64") + b"\0" * 4, "can have 1048576 bytes"),
        (packed_head(9, 9) + b"\0" * 4, "smaller than its shape"),
        (packed_head(9, 9) + struct.pack("<I", 0xFFFFFFFF), "before its last chunk"),
        (put(SMALL, HEAD, struct.pack("<I", 2)), "before its last chunk"),
        (put(SMALL, CHUNK, struct.pack("<Q", 1 << 60)), "larger than its shape"),
        (put(SMALL, CHUNK, struct.pack("<Q", 119)), "another length than it says"),
        (put(SMALL, CHUNK, struct.pack("<Q", 0)), "larger than its shape"),
        (put(SMALL, CHUNK + 8, struct.pack("<Q", 1 << 60)), "ends in a chunk"),
        (put(SMALL, CHUNK + 8, struct.pack("<Q", 3)), "another length than it says"),
        (put(SMALL, CHUNK + 20, struct.pack("<i", -1)), "another length than it says"),
        (put(SMALL, CHUNK + 20, struct.pack("<i", 1 << 30)), "another length than it says"),
        (SMALL[:-1], "ends in a chunk"),
    ],
)
def test_wrong_bytes_are_refused_before_memory_is_taken(data, message):
    tracemalloc.start()
    try:
        with pytest.raises(PackedError, match=message) as refused:
            unpack(data, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)


def test_the_declared_shape_is_known_without_the_values():
    assert declared(SMALL[: HEAD + 4]) == (np.dtype("int16"), (1, 3, 4, 5))
    with pytest.raises(PackedError):
        declared(SMALL[:HEAD])


def tampered(data, places):
    content = bytearray(data)
    for at, value in places:
        content[at % len(content)] = value
    return bytes(content)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
@example([(CHUNK + 16, 255)])  # version of the chunk
@example([(CHUNK + 18, 255)])  # its flags
@example([(CHUNK + 24, 1)])  # its block size
@example([(CHUNK + 27, 128)])
def test_bytes_that_were_tampered_with_give_an_array_or_one_line(places):
    try:
        array = unpack(tampered(SMALL, places), LIMIT)
    except PackedError as error:
        assert "\n" not in str(error)
    else:
        assert array.nbytes <= LIMIT


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_good_head_give_an_array_or_one_line(content):
    for start in (b"", SMALL[:HEAD], SMALL[: CHUNK + 16], SMALL[: CHUNK + 32]):
        try:
            unpack(start + content, LIMIT)
        except PackedError as error:
            assert "\n" not in str(error)
