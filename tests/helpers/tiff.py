"""TIFF files made byte by byte."""

import struct
import zlib

import numpy as np

WHITE, BLACK, RGB, PALETTE = 0, 1, 2, 3


FORMATS = {"u": 1, "i": 2, "f": 3}


def parts_of(pixels, tile=None, planes_apart=False, rows=None):
    """Strips or tiles, as arrays, in the order of a TIFF."""
    high, wide = tile or (rows or len(pixels), pixels.shape[1])
    planes = np.moveaxis(pixels, -1, 0)[..., np.newaxis] if planes_apart else [pixels]
    found = []
    for plane in planes:
        for top in range(0, plane.shape[0], high):
            for left in range(0, plane.shape[1], wide):
                part = plane[top : top + high, left : left + wide]
                if tile:
                    more = (high - part.shape[0], wide - part.shape[1])
                    part = np.pad(part, [(0, more[0]), (0, more[1])] + [(0, 0)] * (part.ndim - 2))
                found.append(part)
    return found


def tiff_page(pixels, photometric=BLACK, *, tile=None, planes_apart=False, rows=None,
              deflate=False, predictor=1, order="<", description="", **tags):  # fmt: skip
    """Tags and data of a page of pixels (H, W) or (H, W, S)."""
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    parts = parts_of(pixels.astype(pixels.dtype.newbyteorder(order)), tile, planes_apart, rows)
    if predictor == 2:
        parts = [np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], 1).astype(part.dtype)
                 for part in parts]  # fmt: skip
    data = [part.tobytes() for part in parts]
    data = [zlib.compress(one) for one in data] if deflate else data
    found = {
        256: (4, [pixels.shape[1]]), 257: (4, [pixels.shape[0]]),
        258: (3, [8 * pixels.itemsize] * samples), 259: (3, [8 if deflate else 1]),
        262: (3, [photometric]), 277: (3, [samples]),
        284: (3, [2 if planes_apart else 1]),
        339: (3, [FORMATS[pixels.dtype.kind]] * samples),
    }  # fmt: skip
    if predictor != 1:
        found[317] = 3, [predictor]
    if tile:
        found |= {322: (4, [tile[1]]), 323: (4, [tile[0]])}
    elif rows:
        found[278] = 4, [rows]
    if description:
        found[270] = 2, list(description.encode() + b"\0")
    names = {"orientation": 274, "extra": 338, "fill_order": 266, "depth": 32997, "ink": 332,
             "kind": 254, "colours": 320, "stack": 33629, "predicted": 317, "coding": 259,
             "format": 339}  # fmt: skip
    for name, value in tags.items():
        found[names[name]] = 3, list(value) if isinstance(value, list) else [value]
    return found, (324, 325) if tile else (273, 279), data


def write_tiff(path, *pages, order="<", big=False):
    """A TIFF of pages of `tiff_page`."""
    offset_type, count_type, at = ("Q", "Q", 8) if big else ("I", "H", 4)
    sizes = {2: "B", 3: "H", 4: "I", 16: "Q"}
    magic = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    content = bytearray(magic + (struct.pack(order + "HHQ", 8, 0, 0) if big else bytes(4)))
    link = 8 if big else 4
    for found, (offsets_tag, counts_tag), data in pages:
        places = []
        for part in data:
            content += bytes(-len(content) % 2)
            places.append(len(content))
            content += part
        tags = dict(found)
        tags[offsets_tag] = (16 if big else 4), places
        tags[counts_tag] = (16 if big else 4), [len(part) for part in data]
        entries = []
        for tag, (kind, values) in sorted(tags.items()):
            packed = struct.pack(f"{order}{len(values)}{sizes[kind]}", *values)
            if len(packed) > at:
                content += bytes(-len(content) % 2)
                value = struct.pack(order + offset_type, len(content))
                content += packed
            else:
                value = packed.ljust(at, b"\0")
            entries.append(struct.pack(f"{order}HH{offset_type}", tag, kind, len(values)) + value)
        content += bytes(-len(content) % 2)
        struct.pack_into(order + offset_type, content, link, len(content))
        content += struct.pack(order + count_type, len(entries)) + b"".join(entries)
        link = len(content)
        content += bytes(at)
    path.write_bytes(content)
    return path
