"""Conversations with the server, all of good requests; and random changes of requests.

A conversation is a list of `Ask`. What the server answers is used in later requests: `{id}` stands
for the image that was opened, `{lease}` for the lease of nnInteractive, `{session}` for the session
of MONAI Label.
"""

import copy
import functools
import json
import random
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import imagecodecs
import numpy as np

from fuzz.header_seeds import GRID, ODD_TEXT, Change, Seed, flipped, voxels
from fuzz.header_seeds import seeds as all_file_seeds
from swiftmedsam.server.packed import CHUNK_HEAD, HEAD, MAGIC, pack

SHAPE = GRID[::-1]  # k, j, i
SCAN, SECRET = "scan.nii", "secret.nii"  # below the root of the server; beside the root
BOUNDARY = "border-of-parts"
ODD_NUMBERS = (0, 1, -1, 2, 7, 0.5, -0.0, 255, 256, 65536, 2**31, -(2**63), 10**30, 10**400, 1e300,
               float("nan"), float("inf"), -float("inf"))  # fmt: skip
ODD_WORDS = (*ODD_TEXT, "..", "../..", "/etc/passwd", f"root/../{SECRET}", "root//", "%2e%2e%2f",
             "{}", "\ud800", "9" * 5000, "a\nb", "\u202e", "named/0", "root", ".nii",
             "int64")  # fmt: skip
ODD_VALUES = (*ODD_NUMBERS, *ODD_WORDS, None, True, False, [], {}, [[]], [None] * 3, {"a": {}})
ODD_LENGTHS = (0, 1, 2, 8, 31, 32, 33, 255, 2**16, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1,
               2**32, 2**62, 2**63 - 1, 2**64 - 1)  # fmt: skip


@functools.cache
def file_seeds() -> list[Seed]:
    """Valid scans; made once, since it takes a second."""
    return all_file_seeds()


@dataclass(frozen=True)
class Ask:
    """A request of a conversation."""

    method: str
    path: str
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    json: Any = None  # the body, if it is JSON
    meta: Any = None  # the header X-Meta, as JSON
    body: bytes = b""  # else
    form: dict[str, Any] | None = None  # the fields of a form, or its files (name, content)
    packed: bool = False  # whether the body is a packed array
    files: bool = False  # whether the body has the files of a folder
    after: int | None = None  # pieces of the body after which the client goes away


def conversation(kind: str, chance: random.Random) -> list[Ask]:
    """A conversation of a kind, all of good requests; some choices are made by chance."""
    return KINDS[kind](chance)


# Packed arrays


