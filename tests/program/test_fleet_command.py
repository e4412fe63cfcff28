"""`swiftmedsam fleet` writes and says what one process does: all options, with one real worker.

The worker is a process of its own, but none of Ray: `OneProcess` stands in for the cluster. Faults
are in test_fleet.py, Ray in test_fleet_ray.py.
"""

import csv
import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from swiftmedsam.fleet import worker as worker_module
from swiftmedsam.fleet.driver import Finished, Started
from swiftmedsam.fleet.worker import Setup, Worker, agree
from swiftmedsam.program.run_log import read_log
from tests.helpers import ROOT, fresh_logging, image_case, make_case_file, names

FIVE = [f"2DBox_US_{i}.npz" for i in range(5)]
SECONDS = re.compile(r"\d+\.\d+")
_worker = None  # of the process below


def become(setup):
    global _worker
    _worker = Worker(setup)
    return _worker.ready()


def run_case(job):
    return _worker.run(job)


class OneProcess:
    """A pool of one worker, which is a new process; the driver waits for each answer."""

    made = []

    def __init__(self, address, folder, workers, threads):
        self.address, self.threads = address, threads
        self._events = []
        self.made.append(self)

    def connect(self):
        self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def share(self):
        return self.threads, 2 << 30

    def prepare(self, setup, memory):
        self.setup, self.memory = setup, memory

    def close(self):
        self._executor.shutdown()

    def capacity(self):
        return 1

    def nodes(self):
        return {"a"}

    def start(self):
        ready = self._executor.submit(become, self.setup).result()
        self._events.append(Started(1, replace(ready, node="a")))
        return 1

    def send(self, number, job):
        outcome = self._executor.submit(run_case, replace(job, table=None)).result()
        self._events.append(Finished(number, outcome))

    def events(self, seconds):
        if not self._events:
            time.sleep(seconds)
        events, self._events = self._events, []
        return events

    def slices(self, number):
        return 0, 0


@pytest.fixture
def fleet(inputs, outputs, tiny_weights, capsys, monkeypatch):
    """Run the command on the two folders; return exit status and the lines it wrote to stderr."""
    pytest.importorskip("swiftmedsam.fleet.__main__", reason="Ray is not installed")
    from swiftmedsam.fleet.__main__ import main

    ours = types.SimpleNamespace(RayPool=OneProcess)
    monkeypatch.setitem(sys.modules, "swiftmedsam.fleet.ray_pool", ours)
    monkeypatch.setattr(OneProcess, "made", [])
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # restored afterwards

    def run(*options, inputs=inputs, outputs=outputs):
        folders = [str(folder) for folder in (inputs, outputs) if folder is not None]
        words = [*folders, "--weights", str(tiny_weights), "--threads", "1", *map(str, options)]
        with fresh_logging():
            status = main(words)
        out, err = capsys.readouterr()
        assert out == ""
        return status, err.splitlines()

    return run


@pytest.fixture
def cases(inputs):
    """Five images whose masks differ, and a volume."""
    for i, name in enumerate(FIVE):
        make_case_file(inputs, name, imgs=np.roll(image_case()["imgs"], 5 * i, axis=1))
    make_case_file(inputs, "3DBox_MR_0.npz")
    return inputs


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoken(lines):
    """Lines without seconds and hosts."""
    return [SECONDS.sub("#", line).partition(" on ")[0] for line in lines]


def test_outputs_and_messages_are_those_of_one_process(fleet, program, cases, outputs, tmp_path):
    for name in (FIVE[2], FIVE[0]):
        (cases / name).write_bytes(b"no zip")
    whole = tmp_path / "whole"
    options = ["--failures", "failures.json", "--log", "run.jsonl"]
    files = [tmp_path / "one", tmp_path / "many"]
    results = []
    for folder, command, out in zip(files, (program, fleet), (whole, outputs), strict=True):
        folder.mkdir()
        own = [str(folder / word) if "." in word else word for word in options]
        results.append(command(*own, outputs=out))
    (one, lines), (many, fleet_lines) = results
    assert one == many == 1
    assert contents(outputs) == contents(whole)
    assert names(outputs) == [name for name in names(cases) if name not in (FIVE[0], FIVE[2])]
    assert fleet_lines[0].endswith(", workers of 1 threads and 2.1 GB")
    assert spoken(fleet_lines[1:]) == spoken(lines[1:])  # the first is about the network
    assert (files[0] / "failures.json").read_text() == (files[1] / "failures.json").read_text()
    logs = [read_log(folder / "run.jsonl") for folder in files]
    assert logs[0].head["network"] == logs[1].head["network"]
    states = [{name: case["state"] for name, case in log.cases.items()} for log in logs]
    assert states[0] == states[1]
    assert logs[1].status == 1


