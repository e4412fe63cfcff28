"""Runs in parts: which cases a part takes, what it writes, and what `swiftmedsam merge` finds."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from swiftmedsam.commands import main as swiftmedsam
from swiftmedsam.program.options import parse
from swiftmedsam.program.parts import Part, parse_part
from swiftmedsam.program.run_log import RunLog, read_log
from tests.helpers import (
    HANGS,
    ROOT,
    fresh_logging,
    image_case,
    make_case_file,
    make_shifted_cases,
    names,
)
from tests.helpers.photos import make_photos

FIVE = [f"2DBox_US_{i}.npz" for i in range(5)]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """As if no cluster had started this test."""
    for name in ("ID", "MIN", "MAX", "STEP", "COUNT"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)


@pytest.fixture
def cases(inputs):
    """Five cases whose masks differ."""
    make_shifted_cases(inputs, FIVE)
    return inputs


@pytest.fixture
def scans(mine):
    """A table of boxes and its scans: three, two of which are called alike."""
    return make_photos(mine, mine / "boxes.csv")


def contents(folder):
    """Bytes by name, of the files of a folder and those below."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_parts(program, count, *options, **where):
    """Run all parts one after the other; return their exit statuses."""
    return [program("--part", f"{i}/{count}", *options, **where)[0] for i in range(count)]


def slurm(number, **array):
    values = {"ID": number, **array}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


# Which cases


@pytest.mark.parametrize(
    ("part", "taken"),
    [
        ("0/1", "abcdefg"), ("0/2", "aceg"), ("1/2", "bdf"), ("0/3", "adg"), ("2/3", "cf"),
        ("6/7", "g"), ("6/8", "g"), ("7/8", ""), ("999/1000", ""),
    ],
)  # fmt: skip
def test_a_part_takes_every_nth_case_by_name(part, taken):
    assert parse_part(part).take(list("gbdacfe"), str) == list(taken)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
