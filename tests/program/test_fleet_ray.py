"""`swiftmedsam fleet` on a real Ray: two nodes on this machine, and faults that are real deaths.

Which cases kill, hang or are hit while they are written is arranged in the workers alone, by an
audit hook of Python: it sees each file that is opened or renamed. The program knows nothing of it.
"""

import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest

from swiftmedsam.program.run_log import read_log
from tests.helpers import HANGS, ROOT, image_case, make_case_file, names

MANY = 200  # cases of the runs that are disturbed
STARTS = 5  # Ray gives up a node that takes 15 s to start, as on a machine that is busy

# In the workers' folder of modules: what happens to files of certain names.
HOOK = """
import os, signal, sys, time

MARKS = {marks!r}

def first(name):
    try:
        os.close(os.open(os.path.join(MARKS, name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def hook(event, values):
    if event == "open" and isinstance(values[0], str) and values[0].endswith(".npz"):
        name = os.path.basename(values[0])
        if "kills" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hangs" in name:
            time.sleep(100000)
    if event == "os.rename" and "dies_writing" in str(values[1]) and first("died"):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""


def ray_starts():
    """Whether Ray can start here at all: it may lack an address of its own, or shared memory."""
    code = "import ray; ray.init(num_cpus=1, include_dashboard=False); ray.shutdown()"
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, env=quiet, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of Ray's nodes and of drivers; Ray reads it when it is imported."""
    if importlib.util.find_spec("ray") is None or not ray_starts():
        if os.environ.get("REQUIRE_RAY"):  # .ci/run has seen it start
            pytest.fail("Ray does not start")
        pytest.skip("Ray does not start here")
    folder = tmp_path_factory.mktemp("modules")
    (folder / "marks").mkdir()
    (folder / "sitecustomize.py").write_text(HOOK.format(marks=str(folder / "marks")))
    secret = folder / "secret"
    secret.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(secret))
        patch.delenv("RAY_ADDRESS", raising=False)
        drivers = dict(os.environ)
        path = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))  # of the nodes
        yield drivers


