"""The seeds of the fuzzer, and random changes of them: a case or one line, and nothing else."""

import random
import subprocess
import sys

import pytest
from test_layers import ROOT

from app import read_case
from fuzz.inputs import HEAD, check, write
from fuzz.make_corpus import CORPUS, seeds

CHANGES = 40  # of each seed
SEED = 7


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


def changed(data: bytes, chance: random.Random) -> bytes:
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
            good += check(changed(data, chance), tmp_path)
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