def test_each_case_is_in_one_part_and_parts_are_of_equal_size(count):
    parts = [Part(i, count).take(range(20), str) for i in range(count)]
    assert sorted(case for part in parts for case in part) == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "environment", "index", "count"),
    [
        ("2/8", {}, 2, 8),
        ("2/8", slurm(5, MIN=0, MAX=7, STEP=1, COUNT=8), 2, 8),  # what is typed counts
        ("auto", slurm(5, MIN=0, MAX=7, STEP=1, COUNT=8), 5, 8),
        ("auto", slurm(8, MIN=1, MAX=8, STEP=1, COUNT=8), 7, 8),
        ("auto", slurm(6, MIN=0, MAX=14, STEP=2, COUNT=8), 3, 8),
        ("auto", slurm(0, MIN=0, MAX=0, STEP=1, COUNT=1), 0, 1),
        ("auto/8", slurm(5, MIN=5, MAX=5, STEP=1, COUNT=1), 5, 8),  # one task, again
        ("auto/8", {"JOB_COMPLETION_INDEX": "5"}, 5, 8),
        ("auto/8", {"JOB_COMPLETION_INDEX": "5", "SLURM_ARRAY_TASK_ID": ""}, 5, 8),
    ],
)
def test_a_part_is_typed_or_taken_from_the_environment(text, environment, index, count):
    part = parse_part(text, environment)
    assert (part.index, part.count) == (index, count)


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("8/8", {}, "parts count from 0: of 8 the last is 7, got 8/8"),
        ("3", {}, "expected I/N, auto or auto/N, got '3'"),
        ("", {}, "got ''"),
        ("-1/8", {}, "got '-1/8'"),
        ("1/8/2", {}, "got '1/8/2'"),
        ("1/", {}, "got '1/'"),
        ("/8", {}, "got '/8'"),
        ("1.0/8", {}, "got '1.0/8'"),
        ("Auto", {}, "got 'Auto'"),
        ("auto/", {}, "got 'auto/'"),
        ("0/0", {}, "expected at least 1 part, got '0/0'"),
        ("auto", {}, "auto needs SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, and neither is set"),
        ("auto/8", {}, "neither is set"),
        ("auto", {"JOB_COMPLETION_INDEX": "1"}, "how many parts there are, expected auto/N"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "8"}, "the last is 7, JOB_COMPLETION_INDEX is 8"),
        ("auto/8", {"JOB_COMPLETION_INDEX": "x"}, "whole number in JOB_COMPLETION_INDEX, found"),
        ("auto/8", slurm(8), "of 8 the last is 7, SLURM_ARRAY_TASK_ID is 8"),
        ("auto/8", slurm(1) | {"JOB_COMPLETION_INDEX": "1"}, "and both are set"),
        ("auto", slurm(3), "whole number in SLURM_ARRAY_TASK_MIN, found ''"),
        ("auto", slurm(3, MIN=0, MAX=7, STEP=1, COUNT=3), "has gaps (3 tasks from 0 to 7)"),
        ("auto", slurm(3, MIN=0, MAX=7, STEP=0, COUNT=8), "has gaps"),
        ("auto", slurm(5, MIN=5, MAX=5, STEP=1, COUNT=1), "tasks 5 to 5 may be a few tasks of a"),
        ("auto", slurm(4, MIN=4, MAX=5, STEP=1, COUNT=2), "tasks 4 to 5 may be a few tasks of a"),
        ("auto", slurm(1, MIN=1, MAX=1, STEP=1, COUNT=1), "tasks 1 to 1 may be a few tasks of a"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_one_clear_line(text, environment, words):
    with pytest.raises(ValueError) as caught:
        parse_part(text, environment)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


def test_a_wrong_part_is_wrong_usage(program, cases, outputs, capsys):
    with pytest.raises(SystemExit) as stopped:
        program("--part", "8/8")
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith("argument --part: parts count from 0: of 8 the last is 7, got 8/8")
    assert not outputs.exists()


def test_of_two_parts_the_last_one_counts(program, cases, outputs):
    """A script may say `--part auto`, and whoever starts it again name a part."""
    assert program("--part", "auto", "--part", "1/5")[0] == 0
    assert names(outputs) == [FIVE[1]]


def test_the_environment_alone_leaves_no_case_out(program, cases, outputs, monkeypatch):
    for name, value in slurm(1, MIN=0, MAX=3, STEP=1, COUNT=4).items():
        monkeypatch.setenv(name, value)
    status, lines = program()
    assert (status, names(outputs)) == (0, FIVE)
    assert not any("part" in line for line in lines)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    for path in outputs.iterdir():
        path.unlink()
    status, lines = program("--part", "auto")
    assert (status, names(outputs)) == (0, [FIVE[3]])
    assert lines[0] == "part 3/4 (by SLURM_ARRAY_TASK_ID): 1 of 5 cases"


# What a part writes


def test_the_parts_write_what_one_run_writes(program, cases, outputs, tmp_path):
    whole = tmp_path / "whole"
    assert program(outputs=whole)[0] == 0
    for i, own in enumerate(([0, 3], [1, 4], [2])):
        before = contents(outputs) if outputs.exists() else {}
        status, lines = program("--part", f"{i}/3")
        assert status == 0
        assert lines[0] == f"part {i}/3: {len(own)} of 5 cases"
        assert lines[-1].startswith(f"{len(own)} written, 0 skipped, 0 failed, ")
        after = contents(outputs)
        assert before.items() <= after.items()
        assert sorted(path.name for path in after.keys() - before.keys()) == [FIVE[k] for k in own]
    for name in FIVE:
        assert (outputs / name).read_bytes() == (whole / name).read_bytes()


def test_only_is_applied_before_the_cases_are_shared_out(program, cases, outputs):
    assert program("--only", "2DBox_US_[123].npz", "--part", "1/2")[0] == 0
    assert names(outputs) == [FIVE[2]]


def test_a_part_without_a_case_is_none_that_failed(program, cases, outputs, tmp_path, merge):
    files = ["--log", tmp_path / "run.jsonl", "--failures", tmp_path / "f.json"]
    status, lines = program("--part", "7/8", *map(str, files))
    assert (status, names(outputs)) == (0, [])
    assert lines[0] == "part 7/8: 0 of 5 cases"
    assert json.loads((tmp_path / "f.part-7-of-8.json").read_text()) == []
    assert read_log(tmp_path / "run.part-7-of-8.jsonl").status == 0


def test_each_part_has_its_own_files(program, cases, outputs, tmp_path):
    (cases / FIVE[3]).write_bytes(b"no zip")
    options = ["--log", str(tmp_path / "run.jsonl"), "--failures", str(tmp_path / "failed")]
    assert in_parts(program, 2, *options) == [0, 1]
    found = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert found == {
        f"{name}.part-{i}-of-2{suffix}" for i in (0, 1)
        for name, suffix in (("run", ".jsonl"), ("failed", ""))
    }  # fmt: skip
    (failure,) = json.loads((tmp_path / "failed.part-1-of-2").read_text())
    assert failure["file"] == FIVE[3]
    log = read_log(tmp_path / "run.part-1-of-2.jsonl")
    assert [(name, case["state"]) for name, case in log.cases.items()] == [
        (FIVE[1], "written"), (FIVE[3], "failed")
    ]  # fmt: skip
    assert log.cases[FIVE[3]]["message"] == failure["message"]
    assert log.cases[FIVE[1]]["output"] == str(outputs / FIVE[1])
    assert (log.part, log.status) == (Part(1, 2), 1)


def test_files_of_a_part_that_cannot_be_written_are_told_before_the_work(
    program, cases, outputs, tmp_path
):
    for option in ("--log", "--failures"):
        status, lines = program("--part", "0/2", option, str(tmp_path / "none" / "x.json"))
        assert (status, names(outputs)) == (1, [])
        assert lines[-1].startswith(f"{tmp_path}/none/x.part-0-of-2.json: cannot be written")
    same = str(tmp_path / "x")
    status, lines = program("--part", "0/2", "--log", same, "--failures", same)
    assert status == 1
    assert lines[-1].endswith("is the name of another output, too")


def test_a_run_that_is_no_part_has_a_log_too(program, cases, tmp_path):
    (cases / FIVE[0]).write_bytes(b"no zip")
    file = tmp_path / "run.jsonl"
    assert program("--log", str(file))[0] == 1
    assert program("--log", str(file), "--skip-existing")[0] == 1
    log = read_log(file)
    assert [case["state"] for case in log.cases.values()] == ["failed", *["skipped"] * 4]
    assert (log.part, log.head["cases"], log.status) == (Part(0, 1), 5, 1)


def test_a_log_on_a_full_disk_is_told_once_and_the_cases_are_written(
    program, cases, outputs, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = tmp_path / "run.jsonl"
    monkeypatch.setattr("swiftmedsam.program.run_log.json.dumps", full)
    status, lines = program("--quiet", "--log", str(file))
    assert (status, names(outputs)) == (1, FIVE)
    assert lines == [f"{file}: the log could not be written (No space left on device)"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_that_cannot_be_written_ends_no_run_but_its_status(caplog):
    log = RunLog(Path("/dev/full"), None, "tiny, f32", ["a"], {"a": Path("b")})
    log.case("a", "written")
    assert (log.close(0), log.close(143)) == (1, 143)
    assert caplog.messages == ["/dev/full: the log could not be written (No space left on device)"]


def test_a_part_removes_no_partial_file_and_merge_does_when_all_have_ended(
    program, cases, outputs, tmp_path, merge
):
    """Where locks do not reach other hosts, it might be the file of a part that runs there."""
    outputs.mkdir(parents=True)
    partial = outputs / ".segs-abcdefgh.partial"
    partial.touch()
    log = tmp_path / "run.jsonl"
    assert program("--part", "0/2", "--log", str(log))[0] == 0
    assert merge("--log", log)[0] == 1
    assert partial.exists()
    assert program("--part", "1/2", "--log", str(log))[0] == 0
    assert partial.exists()
    assert merge("--log", log)[0] == 0
    assert not partial.exists()


def test_two_scans_with_one_output_are_refused_by_every_part(program, scans, mine, tmp_path):
    for i in range(3):  # c.png is alone in its part
        out = tmp_path / "out"
        status, lines = program("--part", f"{i}/3", "--boxes", str(scans), inputs=mine, outputs=out)
        assert status == 1
        assert "labels would replace those of" in lines[-1]
        assert not out.exists()


def test_scans_in_parts_have_the_labels_and_the_table_of_one_run(program, scans, mine, merge):
    options = ["--boxes", str(scans), "--stats", str(mine / "stats.csv")]
    where = {"inputs": mine, "outputs": None}
    assert program(*options, **where)[0] == 0
    whole = contents(mine)
    for path in whole:
        if "_labels" in path.name:
            path.unlink()
    (mine / "stats.csv").unlink()
    assert in_parts(program, 2, *options, "--log", str(mine / "run.jsonl"), **where) == [0, 0]
    tables = [mine / f"stats.part-{i}-of-2.csv" for i in (0, 1)]
    scans_of = [[row["scan"] for row in rows_of(table)] for table in tables]
    assert scans_of == [["a/photo.png"] * 2 + ["c.png"] * 2, ["b/photo.png"] * 2]
    status, lines = merge("--stats", mine / "stats.csv", "--log", mine / "run.jsonl")
    assert (status, lines) == (0, ["2 of 2 parts: 3 written, 0 skipped, 0 failed, 0 not done"])
    merged = contents(mine)
    assert sorted(rows_of(mine / "stats.csv"), key=str) == sorted(
        csv.DictReader(whole.pop(mine / "stats.csv").decode().splitlines()), key=str
    )
    assert whole.items() <= merged.items()


def rows_of(table):
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_table_keeps_the_rows_of_scans_that_are_skipped(program, scans, mine, merge):
    """Else a part that is started again would lose those of its first start."""
    table, log = mine / "stats.part-0-of-2.csv", mine / "run.jsonl"
    options = ["--boxes", str(scans), "--stats", str(mine / "stats.csv"), "--log", str(log),
               "--part", "0/2", "--skip-existing"]  # fmt: skip
    where = {"inputs": mine, "outputs": None}
    assert program(*options, **where)[0] == 0
    rows = rows_of(table)
    assert len(rows) == 4
    assert program(*options, **where)[0] == 0  # all are skipped
    assert rows_of(table) == rows
    (mine / "a" / "photo_labels.png").unlink()
    assert program(*options, **where)[0] == 0
    assert rows_of(table) == [*rows[2:], *rows[:2]]
    table.write_text("something else\n")  # rows that are lost are told
    assert program(*options, **where)[0] == 0
    status, lines = merge("--stats", mine / "stats.csv", "--log", log, "--parts", 2)
    assert status == 1
    assert "2 scans have no row in the table: a/photo.png, c.png" in lines


def test_a_dry_run_of_a_part_shows_its_own_boxes(program, scans, mine):
    words = ["--dry-run", "--boxes", str(scans), "--part", "1/2"]
    status, lines = program(*words, inputs=mine, outputs=None)
    assert (status, lines[0]) == (0, "part 1/2: 1 of 3 cases")
    pictures = sorted(str(path.relative_to(mine)) for path in mine.rglob("*_box?.png"))
    assert pictures == ["b/photo_labels_box1.png", "b/photo_labels_box2.png"]


def test_cases_of_scans_are_made_in_parts(tmp_path, capsys):
    for folder in ("scans", "labels"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            pixels = image_case()["imgs"] if folder == "scans" else np.eye(48, 80, dtype=np.uint8)
            assert cv2.imwrite(str(tmp_path / folder / f"{i}.png"), pixels)
    folders = [str(tmp_path / name) for name in ("scans", "labels", "out")]
    found = []
    for i in range(2):
        with fresh_logging():
            words = ["cases", "make", *folders, "--modality", "US", "--part", f"{i}/2"]
            assert swiftmedsam(words) == 0
        assert capsys.readouterr().err.startswith(f"part {i}/2: {2 - i} of 3 cases\n")
        found.append(names(tmp_path / "out"))
    assert found == [["2DBox_US_0.npz", "2DBox_US_2.npz"], [f"2DBox_US_{i}.npz" for i in range(3)]]


# Merging


@pytest.fixture
def done(program, cases, outputs, tmp_path):
    """A run of three parts with one case that fails; returns the options for merge."""
    (cases / FIVE[4]).write_bytes(b"no zip")
    options = ["--log", str(tmp_path / "run.jsonl"), "--failures", str(tmp_path / "f.json")]
    assert in_parts(program, 3, "--quiet", *options) == [0, 1, 0]
    return options


def test_merged_files_are_those_of_one_run(done, merge, program, cases, tmp_path):
    status, lines = merge(*done)
    failures = json.loads((tmp_path / "f.json").read_text())
    assert [one["file"] for one in failures] == [FIVE[4]]
    assert lines == [
        failures[0]["message"], "3 of 3 parts: 4 written, 0 skipped, 1 failed, 0 not done"
    ]  # fmt: skip
    assert status == 1
    merged = read_log(tmp_path / "run.jsonl")
    assert program("--quiet", *done)[0] == 1
    assert json.loads((tmp_path / "f.json").read_text()) == failures
    whole = read_log(tmp_path / "run.jsonl")
    assert {name: case["state"] for name, case in merged.cases.items()} == {
        name: case["state"] for name, case in whole.cases.items()
    }
    assert merged.head["names_sha256"] == whole.head["names_sha256"]
    assert merged.status == whole.status
    make_case_file(cases, FIVE[4])
    assert in_parts(program, 3, "--skip-existing", *done) == [0, 0, 0]
    status, lines = merge(*done)
    assert (status, lines) == (0, ["3 of 3 parts: 1 written, 4 skipped, 0 failed, 0 not done"])
    assert json.loads((tmp_path / "f.json").read_text()) == []


@pytest.mark.parametrize("kinds", [["log"], ["failures"], ["log", "failures"]], ids=str)
def test_a_part_that_never_ran_is_found(kinds, done, merge, tmp_path):
    names = {"log": "run.jsonl", "failures": "f.json"}
    files = [tmp_path / names[kind].replace(".", ".part-2-of-3.") for kind in kinds]
    for file in files:
        file.unlink()
    status, lines = merge(*(x for kind in kinds for x in (f"--{kind}", tmp_path / names[kind])))
    missing = " and no ".join(file.name for file in files)
    count = ", 1 cases" if "log" in kinds else ""
    assert status == 1
    assert f"part 2/3: missing, no {missing}{count}" in lines


def test_an_output_that_is_missing_is_found(done, merge, outputs, tmp_path):
    (outputs / FIVE[3]).unlink()
    status, lines = merge(*done)
    assert status == 1
    assert f"part 0/3: 1 outputs missing: {FIVE[3]}" in lines
    moved = outputs.rename(tmp_path / "moved")
    _, lines = merge(*done)
    assert f"part 0/3: 2 outputs missing: {FIVE[0]}, {FIVE[3]}" in lines
    _, lines = merge(*done, "--outputs", moved)
    assert f"part 0/3: 1 outputs missing: {FIVE[3]}" in lines


def test_parts_that_saw_other_cases_are_found(done, merge, program, cases):
    make_case_file(cases, "2DBox_US_5.npz")
    assert program("--part", "2/3", "--skip-existing", *done)[0] == 0
    status, lines = merge(*done)
    assert status == 1
    assert (
        "the parts did not see the same cases, run all of them again (cases seen by part: 0: 5, "
        "1: 5, 2: 6)" in lines
    )


def test_parts_with_another_precision_are_named_and_no_failure(
    program, cases, merge, tmp_path, tiny_network
):
    """As on hosts whose CPUs differ: then masks may differ a little."""
    log = tmp_path / "run.jsonl"
    assert program("--part", "0/2", "--log", str(log))[0] == 0
    assert program("--part", "1/2", "--log", str(log), "--precision", "f32")[0] == 0
    own = tmp_path / "run.part-0-of-2.jsonl"
    used = f'"network": "tiny, {tiny_network.precision}"'
    assert used in own.read_text()
    own.write_text(own.read_text().replace(used, '"network": "tiny, bf16"'))
    status, lines = merge("--log", log)
    assert status == 0
    assert lines[0] == (
        "the parts did not use one network and precision, so labels may differ "
        "(tiny, bf16: 0; tiny, f32: 1)"
    )


def test_files_of_two_runs_are_not_mixed(done, merge, program, tmp_path):
    assert program("--part", "0/2", "--quiet", *done)[0] == 1
    assert merge(*done) == (
        1, [f"{tmp_path}: files of runs of 2 and 3 parts, expected --parts N"]
    )  # fmt: skip
    status, lines = merge(*done, "--parts", 3)
    assert lines[-1].startswith("3 of 3 parts: ")
    _, lines = merge(*done, "--parts", 2)
    assert "part 1/2: missing, no run.part-1-of-2.jsonl and no f.part-1-of-2.json, 2 cases" in lines


def test_what_is_no_file_of_a_part_is_named(done, merge, tmp_path):
    for name, option in (("run.part-0-of-3.jsonl", "--log"), ("f.part-0-of-3.json", "--failures")):
        file = tmp_path / name
        before = file.read_bytes()
        for content in (b"", b"{}\n", b"[1]\n", b"x\n", b"\xff\n", b'{"file": 1}\n'):
            file.write_bytes(content)
            status, lines = merge(*done)
            assert status == 1
            assert f"part 0/3: {file}: is no file of {option}" in lines
        file.write_bytes(before)


def test_the_log_of_another_part_is_named(done, merge, tmp_path):
    (tmp_path / "run.part-2-of-3.jsonl").write_bytes(
        (tmp_path / "run.part-0-of-3.jsonl").read_bytes()
    )
    status, lines = merge(*done)
    assert status == 1
    assert "part 2/3: its log is not that of this part" in lines


def test_nothing_to_merge_is_one_line(merge, tmp_path, capsys):
    assert merge() == (1, ["expected --log, --failures or --stats"])
    file = tmp_path / "stats.csv"
    assert merge("--stats", file) == (
        1, [f"{file}: no file of a part, like stats.part-0-of-8.csv"]
    )  # fmt: skip
    assert merge("--log", tmp_path / "no" / "x") == (
        1, [f"{tmp_path / 'no'}: No such file or directory"]
    )  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        merge("--log", file, "--parts", "0")
    assert stopped.value.code == 2


def test_the_examples_give_options_that_there_are(monkeypatch):
    """That of SLURM is run by test_slurm.py."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "7")
    job = (ROOT / "examples" / "kubernetes_job.yaml").read_text()
    command, more = (re.search(rf"{key}: \[(.*)\]", job)[1] for key in ("command", "args"))
    shell, program, *words = f"{command}, {more}".split(", ")
    assert (shell, program) == ("sh", "predict.sh")
    options = parse(words, "x")
    assert str(options.part) == "7/8"
    assert "completions: 8 " in job
    assert options.failures.name == "failures.part-7-of-8.json"

    rules = (ROOT / "examples" / "Snakefile").read_text()
    (files,) = re.findall('FILES = "(.*)"', rules)
    start, *rest = re.findall('"(swiftmedsam .*|--threads .*)"', rules)
    merge, run = start, "".join(rest)
    assert merge == "swiftmedsam merge {FILES}"
    for name, value in {"{config[inputs]}": "in", "{config[outputs]}": "out", "{FILES}": files,
                        "{wildcards.i}/{PARTS}": "7/8", "{threads}": "4"}.items():  # fmt: skip
        assert name in run
        run = run.replace(name, value)
    options = parse(run.split()[1:], "x")
    assert options.log.name == "run.part-7-of-8.jsonl"
    for path in (options.log, options.failures):  # as Snakemake is told
        said = path.name.replace("-7-of-8", "-{{i}}-of-{PARTS}")
        assert f'f"{said}"' in rules


def test_a_merged_file_replaces_no_output(done, merge, outputs, tmp_path):
    for i in range(3):
        (tmp_path / f"run.part-{i}-of-3.jsonl").rename(
            outputs / f"{FIVE[0][:-4]}.part-{i}-of-3.npz"
        )
    before = contents(outputs)
    status, lines = merge("--log", outputs / FIVE[0])
    assert (status, lines) == (1, [f"{outputs / FIVE[0]}: is the name of another output, too"])
    assert contents(outputs) == before


def test_a_killed_part_is_found_and_loses_nothing_when_started_again(
    cases, outputs, tiny_weights, program, merge, tmp_path
):
    """With the case during which it died."""
    whole = tmp_path / "whole"
    volume = np.tile(np.arange(0, 255, dtype=np.uint8), (150, 200, 1))  # takes long enough
    make_case_file(cases, "3DBox_MR_0.npz", imgs=volume, boxes=np.array([[9, 9, 0, 99, 99, 149]]))
    assert program(outputs=whole)[0] == 0
    log = tmp_path / "run.jsonl"
    options = ["--log", str(log), "--skip-existing"]
    assert program("--part", "0/2", *options)[0] == 0
    command = [sys.executable, "-m", "swiftmedsam", cases, outputs, "--weights", tiny_weights,
               "--threads", "1", "--part", "1/2", *options]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not process.stderr.readline().startswith(FIVE[3]):
            assert process.poll() is None
        own = tmp_path / "run.part-1-of-2.jsonl"
        while '"3DBox_MR_0.npz", "state": "begun"' not in own.read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=HANGS)
    assert process.returncode == -signal.SIGKILL
    with own.open("a") as stream:
        stream.write('{"file": "3DBox')  # a line that was cut
    status, lines = merge("--log", log)
    assert status == 1
    assert lines == [
        "part 1/2: 1 of 3 cases not done, ended in 3DBox_MR_0.npz (it still runs, or was killed): "
        "3DBox_MR_0.npz",
        "2 of 2 parts: 5 written, 0 skipped, 0 failed, 1 not done",
    ]
    assert program("--part", "1/2", *options)[0] == 0
    status, lines = merge("--log", log)
    assert (status, lines) == (0, ["2 of 2 parts: 4 written, 2 skipped, 0 failed, 0 not done"])
    for path in whole.iterdir():
        assert (outputs / path.name).read_bytes() == path.read_bytes()