@pytest.fixture(scope="module")
def cluster(environment):
    """A cluster whose head has no CPU; tests add nodes."""
    import ray
    from ray.cluster_utils import Cluster

    options = {"object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster()
    retried(cluster.add_node, num_cpus=0, **options)
    cluster.add = lambda: retried(cluster.add_node, num_cpus=1, memory=2 << 30, **options)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def retried(start, **options):
    for attempt in range(1, STARTS + 1):
        try:
            return start(**options)
        except Exception:  # Ray raises this kind
            if attempt == STARTS:
                raise


@pytest.fixture
def two_nodes(cluster):
    nodes = [cluster.add(), cluster.add()]
    yield nodes
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


@pytest.fixture
def start_here(environment, tiny_weights, tmp_path):
    """Start a driver without a cluster; its process group is ended after the test."""
    with contextlib.ExitStack() as stack:

        def run(inputs, outputs, *options, **more):
            words = [sys.executable, "-m", "swiftmedsam", "fleet", inputs, outputs,
                     "--weights", tiny_weights, "--threads", "1", *options]  # fmt: skip
            said = stack.enter_context((tmp_path / f"said_{secrets.token_hex(4)}").open("w+"))
            process = subprocess.Popen(
                [str(word) for word in words], cwd=ROOT, env=environment | more, stderr=said,
                start_new_session=True,
            )  # fmt: skip
            process.said = lambda: (said.seek(0), said.read())[1]
            stack.callback(process.wait)
            stack.callback(end, process)
            return process

        yield run


@pytest.fixture
def start(start_here, two_nodes, cluster):
    """Start a driver on the cluster."""

    def run(inputs, outputs, *options, **more):
        return start_here(inputs, outputs, "--address", cluster.address, *options, **more)

    return run


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def ended(process):
    """The exit status of a driver, and what it said."""
    process.wait(timeout=HANGS)
    return process.returncode, process.said()


def entries(log):
    """The lines of a log so far, without one that is being written."""
    if not log.exists():
        return []
    *lines, _ = log.read_text().split("\n")
    return [json.loads(line) for line in lines]


def begun(log):
    """How often each case was begun, by the log of a driver."""
    return Counter(one["file"] for one in entries(log) if one.get("state") == "begun")


def wait_for(process, log, count):
    """Return when a driver has written `count` cases."""
    until = time.monotonic() + HANGS
    while sum(one.get("state") == "written" for one in entries(log)) < count:
        assert process.poll() is None, process.said()
        assert time.monotonic() < until, process.said()
        time.sleep(0.05)


@pytest.fixture
def many(inputs):
    for i in range(MANY):
        imgs = np.roll(image_case()["imgs"], i, axis=1)
        make_case_file(inputs, f"2DBox_US_{i:03}.npz", imgs=imgs)
    return inputs


@pytest.fixture
def whole(program, tmp_path):
    """The outputs of one process, by name."""

    def run(inputs):
        assert program("--quiet", inputs=inputs, outputs=tmp_path / "whole")[0] == 0
        return {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_deaths_of_workers_lose_no_case_and_name_the_guilty_ones(
    start, whole, inputs, outputs, tmp_path
):
    """One is killed while it writes; a case kills all; one raises; one hangs."""
    good = [f"2DBox_US_{i}.npz" for i in range(8)] + ["2DBox_US_dies_writing.npz"]
    for i, name in enumerate(good):
        make_case_file(inputs, name, imgs=np.roll(image_case()["imgs"], i, axis=1))
    wanted = whole(inputs)
    bad = {"raises": "2DBox_US_raises.npz", "kills": "2DBox_US_1_kills.npz",
           "hangs": "2DBox_US_2_hangs.npz"}  # fmt: skip
    for name in bad.values():
        make_case_file(inputs, name)
    (inputs / bad["raises"]).write_bytes(b"no zip")
    files = [tmp_path / "failures.json", tmp_path / "run.jsonl"]
    process = start(inputs, outputs, "--failures", files[0], "--log", files[1], "--timeout", "15")
    status, said = ended(process)
    assert status == 1, said
    assert contents(outputs) == wanted  # and nothing half-written beside them
    failures = {one["file"]: one["message"] for one in json.loads(files[0].read_text())}
    assert sorted(failures) == sorted(bad.values()), said
    assert "2 workers died with it" in failures[bad["kills"]]
    assert failures[bad["kills"]].count("its process was killed or crashed") == 2
    assert failures[bad["hangs"]].count("killed, no answer in 30 s") == 2
    assert "not a readable npz file" in failures[bad["raises"]]
    counts = begun(files[1])
    assert counts == dict.fromkeys(good, 1) | {
        "2DBox_US_dies_writing.npz": 2, bad["raises"]: 1, bad["kills"]: 2, bad["hangs"]: 2
    }  # fmt: skip
    assert "5 workers died\n9 written, 0 skipped, 3 failed, " in said
    print(said)  # with -rP


def test_a_lost_node_costs_only_its_running_cases(
    two_nodes, cluster, start, whole, many, outputs, tmp_path
):
    log = tmp_path / "run.jsonl"
    process = start(many, outputs, "--log", log)
    wait_for(process, log, MANY // 4)
    cluster.remove_node(two_nodes[1], allow_graceful=False)
    done = len(names(outputs))
    cluster.add()
    status, said = ended(process)
    assert status == 0, said
    assert contents(outputs) == whole(many)
    twice = [name for name, count in begun(log).items() if count > 1]
    assert len(twice) <= 1  # the node had one worker
    assert sum(begun(log).values()) == MANY + len(twice)
    print(f"{done} outputs when the node was lost, {len(twice)} case done twice")  # with -rP
    print(said)


def test_drivers_that_end_or_run_side_by_side_leave_whole_files(
    start, whole, many, outputs, tmp_path
):
    wanted = whole(many)
    logs = [tmp_path / f"run_{i}.jsonl" for i in range(4)]

    def driver(number):
        return start(many, outputs, "--log", logs[number], "--skip-existing", "--workers", "1")

    first = driver(0)
    wait_for(first, logs[0], 20)
    first.send_signal(signal.SIGTERM)
    status, said = ended(first)
    assert status == 143
    assert said.splitlines()[-1].startswith("stopped by SIGTERM: ")
    assert not [name for name in names(outputs) if name.endswith(".partial")]
    second = driver(1)
    wait_for(second, logs[1], 20)
    second.kill()
    second.wait()
    both = [driver(2), driver(3)]
    for process in both:
        status, said = ended(process)
        assert status == 0, said
    found = contents(outputs)
    left = {name for name in found if name.endswith(".partial")}  # of the one that was killed
    assert len(left) <= 1
    assert {name: found[name] for name in found.keys() - left} == wanted
    times = sum((begun(log) for log in logs), Counter())
    assert sorted(times) == names(many)
    counts = [begun(log) for log in logs]
    for i in (0, 1):  # of a driver with one worker that ended, only its running case is begun again
        later = sum(counts[i + 1 :], Counter())
        assert len(counts[i].keys() & later.keys()) <= 1
    # and what the last two had at the same time
    twice = [name for name, count in times.items() if count > 1]
    print(f"{len(twice)} of {MANY} cases begun twice")  # with -rP
    assert len(twice) < MANY // 5  # by chance: in the same order all would be
    written = [len(read_log(log).of_state("written")) for log in logs]
    assert sum(written) >= MANY - 1


def test_without_a_cluster_the_workers_are_on_this_machine(start_here, program, mine, tmp_path):
    """Scans with a table; Ray leaves neither processes nor files."""
    rows = ["file,name,x_min,y_min,x_max,y_max"]
    for i in range(6):
        imgs = np.roll(image_case()["imgs"], 5 * i, axis=1)
        assert cv2.imwrite(str(mine / f"{i}.png"), imgs)
        rows.append(f"{i}.png,disc,7,10,43,30")
    (mine / "boxes.csv").write_text("\n".join(rows))
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
    options = [["--boxes", str(mine / "boxes.csv"), "--stats", str(folder / "stats.csv")]
               for folder in folders]  # fmt: skip
    assert program(*options[0], inputs=mine, outputs=folders[0])[0] == 0
    process = start_here(mine, folders[1], *options[1], "--workers", "2")
    status, said = ended(process)
    assert status == 0, said
    assert contents(folders[0]) == contents(folders[1])
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_fleet_works_in_a_store_whose_faults_and_deaths_cost_no_other_case(
    server, bucket, cache, start, whole, inputs, tmp_path
):
    """A case kills its worker while it is fetched; the store is late, busy, and breaks off."""
    good = [f"2DBox_US_{i}.npz" for i in range(12)]
    for i, name in enumerate(good):
        make_case_file(inputs, name, imgs=np.roll(image_case()["imgs"], i, axis=1))
    wanted = whole(inputs)
    make_case_file(inputs, "2DBox_US_kills.npz")
    server.upload(inputs, f"{bucket}/in")
    server.faults(
        {"do": "late", "seconds": 2, "method": "GET", "key": "in/2DBox_US_1", "times": 2},
        {"do": "503", "method": "PUT", "key": "out/2DBox_US_2", "times": 1},
        {"do": "503", "method": "GET", "key": "in/2DBox_US_3", "times": 1},
        {"do": "break", "method": "GET", "key": "in/2DBox_US_4", "times": 1},
        {"do": "break", "method": "PUT", "key": "out/2DBox_US_5", "times": 1},
    )
    files = [tmp_path / "failures.json", tmp_path / "run.jsonl"]
    urls = [f"s3://{bucket}/in", f"s3://{bucket}/out"]
    options = ["--failures", files[0], "--log", files[1], "--cache", cache, "--skip-existing"]
    status, said = ended(start(*urls, *options, **server.environment))
    assert status == 1, said
    assert server.contents(f"{bucket}/out") == wanted
    (failure,) = json.loads(files[0].read_text())
    assert failure["file"] == "2DBox_US_kills.npz"
    assert "2 workers died with it" in failure["message"]
    assert begun(files[1]) == dict.fromkeys(good, 1) | {"2DBox_US_kills.npz": 2}
    assert "12 written, 0 skipped, 1 failed, " in said
    assert said.count("trying again in") >= 3, said
    print(said)  # with -rP
    server.faults()
    status, said = ended(start(*urls, *options, **server.environment))
    assert "0 written, 12 skipped, 1 failed, " in said
    lists = server.requests("list-type=2")
    assert len(lists) <= 3, lists