@pytest.mark.parametrize("words", [["--quiet"], ["--verbose"], []])
def test_the_options_of_messages_count_for_workers_too(fleet, program, cases, tmp_path, words):
    """--verbose also says what a file holds."""
    only = ["--only", "2DBox_US_[01].npz", *words]
    _, lines = program(*only, outputs=tmp_path / "one")
    _, fleet_lines = fleet(*only)
    first = 0 if words == ["--quiet"] else 1
    assert spoken(fleet_lines[first:]) == spoken(lines[first:])


def test_what_is_there_is_skipped_without_any_worker(fleet, cases, outputs):
    assert fleet()[0] == 0
    assert OneProcess.made
    OneProcess.made.clear()
    before = contents(outputs)
    status, lines = fleet("--skip-existing")
    assert (status, OneProcess.made) == (0, [])
    assert lines[-1].startswith("0 written, 6 skipped, 0 failed, ")
    assert contents(outputs) == before


def test_a_fleet_can_do_a_part(fleet, cases, outputs, tmp_path):
    log = tmp_path / "run.jsonl"
    assert fleet("--part", "1/4", "--log", log)[0] == 0
    assert names(outputs) == [FIVE[1], "3DBox_MR_0.npz"]
    assert read_log(tmp_path / "run.part-1-of-4.jsonl").head["cases_of_all_parts"] == 6


def test_scans_with_a_table_are_as_those_of_one_process(fleet, program, mine, tmp_path):
    rows = ["file,name,x_min,y_min,x_max,y_max"]
    for i, file in enumerate(("b.png", "a.png", "c.png")):
        assert cv2.imwrite(str(mine / file), np.roll(image_case()["imgs"], 5 * i, axis=1))
        rows += [f"{file},disc,7,10,43,30", f"{file},other,44,24,72,40"]
    boxes = mine / "boxes.csv"
    boxes.write_text("\n".join(rows))
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder, command in zip(folders, (program, fleet), strict=True):
        folder.mkdir()
        table = folder / "stats.csv"
        status, lines = command(
            "--boxes", str(boxes), "--stats", str(table), inputs=mine, outputs=folder
        )
        assert status == 0, lines
    assert contents(folders[0]).keys() == contents(folders[1]).keys()
    one, many = (contents(folder) for folder in folders)
    tables = [
        list(csv.DictReader(files.pop("stats.csv").decode().splitlines())) for files in (one, many)
    ]
    assert len(tables[0]) == 6
    key = lambda row: (row["scan"], row["label"])  # noqa: E731
    assert sorted(tables[0], key=key) == sorted(tables[1], key=key)
    assert one == many


def test_relative_paths_are_found_by_workers(fleet, cases, outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = [path.relative_to(tmp_path) for path in (cases, outputs)]
    status, lines = fleet("--failures", "f.json", inputs=relative[0], outputs=relative[1])
    assert status == 0, lines
    assert names(outputs) == names(cases)
    assert json.loads((tmp_path / "f.json").read_text()) == []


def test_boxes_are_drawn_without_a_worker(fleet, mine):
    assert cv2.imwrite(str(mine / "a.png"), image_case()["imgs"])
    box = ["--box", "7", "10", "43", "30", "--dry-run"]
    assert fleet(*box, inputs=mine / "a.png", outputs=mine)[0] == 0
    assert (mine / "a_labels_box1.png").exists()
    assert OneProcess.made == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "x*"], "no file named 2DBox_*.npz"),
        (["--weights", "nowhere"], "no weights here"),
        (["--log", "none/x.jsonl"], "cannot be written"),
        (["--precision", "int8"], "precision int8 needs a model in int8, found "),
    ],
)
def test_what_is_wrong_is_one_line_before_ray_is_started(fleet, cases, words, message):
    status, lines = fleet(*words)
    assert (status, len(lines), OneProcess.made) == (1, 1, [])
    assert message in lines[0]


