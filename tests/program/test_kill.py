"""Killed at random instants and started again, the program writes what it writes undisturbed.

    python -m pytest tests/test_kill.py --kills 200

Five kills are the regression that every run of the tests makes.
"""

import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import HANGS, ROOT, make_case_file, names

SEED = 7
FROM_THE_START = 0.1  # share of the kills that count from the process's start, not from its work
CASES = 4
SIZE = 2500  # pixels: writing then takes about as long as the tiny network


@pytest.fixture
def cases(inputs):
    """Large images, in which the program is often hit while it writes, and a volume."""
    noise = np.random.default_rng(SEED)
    for i in range(CASES):
        imgs = np.tile(noise.integers(0, 255, (SIZE // 10, SIZE), np.uint8), (10, 1))
        corners = noise.integers(0, SIZE // 2, (1, 2))
        boxes = np.concatenate([corners, corners + SIZE // 3], axis=1)
        make_case_file(inputs, f"2DBox_US_{i}.npz", imgs=imgs, boxes=boxes)
    make_case_file(inputs, "3DBox_MR_0.npz")
    return inputs


def test_a_killed_run_that_is_started_again_loses_nothing(cases, tmp_path, tiny_weights, request):
    kills = request.config.getoption("--kills")
    instants = random.Random(SEED)

    def start(outputs):
        command = [sys.executable, "-m", "app", cases, outputs, "--weights", tiny_weights,
                   "--threads", "1", "--skip-existing"]  # fmt: skip
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def contents(outputs):
        """Bytes by name: the same labels are the same file."""
        return {path.name: path.read_bytes() for path in outputs.iterdir()}

    began = time.monotonic()
    with start(tmp_path / "undisturbed") as process:
        lines = [process.stderr.readline()]  # what runs; the network begins to load
        announced = time.monotonic()
        lines += process.communicate(timeout=HANGS)[1].splitlines()
    ended = time.monotonic()
    assert process.returncode == 0, lines
    wanted = contents(tmp_path / "undisturbed")
    assert sorted(wanted) == names(cases)

    tally = dict.fromkeys(("killed", "left a partial", "ended before", "folders", "starts"), 0)
    while tally["killed"] < kills:
        outputs = tmp_path / f"outputs_{tally['folders']}"
        tally["folders"] += 1
        done = False
        while not done:
            disturbed = tally["killed"] < kills
            tally["starts"] += 1
            with start(outputs) as process:
                if disturbed:
                    if instants.random() < FROM_THE_START:
                        time.sleep(instants.uniform(0, announced - began))
                    else:
                        while process.stderr.readline().startswith("removed "):
                            pass
                        time.sleep(instants.uniform(0, ended - announced))
                    process.kill()
                rest = process.communicate(timeout=HANGS)[1]
            done = process.returncode == 0
            if done:
                tally["ended before"] += disturbed
            else:
                assert process.returncode == -9, rest
                tally["killed"] += 1
            found = contents(outputs) if outputs.exists() else {}
            partial = {name for name in found if name.endswith(".partial")}
            tally["left a partial"] += bool(partial)
            for name in found.keys() - partial:  # at every instant, not only in the end
                assert found[name] == wanted[name], name
        assert contents(outputs) == wanted
    print(", ".join(f"{name} {count}" for name, count in tally.items()))  # with -rP