def packed_of(array: np.ndarray, chance: random.Random) -> bytes:
    """An array as some client packs it: codec, filter and number of chunks by chance."""
    if chance.random() < 0.4:
        return pack(array)
    raw, name = np.ascontiguousarray(array).tobytes(), array.dtype.name.encode()
    codec, compressor = chance.choice(((1, "zstd"), (2, "lz4")))
    shuffle = chance.choice(("noshuffle", "shuffle", "bitshuffle"))
    parts = [HEAD.pack(MAGIC, 1, codec, array.ndim, len(name)), name,
             struct.pack(f"<{array.ndim}q", *array.shape)]  # fmt: skip
    step = chance.choice((len(raw), array.dtype.itemsize * (array.size // 3 + 1)))
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
    parts.append(struct.pack("<I", len(pieces)))
    for piece in pieces:
        chunk = imagecodecs.blosc2_encode(
            piece, level=chance.choice((0, 1, 5, 9)), compressor=compressor, shuffle=shuffle,
            typesize=array.dtype.itemsize,
        )  # fmt: skip
        parts += [CHUNK_HEAD.pack(len(piece), len(chunk)), chunk]
    return b"".join(parts)


def change_packed(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change a field of a packed array, or bytes of it."""
    _, _, _, axes, length = HEAD.unpack_from(content)
    shape = HEAD.size + length
    count = shape + 8 * axes
    first = count + 4  # the lengths of the first chunk, and then the chunk
    chunk = first + CHUNK_HEAD.size
    field_, at, form = chance.choice((
        ("version", 4, "<B"), ("codec", 5, "<B"), ("axes", 6, "<B"), ("name", 7, "<B"),
        ("shape", shape + 8 * chance.randrange(axes), "<Q"), ("shape", shape, "<Q"),
        ("chunks", count, "<I"), ("decompressed", first, "<Q"), ("length", first + 8, "<Q"),
        ("format", chunk, "<B"), ("flags", chunk + 2, "<B"), ("itemsize", chunk + 3, "<B"),
        ("inner", chunk + 4, "<I"), ("block", chunk + 8, "<I"), ("own", chunk + 12, "<I"),
        ("end of head", chunk + 31, "<B"), ("bytes", 0, ""), ("bytes", 0, ""), ("bytes", 0, ""),
        ("size", 0, ""), ("dtype", 0, ""),
    ))  # fmt: skip
    found = bytearray(content)
    if field_ == "bytes":
        head, what = flipped(content[chunk:], chance, max(1, len(content) - chunk))
        return content[:chunk] + head, f"behind the lengths, {what}"
    if field_ == "size":
        end = chance.randrange(len(content))
        return chance.choice((content[:end], content + content[-end:])), f"size near {end}"
    if field_ == "dtype":
        name = chance.choice(
            (b"bool", b"int64", b"float16", b"float64", b"object", b"V8", b"S", b"")
        )
        return content[:7] + bytes([len(name)]) + name + content[shape:], f"dtype {name!r}"
    most = 1 << (8 * struct.calcsize(form))
    value = chance.choice([one for one in ODD_LENGTHS if one < most])
    struct.pack_into(form, found, at, value)
    return bytes(found), f"{field_} = {value}"


def _array(chance: random.Random) -> np.ndarray:
    dtype = chance.choice(
        ("uint8", "int8", "int16", "uint16", "int32", "float32", "float64", "bool")
    )
    return voxels(dtype).T[np.newaxis] if chance.random() < 0.9 else np.zeros((1, *SHAPE), dtype)


# nnInteractive


def _nn(path: str, **more: Any) -> Ask:
    return Ask("POST", f"/{path}", headers={"X-Lease-Token": "{lease}"}, **more)


def _sent(path: str, array: np.ndarray, meta: Any, chance: random.Random) -> Ask:
    return _nn(path, body=packed_of(array, chance), meta=meta, packed=True)


def _packed(chance: random.Random) -> list[Ask]:
    """An image is set, and nothing else."""
    spacing = {"image_properties": {"spacing": [3, 2, 1.5]}}
    return [Ask("POST", "/claim"), _sent("set_image", _array(chance), spacing, chance)]


def _nninteractive(chance: random.Random) -> list[Ask]:
    box = [[1, 2], [1, 5], [1.0, 6.0]]
    prompt = {"include_interaction": True, "run_prediction": True}
    mask = voxels("uint8").T > 90
    seed = {"run_prediction": False, "override_capability_checks": False}
    return [
        *_packed(chance),
        Ask("GET", "/capabilities"),
        _nn("set_target_buffer", json={"shape": list(SHAPE), "dtype": "uint8"}),
        _nn("set_do_autozoom", json={"do_autozoom": False}),
        _nn("add_bbox_interaction", json={"bbox_coords": box, **prompt}),
        _nn("heartbeat", json={}),
        _nn("add_bbox_interaction", json={"bbox_coords": box, **prompt, "run_prediction": False}),
        _nn("predict", json={"force_full_refine": False}),
        _nn("undo", json={}),
        _nn("reset_interactions", json={}),
        _sent("add_initial_seg_interaction", mask.astype(chance.choice(("uint8", "bool", "int32"))),
              seed, chance),
        _nn("set_do_autozoom", json={"do_autozoom": True}),
        _nn("add_bbox_interaction", json={"bbox_coords": [[0, 3], [0, 4], [2, 6]], **prompt,
                                          "include_interaction": False}),
        Ask("GET", "/lease_status", headers={"X-Lease-Token": "{lease}"}),
        _nn("release"),
    ]  # fmt: skip


# The page

IMAGE, ONE = "/api/images/{id}", "/api/images/{id}/objects/1"
SHOWN = {"plane": "axial", "index": 1}
CLOSE = Ask("DELETE", IMAGE)


def _page(chance: random.Random) -> list[Ask]:
    stroke = {**SHOWN, "column": 1, "row": 2, "columns": 3, "rows": 2, "erase": 0}
    name = f"labels{chance.choice(('.nii.gz', '.seg.nrrd', '.mha', '.csv'))}"
    return [
        Ask("GET", "/api/files"),
        Ask("GET", "/api/folder", {"folder": "root"}),
        Ask("POST", "/api/images", json={"file": f"root/{SCAN}", "volume": None, "series": None}),
        Ask("GET", IMAGE),
        Ask("POST", f"{IMAGE}/objects", json={"name": "one", "colour": [250, 60, 60]}),
        Ask("POST", f"{ONE}/boxes", json={**SHOWN, "box": [1, 1, 6, 5], "positive": True}),
        Ask("POST", f"{ONE}/refine", json=SHOWN),
        Ask("GET", f"{IMAGE}/slices/axial/1", {"window": "100,200"}),
        Ask("GET", f"{IMAGE}/labels/axial/1"),
        Ask("POST", f"{ONE}/strokes", stroke, body=bytes([1, 0, 1, 1, 0, 1])),
        Ask("POST", f"{ONE}/extend", json={"plane": "axial"}),
        Ask("PATCH", ONE, json={"name": "another", "colour": [1, 2, 3]}),
        Ask("PATCH", IMAGE, json={"later_wins": True}),
        Ask("PATCH", IMAGE, json={"window": [40, 400]}),
        Ask("POST", f"{IMAGE}/undo", json=SHOWN),
        Ask("POST", f"{IMAGE}/save", json={"format": name[6:], "objects": [1]}),
        Ask("GET", f"{IMAGE}/saved/0"),
        Ask("POST", f"{IMAGE}/save", json={"format": "", "objects": [1], "name": name,
                                           "replace": True}),
        Ask("POST", f"{IMAGE}/alive"),
        Ask("POST", f"{IMAGE}/stop"),
        Ask("DELETE", ONE, SHOWN),
        CLOSE,
    ]  # fmt: skip


# Uploads


def _folder(seed: Seed) -> bytes:
    """The files of a folder, as the page sends them."""
    return b"".join(
        struct.pack("<IQ", len(name.encode()), len(content)) + name.encode() + content
        for name, content in sorted(seed.files.items())
    )


def _uploaded(seed: Seed) -> Ask:
    query: dict[str, Any] = {"name": seed.scan or "series", "volume": "", "series": ""}
    if seed.scan:
        return Ask("POST", "/api/images", query, body=seed.files[seed.scan])
    return Ask("POST", "/api/images", {**query, "folder": 1}, body=_folder(seed), files=True)


def _upload(chance: random.Random) -> list[Ask]:
    """A file or a folder is opened, and a label map of the open file is added."""
    labels = next(seed for seed in file_seeds() if seed.scan == "time.nii").files["time.nii"]
    return [
        _uploaded(chance.choice(file_seeds())),
        Ask("GET", IMAGE),
        CLOSE,
        Ask("POST", "/api/images", {"name": "int16.nii"}, body=_nifti("int16.nii")),
        Ask("POST", f"{IMAGE}/labels", {"name": "labels.nii"}, body=labels),
        CLOSE,
    ]


def _nifti(name: str) -> bytes:
    return next(seed for seed in file_seeds() if seed.scan == name).files[name]


def _monailabel(chance: random.Random) -> list[Ask]:
    name = chance.choice(("int16.nii", "second.nii.gz", "int16.nrrd", "int16.mha"))
    content = next(seed for seed in file_seeds() if seed.scan == name).files[name]
    params = {"label": "liver", "roi": [1, 5, 1, 4, 0, 3], "foreground": [], "background": [],
              "result_extension": chance.choice((".nrrd", ".nii.gz"))}  # fmt: skip
    ask = {
        "image": "x",
        "session_id": "{session}",
        "output": chance.choice(("all", "image", "json")),
    }
    return [
        Ask("GET", "/auth/"),
        Ask("GET", "/info/"),
        Ask("PUT", "/session/", form={"client_id": "fuzz", "files": (name, content)}),
        Ask("GET", "/session/{session}"),
        Ask("POST", "/infer/swiftmedsam", ask, form={"params": json.dumps(params)}),
        Ask("DELETE", "/session/{session}"),
    ]


KINDS = {
    "packed": _packed,
    "nninteractive": _nninteractive,
    "page": _page,
    "upload": _upload,
    "monailabel": _monailabel,
}


def formed(form: dict[str, Any]) -> bytes:
    """The body of a form in parts."""
    out = b""
    for name, value in form.items():
        file, content = value if isinstance(value, tuple) else (None, str(value).encode())
        more = "" if file is None else f'; filename="{file}"'
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
        out += head.encode(errors="replace") + content + b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


# Changes


def change_json(value: Any, chance: random.Random) -> tuple[Any, str]:
    """Change one place of a JSON value: another value, none, or one more."""
    changed = copy.deepcopy({"": value})
    holder: Any = changed
    key: Any = ""
    where = ""
    while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.85:
        holder = holder[key]
        key = (
            chance.choice(list(holder))
            if isinstance(holder, dict)
            else chance.randrange(len(holder))
        )
        where += f".{key}"
    kind = chance.choice(("set", "set", "set", "set", "drop", "more"))
    if kind == "drop" and holder is not changed:
        del holder[key]
        return changed[""], f"without {where}"
    is_number = isinstance(holder[key], int | float)
    odd = chance.choice(ODD_NUMBERS if is_number and chance.random() < 0.6 else ODD_VALUES)
    if kind == "more" and isinstance(holder[key], list):
        holder[key].append(odd)
    elif kind == "more" and isinstance(holder[key], dict):
        holder[key][chance.choice(ODD_WORDS)] = odd
    else:
        holder[key] = odd
    return changed[""], f"{kind} {where} {odd!r}"[:100]


def change_folder(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change the lengths or the name before the first file of a folder, or cut the last one."""
    at, form = chance.choice(((0, "<I"), (4, "<Q")))
    if chance.random() < 0.3:
        end = chance.randrange(len(content))
        return content[:end], f"{end} of {len(content)} bytes"
    if chance.random() < 0.3:
        head, what = flipped(content[12:], chance, 12)
        return content[:12] + head, f"name: {what}"
    value = chance.choice([one for one in ODD_LENGTHS if one < 1 << (8 * struct.calcsize(form))])
    found = bytearray(content)
    struct.pack_into(form, found, at, value)
    return bytes(found), f"length at {at} = {value}"


def _change_query(ask: Ask, chance: random.Random) -> tuple[Ask, str]:
    query = dict(ask.query)
    key = chance.choice([*query, "window", "folder", "name"])
    query[key] = chance.choice((*ODD_WORDS, *map(str, ODD_NUMBERS[:8])))
    if chance.random() < 0.2:
        del query[key]
    return replace(ask, query=query), f"{key} = {query.get(key, 'nothing')!r}"[:100]


def _change_path(ask: Ask, chance: random.Random) -> tuple[Ask, str]:
    parts = ask.path.split("/")
    at = chance.randrange(1, len(parts))
    words = ("0", "-1", "2", "65536", "9" * 30, "9" * 5000) if parts[at].isdigit() else ODD_WORDS
    parts[at] = chance.choice(words).replace("\ud800", "\ufffd")
    path = "/".join(parts)
    return replace(ask, path=path), path[:100]


def _change_headers(ask: Ask, chance: random.Random) -> tuple[Ask, str]:
    name = chance.choice(("X-Lease-Token", "Content-Type", "Content-Length", "Host", "Origin",
                          "Cookie", "Authorization", "X-Meta", "Range", "If-Range"))  # fmt: skip
    form = "multipart/form-data; boundary="
    value = chance.choice((
        "", "0", "-1", "9" * 30, "x" * 300, "é", "[", "http://evil", "localhost:99999", "[::1",
        "a=b;=", "application/json", "application/json; charset=x", "multipart/form-data", form,
        f"{form}{BOUNDARY}; charset=utf-99", "bytes=0-1", "bytes=5-2", "bytes=0-0,2-3", "bytes=x",
        "Bearer x", '{"a":', "[]", "1",
    ))  # fmt: skip
    return replace(ask, headers={**ask.headers, name: value}), f"{name}: {value!r}"[:100]


def _change_body(ask: Ask, chance: random.Random) -> tuple[Ask, str]:
    seed = next((one for one in file_seeds() if one.files.get(one.scan) == ask.body), None)
    change = None if seed is None else seed.change
    if ask.packed:
        change = change_packed
    elif ask.files and chance.random() < 0.6:
        change = change_folder
    body, what = _by(change, ask.body, chance)
    return replace(ask, body=body), what


def _by(change: Change | None, content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Change content in the way of its kind; if there is none, or it is damaged, change bytes."""
    if change is not None:
        try:
            return change(content, chance)
        except Exception:  # an earlier change has damaged it
            return flipped(content, chance, len(content))
    return flipped(content, chance, len(content))


def _change_form(ask: Ask, chance: random.Random) -> tuple[Ask, str]:
    form = dict(ask.form or {})
    name = chance.choice(list(form))
    value = form[name]
    if chance.random() < 0.25:
        body, what = flipped(formed(form), chance, len(formed(form)))
        return replace(
            ask, form=None, body=body, headers={**ask.headers, "Content-Type": FORM}
        ), what
    if isinstance(value, tuple):
        file, content = value
        if chance.random() < 0.3:
            file = chance.choice(ODD_WORDS)
            what = f"file {file!r}"
        else:
            seed = next((one for one in file_seeds() if one.scan == file), None)
            content, what = _by(seed and seed.change, content, chance)
        form[name] = file, content
    elif name == "params":
        changed, what = change_json(json.loads(value), chance)
        form[name] = json.dumps(changed)
    else:
        form[name] = chance.choice(ODD_WORDS)
        what = f"{name} = {form[name]!r}"
    return replace(ask, form=form), what[:120]


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def _change_ask(ask: Ask, chance: random.Random) -> tuple[Ask, str]:
    """Change one thing of a request; what it is made of is changed most often."""
    made_of = [kind for kind in ("json", "meta", "form") if getattr(ask, kind) is not None]
    kinds = [*(made_of + ["body"] * bool(ask.body)) * 5, "path", "query", "headers", "cut", "raw"]
    kind = chance.choice(kinds)
    if kind in ("json", "meta"):
        value, what = change_json(getattr(ask, kind), chance)
        return replace(ask, **{kind: value}), what
    if kind == "cut":
        return replace(ask, after=chance.randrange(3)), "the client goes away"
    if kind == "raw":
        body = chance.choice(
            (b"", b"{", b"[" * 9999, b"\xff\xfe", b'{"a":1}{', bytes(5000), b"null")
        )
        return replace(ask, json=None, form=None, body=body, packed=False), f"body {body[:20]!r}"
    change = {"path": _change_path, "query": _change_query, "headers": _change_headers,
              "body": _change_body, "form": _change_form}[kind]  # fmt: skip
    return change(ask, chance)


def changed(asks: list[Ask], chance: random.Random) -> tuple[list[Ask], str]:
    """A conversation with changes in one or two of its requests, and a text on them."""
    found, said = list(asks), []
    for _ in range(chance.choice((1, 1, 2))):
        at = chance.randrange(len(found))
        ask = found[at]
        found[at], what = _change_ask(ask, chance)
        said.append(f"{ask.method} {ask.path} [{at}]: {what}"[:200])
        if chance.random() < 0.1:
            found.insert(at, found[at])  # and once more
    return found, "; ".join(said)
