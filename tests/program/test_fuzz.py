"""The seeds of the fuzzer, and random changes of them: a case or one line, and nothing else."""

import random
import subprocess
import sys

import numpy as np
import pytest

from fuzz import headers, server
from fuzz.header_seeds import seeds as header_seeds
from fuzz.independent import NoOpinion, Reading, read
from fuzz.inputs import HEAD, check, write
from fuzz.make_corpus import CORPUS, seeds
from fuzz.server_seeds import KINDS as CONVERSATIONS
from fuzz.server_seeds import change_packed, changed, conversation
from swiftmedsam import read_case
from swiftmedsam.scans.scan import Scan
from swiftmedsam.server.packed import PackedError, unpack
from tests.helpers import ROOT

CHANGES = 40  # of each seed
SEED = 7
HEADERS = 300  # changes of the headers of each kind of file
TALKS = 15  # conversations of each kind
KINDS = sorted({seed.kind for seed in header_seeds()})


def test_the_committed_seeds_are_those_of_the_script():
    found, made = {path.name: path.read_bytes() for path in CORPUS.iterdir()}, seeds()
    assert found.keys() == made.keys()
    for name in found.keys() - {"file_deflated"}:  # another zlib may pack it otherwise
        assert found[name] == made[name], name


@pytest.mark.parametrize(
    ("name", "good"),
    [("image", True), ("volume", True), ("hounsfield", True), ("fortran", True),
     ("method_14", True), ("header_2", False), ("header_large", False), ("file_deflated", True),
     ("header_python_2", True), ("objects", False), ("file_truncated", False)],
)  # fmt: skip
def test_seeds_reach_both_sides_of_the_border(tmp_path, name, good):
    assert check((CORPUS / name).read_bytes(), tmp_path) == good


def test_a_pickle_among_the_seeds_is_one(tmp_path):
    """`objects` is refused for what it is, not for being broken."""
    path = write((CORPUS / "objects").read_bytes(), tmp_path)
    with pytest.raises(ValueError, match="'boxes' should hold real numbers, got dtype object"):
        read_case(path)


def tampered(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to three bytes replaced, a piece removed, or a piece doubled."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(found) + 1)
        end = min(len(found), start + chance.choice([1, 1, 1, 2, 8, 40]))
        kind = chance.choice(["replace", "replace", "remove", "double"])
        piece = bytes(chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
                      for _ in range(end - start))  # fmt: skip
        found[start:end] = {"replace": piece, "remove": b"",
                            "double": 2 * bytes(found[start:end])}[kind]  # fmt: skip
    return bytes(found)


def test_changed_seeds_are_cases_or_refused_in_one_line(tmp_path):
    chance = random.Random(SEED)
    good = 0
    for path in sorted(CORPUS.iterdir()):
        data = path.read_bytes()
        for _ in range(CHANGES):
            good += check(tampered(data, chance), tmp_path)
    assert 0 < good < CHANGES * len(seeds())  # neither all of them nor none


def test_bytes_of_any_length_are_a_file(tmp_path):
    data = (CORPUS / "image").read_bytes()
    for length in range(HEAD.size + 2):
        assert not check(data[:length], tmp_path)


def test_the_fuzzer_runs(tmp_path):
    """A thousand inputs; skipped where it is not installed."""
    pytest.importorskip("atheris")
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "-runs=1000", tmp_path, CORPUS],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 1000 runs" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_headers_are_refused_or_read_as_other_readers_do(tmp_path, kind):
    outcomes, findings = headers.run(range(HEADERS), SEED, tmp_path, [kind])
    assert not findings, "\n".join(f"{one.number} {one.change}: {one.what}" for one in findings)
    assert outcomes[f"{kind}: {headers.REFUSED}"] > 0
    assert outcomes[f"{kind}: {headers.SILENT}"] > 0


@pytest.mark.parametrize("seed", header_seeds(), ids=lambda seed: seed.scan or "series")
def test_files_without_damage_are_read_alike(seed, tmp_path):
    scan = headers.unchanged(seed)
    for name, content in seed.files.items():
        (tmp_path / name).write_bytes(content)
    try:
        other = read(seed.kind, tmp_path / seed.scan)
    except NoOpinion:
        assert seed.scan == "second.nii.gz"  # SimpleITK reads no NIfTI-2
    else:
        assert headers.differs(scan, other) == ""


def test_a_reader_that_is_wrong_is_found(tmp_path, monkeypatch):
    """Values, place, an error of Python's and a message that is not ours: a finding each."""
    seed = next(seed for seed in header_seeds() if seed.scan == "int16.nii")
    path = tmp_path / seed.scan
    path.write_bytes(seed.files[seed.scan])
    before = headers.unchanged(seed)
    good = Reading(before.voxels, before.affine)
    assert headers.check("nifti", path, headers.Words(), before) == (headers.SILENT, "")

    def wrong(scan):
        monkeypatch.setattr(headers, "segmented", lambda _: scan)
        return headers.check("nifti", path, headers.Words(), before)[1]

    assert "168 values" in wrong(Scan(path, before.voxels + np.int16(1), good.affine))
    assert "affine" in wrong(Scan(path, before.voxels, good.affine @ np.diag([1, 1, 2, 1])))
    assert "grid" in wrong(Scan(path, before.voxels[1:], good.affine))
    monkeypatch.undo()
    monkeypatch.setattr("swiftmedsam.scans.formats.nifti.made_scan", lambda *_, **__: {}["none"])
    outcome, what = headers.check("nifti", path, headers.Words(), before)
    assert (outcome, what[:8]) == (headers.ENDED, "KeyError")


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_damaged_requests_are_answered_or_refused_and_the_server_goes_on(tmp_path, kind):
    outcomes, findings = server.run(range(TALKS), SEED, tmp_path, [kind])
    assert not findings, "\n".join(f"{one.number} {one.change}: {one.what}" for one in findings)
    assert outcomes[f"{kind}: {server.REFUSED}"] > 0
    assert outcomes.total() == TALKS


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_changes_of_requests_are_of_all_of_them(kind):
    chance = random.Random(SEED)
    said = " ".join(changed(conversation(kind, chance), chance)[1] for _ in range(400))
    for ask in conversation(kind, chance):
        assert f"{ask.method} {ask.path} [" in said


def test_changed_arrays_are_refused_for_what_is_wrong_with_them():
    chance = random.Random(SEED)
    content = conversation("packed", chance)[1].body
    words = set()
    for _ in range(300):
        try:
            unpack(change_packed(content, chance)[0], 1 << 20)
        except PackedError as error:
            words.add(str(error).split(",")[0])
    assert len(words) >= 10


def test_a_server_that_is_wrong_is_found(tmp_path, monkeypatch):
    """An error of Python's, a message that is not ours, a file that is left, one that is read."""

    def wrong(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        return server.check("upload", random.Random(SEED), folder)[1]

    assert wrong(0) == ""
    monkeypatch.setattr("swiftmedsam.server.opened.Opened.described", lambda _: {}["none"])
    assert "500" in wrong(1)
    monkeypatch.undo()
    monkeypatch.setattr("swiftmedsam.server.tabs.Tabs._found", lambda *_: {}["none"])
    for module in ("tabs", "temporary"):
        monkeypatch.setattr(f"swiftmedsam.server.{module}.remove", lambda _: None)
    assert "files are left" in wrong(2)
    monkeypatch.undo()
    monkeypatch.setattr("swiftmedsam.server.opened.Opened._facts", lambda _: "11 x 13 x 3")
    assert "a file was read" in wrong(3)