@pytest.mark.parametrize("words", [["--workers", "0"], ["--workers", "two"]])
def test_wrong_usage_is_said(fleet, cases, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        fleet(*words)
    assert stopped.value.code == 2
    assert "argument --workers: expected a whole number above 0" in capsys.readouterr().err


def test_ray_reports_nothing_and_a_ray_of_our_own_has_a_secret(fleet, monkeypatch):
    from swiftmedsam.fleet.__main__ import ray_environment

    monkeypatch.setenv("RAY_AUTH_TOKEN", "that of a cluster")
    with ray_environment("auto") as folder:
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert (os.environ["RAY_AUTH_TOKEN"], names(folder)) == ("that of a cluster", [])
    with ray_environment(None) as folder:
        assert "RAY_AUTH_TOKEN" not in os.environ
        secret = folder / "secret"
        assert (os.environ["RAY_AUTH_MODE"], len(secret.read_text())) == ("token", 64)
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(secret)
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_nodes_that_offer_no_memory_have_room_by_their_cpus():
    """In a process of its own: Ray reads the environment when it is imported."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    code = """
from pathlib import Path
from swiftmedsam.fleet.ray_pool import RayPool
from swiftmedsam.fleet.worker import Agreement, Setup
pool = RayPool("auto", Path(), None, 2)
nodes = [{"Alive": True, "NodeID": "a", "Resources": {"CPU": 4.0}}]
pool._alive = lambda: nodes
threads, memory = pool.share()
pool.prepare(Setup("name", None, threads, None, Agreement("", "", "", {})), memory)
print(pool.capacity(), pool.nodes())
"""
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=quiet, capture_output=True, text=True
    )
    assert done.stdout == "2 {'a'}\n", done.stderr


# Who takes part


@pytest.fixture
def setup(tiny_weights):
    return Setup("name", tiny_weights, 1, None, agree(tiny_weights, "f32"))


@pytest.fixture
def refusal(monkeypatch):
    """Why a worker of a setup takes no part, "" if it does."""
    monkeypatch.setattr("swiftmedsam.atomic._marked", "")  # restored afterwards

    def ask(setup):
        return Worker(setup).ready().refusal

    with fresh_logging():
        yield ask


def test_a_worker_with_the_same_program_and_weights_takes_part(refusal, setup):
    assert refusal(setup) == ""


def test_a_worker_with_another_version_takes_no_part(refusal, setup):
    versions = setup.agreement.versions | {"numpy": "1.0"}
    other = replace(setup, agreement=replace(setup.agreement, versions=versions))
    assert refusal(other) == f"has numpy {np.__version__}, the driver has 1.0"


def test_a_worker_with_other_weights_takes_no_part(refusal, setup, tiny_weights, tmp_path):
    agreement = replace(setup.agreement, manifest="0" * 64)
    reason = refusal(replace(setup, agreement=agreement))
    assert reason == f"{tiny_weights}: has other weights than the driver"
    assert "no weights here" in refusal(replace(setup, weights=tmp_path / "none"))


def test_a_worker_that_lacks_the_precision_takes_no_part(refusal, setup):
    other = replace(setup, agreement=replace(setup.agreement, precision="int8+f32"))
    assert "precision int8 needs a model in int8" in refusal(other)


def test_a_worker_whose_cpu_computes_in_another_precision_takes_no_part(refusal, monkeypatch):
    """INT8 with the other layers in bf16, and in f32, are two precisions."""
    strong = {"avx512bw", "avx512_vnni", "avx512_bf16"}
    monkeypatch.setattr(worker_module, "cpu_flags", lambda: strong)
    agreement = agree(None, "int8")
    assert agreement.precision == "int8+bf16"
    monkeypatch.setattr("swiftmedsam.network.cpu_flags", lambda: strong - {"avx512_bf16"})
    assert refusal(Setup("name", None, 1, None, agreement)) == (
        "its CPU computes in int8+f32, and the run in int8+bf16 (--precision f32 suits every CPU)"
    )


def test_the_driver_chooses_the_precision_that_a_run_would(tiny_weights, tiny_network):
    assert agree(tiny_weights, "auto").precision == tiny_network.precision
