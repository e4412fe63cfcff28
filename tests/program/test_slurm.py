"""The job array of examples/slurm_array.sh, run by a SLURM that this test starts.

It needs slurmctld, slurmd and sbatch: `apt-get install slurmctld slurmd slurm-client`.
"""

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from tests.helpers import HANGS, ROOT, free_ports, make_case_file, names

NEEDED = ("slurmctld", "slurmd", "sbatch", "sinfo")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Found as `swiftmedsam` by the jobs: the command of this checkout.
COMMAND = """#!/bin/sh
PYTHONPATH={root} exec {python} -m swiftmedsam "$@"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM of one node; returns the environment of its commands."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if absent := [name for name in NEEDED if shutil.which(name, path=path) is None]:
        reason = f"not installed: {', '.join(absent)}"
        if os.environ.get("REQUIRE_SLURM"):  # .ci/run has installed it
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    command = folder / "bin" / "swiftmedsam"
    command.write_text(COMMAND.format(root=ROOT, python=sys.executable))
    command.chmod(0o755)
    controller, daemon = free_ports(2)
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(
        host=host, controller=controller, daemon=daemon, user=getpass.getuser(), folder=folder,
    ))  # fmt: skip
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    own |= {"PATH": f"{folder / 'bin'}:{path}", "SLURM_CONF": str(configuration)}
    with contextlib.ExitStack() as stack:
        for words in (["slurmctld"], ["slurmd", "-N", host]):
            said = stack.enter_context((folder / f"{words[0]}.log").open("w"))
            process = subprocess.Popen(
                [*words, "-D", "-f", configuration], env=own, stdout=said, stderr=said
            )
            stack.callback(process.wait, HANGS)
            stack.callback(process.terminate)
        wait_for_the_node(own, folder)
        yield own


def wait_for_the_node(environment, folder):
    asked = ["sinfo", "--noheader", "--format=%T"]
    until = time.monotonic() + HANGS
    while time.monotonic() < until:
        done = subprocess.run(
            asked, env=environment, capture_output=True, text=True, check=False, timeout=HANGS
        )
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    pytest.fail("".join(path.read_text() for path in folder.glob("*.log")))


@pytest.fixture
def submit(slurm, tmp_path, tiny_weights):
    """Run the example's array in `tmp_path` to its end; return the logs of its tasks by number."""

    def run(array, *options):
        for path in tmp_path.glob("task_*"):
            path.unlink()
        words = ["sbatch", "--wait", f"--array={array}", "--cpus-per-task=1", "--mem=1G",
                 "--output=task_%a", ROOT / "examples" / "slurm_array.sh", "inputs", "new/outputs",
                 "--weights", tiny_weights, *options]  # fmt: skip
        done = subprocess.run(
            words, cwd=tmp_path, env=slurm, capture_output=True, text=True, check=False
        )
        logs = {int(path.name[5:]): path.read_text() for path in tmp_path.glob("task_*")}
        assert logs, done.stderr
        return done.returncode, logs

    return run


def merge(slurm, folder):
    words = ["swiftmedsam", "merge", "--log", "run.jsonl", "--failures", "failures.json"]
    done = subprocess.run(
        words, cwd=folder, env=slurm, capture_output=True, text=True, check=False, timeout=HANGS
    )
    return done.returncode, done.stderr.splitlines()


def test_the_array_of_the_example_segments_a_folder(
    submit, slurm, inputs, outputs, program, tmp_path
):
    """Numbered from 1; with a case that fails, an array with gaps, and a task run again."""
    for i in range(5):
        make_case_file(inputs, f"2DBox_US_{i}.npz")
    (inputs / "2DBox_US_5.npz").write_bytes(b"no zip")
    status, logs = submit("1-3")
    assert status == 1, logs
    assert sorted(logs) == [1, 2, 3]
    for task, log in logs.items():
        assert log.startswith(f"part {task - 1}/3 (by SLURM_ARRAY_TASK_ID): 2 of 6 cases\n"), log
    assert "2 written, 0 skipped, 0 failed, " in logs[1]
    assert "1 written, 0 skipped, 1 failed, " in logs[3]
    assert names(outputs) == [f"2DBox_US_{i}.npz" for i in range(5)]
    status, lines = merge(slurm, tmp_path)
    assert (status, lines[-1]) == (1, "3 of 3 parts: 5 written, 0 skipped, 1 failed, 0 not done")
    (failure,) = json.loads((tmp_path / "failures.json").read_text())
    assert failure["file"] == "2DBox_US_5.npz"

    make_case_file(inputs, "2DBox_US_5.npz")
    status, logs = submit("2")  # that task alone would be the whole array
    assert status == 2
    assert "argument --part: the array of tasks 2 to 2 may be a few tasks of a larger" in logs[2]
    status, logs = submit("0,2-3")
    assert status == 2
    assert all("the array has gaps (3 tasks from 0 to 3)" in log for log in logs.values())
    status, logs = submit("2", "--part", "auto/3")
    assert status == 0, logs
    assert "1 written, 1 skipped, 0 failed, " in logs[2]
    status, lines = merge(slurm, tmp_path)
    assert (status, lines) == (0, ["3 of 3 parts: 5 written, 1 skipped, 0 failed, 0 not done"])
    assert json.loads((tmp_path / "failures.json").read_text()) == []

    whole = tmp_path / "whole"
    assert program("--quiet", outputs=whole)[0] == 0
    for path in whole.iterdir():
        assert (outputs / path.name).read_bytes() == path.read_bytes()
