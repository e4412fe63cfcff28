"""Runs with URLs on a real S3 server: what is written, which faults of the store it bears."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from swiftmedsam.commands import main as swiftmedsam
from swiftmedsam.program import npz_jobs
from swiftmedsam.program.run_log import read_log
from swiftmedsam.store import remote
from tests.helpers import HANGS, ROOT, make_case_file, make_shifted_cases, names

FIVE = [f"2DBox_US_{i}.npz" for i in range(5)]


@pytest.fixture
def cases(inputs, server, bucket):
    """Five cases whose masks differ, here and in the bucket."""
    make_shifted_cases(inputs, FIVE)
    server.upload(inputs, f"{bucket}/in")
    return inputs


@pytest.fixture
def expected(program, cases, outputs):
    """The outputs of a run on this machine, by name."""
    assert program("--quiet")[0] == 0
    return {path.name: path.read_bytes() for path in outputs.iterdir()}


# One machine


def test_a_run_in_a_store_writes_what_a_run_here_writes(stored, server, bucket, expected, tmp_path):
    status, lines = stored("--log", str(tmp_path / "run.jsonl"))
    assert (status, lines[-1][:32]) == (0, "5 written, 0 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == expected
    log = read_log(tmp_path / "run.jsonl")
    assert log.cases[FIVE[0]]["output"] == f"s3://{bucket}/out/{FIVE[0]}"
    assert not any("swiftmedsam-store-" in line for line in lines)


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_inputs_alone_or_outputs_alone_may_be_in_a_store(
    where, stored, server, bucket, cases, expected, tmp_path
):
    here = {"outputs": tmp_path / "here"} if where == "inputs" else {"inputs": cases}
    assert stored(**here)[0] == 0
    if where == "inputs":
        found = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    else:
        found = server.contents(f"{bucket}/out")
    assert found == expected


def test_one_case_may_be_named(stored, server, bucket, expected):
    assert stored(inputs=f"s3://{bucket}/in/{FIVE[2]}")[0] == 0
    assert server.contents(f"{bucket}/out") == {FIVE[2]: expected[FIVE[2]]}


def test_names_that_no_file_can_have_are_left_alone_and_told(stored, server, bucket, expected):
    for key in ("in/", "in/../2DBox_US_8.npz", "in//2DBox_US_8.npz"):
        server.put(bucket, key, b"")
    status, lines = stored()
    assert (status, lines[-1][:32]) == (0, "5 written, 0 skipped, 0 failed, "), lines
    assert server.contents(f"{bucket}/out") == expected


def test_skip_existing_asks_the_store_once_and_not_per_case(stored, server, bucket, expected):
    kept = {FIVE[1]: b"kept", FIVE[3]: b"kept, too"}
    for name, content in kept.items():
        server.files.pipe_file(f"{bucket}/out/{name}", content)
    status, lines = stored("--skip-existing")
    assert (status, lines[-1][:32]) == (0, "3 written, 2 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == expected | kept
    server.faults()
    status, lines = stored("--skip-existing")
    assert (status, lines[-1][:32]) == (0, "0 written, 5 skipped, 0 failed, ")
    # two lists, the folder of the inputs is one, and a file to see whether outputs can be stored
    asked = server.requests()
    assert len(server.requests("list-type=2")) <= 3, asked
    assert len(asked) <= 6, asked


@pytest.mark.parametrize("is_small", [False, True])
def test_the_next_case_is_fetched_while_one_runs_if_the_cache_may_hold_both(
    is_small, stored, cases, server, bucket, cache, monkeypatch
):
    """And no more than these two are in the cache."""
    found = []

    def segment_file(path, *words):
        following = FIVE[FIVE.index(path.name) + 1 :][:1]
        if following and not is_small:
            wait_until(lambda: in_cache(cache).issuperset(following))
        found.append(in_cache(cache))
        return true(path, *words)

    true = npz_jobs.segment_file
    monkeypatch.setattr(npz_jobs, "segment_file", segment_file)
    size = max((cases / name).stat().st_size for name in FIVE)
    status, lines = stored(*(["--cache-size", str(size)] if is_small else []))
    assert (status, lines[-1][:32]) == (0, "5 written, 0 skipped, 0 failed, ")
    assert found == [set(FIVE[i : i + (1 if is_small else 2)]) for i in range(5)]
    for name in FIVE:
        assert len(server.requests("GET", f"in/{name}")) == 1


def in_cache(cache):
    """The names of the files in the cache that are not empty."""
    return {one.name for one in cache.rglob("*.npz") if one.stat().st_size}


def test_a_case_that_another_run_does_meanwhile_is_not_kept_in_the_cache(
    stored, server, bucket, expected, cache, monkeypatch, tmp_path
):
    """It was fetched ahead, and is skipped."""
    here = tmp_path / "here"
    found = []

    def segment_file(path, *words):
        if path.name == FIVE[0]:
            wait_until(lambda: FIVE[1] in in_cache(cache))
            (here / FIVE[1]).write_bytes(b"of another run")
        found.append((path.name, FIVE[1] in in_cache(cache)))
        return true(path, *words)

    true = npz_jobs.segment_file
    monkeypatch.setattr(npz_jobs, "segment_file", segment_file)
    status, lines = stored("--skip-existing", outputs=here)
    assert (status, lines[-1][:32]) == (0, "4 written, 1 skipped, 0 failed, ")
    assert found == [(FIVE[0], True), (FIVE[2], False), (FIVE[3], False), (FIVE[4], False)]


def test_a_cache_that_is_full_is_filled_again_when_the_case_before_has_ended(
    stored, server, bucket, expected, monkeypatch
):
    """To fetch ahead there was no room after all."""
    ahead = []
    true = remote.fetch_all

    def fetch_all(remotes, paths, limit):
        if threading.current_thread() is not threading.main_thread():
            ahead.append(paths[0].name)
            paths[0].write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        true(remotes, paths, limit)

    monkeypatch.setattr(remote, "fetch_all", fetch_all)
    status, lines = stored()
    assert (status, lines[-1][:32]) == (0, "5 written, 0 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == expected
    assert ahead == FIVE[1:]


# Faults


@pytest.mark.parametrize(
    "fault",
    [
        {"do": "late", "seconds": 1.5, "method": "GET", "key": FIVE[1], "times": 2},
        {"do": "late", "seconds": 1.5, "method": "PUT", "key": FIVE[1], "times": 2},
        {"do": "503", "method": "GET", "key": FIVE[1], "times": 2},
        {"do": "503", "method": "HEAD", "key": FIVE[1], "times": 2},
        {"do": "503", "method": "PUT", "key": FIVE[1], "times": 2},
        {"do": "503", "method": "GET", "key": "list-type=2", "times": 2},
        {"do": "break", "method": "GET", "key": FIVE[1], "times": 2},
        {"do": "break", "method": "PUT", "key": FIVE[1], "times": 2},
        {"do": "break", "method": "GET", "key": "list-type=2", "times": 2},
    ],
    ids=lambda fault: f"{fault['do']}-{fault['method']}-{fault['key'][:4]}",
)
@pytest.mark.usefixtures("quick")
def test_a_fault_that_goes_away_costs_no_case(fault, stored, server, bucket, expected):
    server.faults(fault)
    status, lines = stored()
    assert (status, lines[-1][:32]) == (0, "5 written, 0 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == expected
    told = [line for line in lines if "trying again" in line]
    # aiohttp itself sends a request again whose connection broke before the answer
    assert len(told) in {"late": (0,), "503": (2,), "break": (1, 2)}[fault["do"]], lines


@pytest.mark.parametrize("do", ["503", "break"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.usefixtures("quick")
def test_a_fault_that_stays_fails_its_case_alone(
    do, method, stored, server, bucket, expected, tmp_path
):
    server.files.pipe_file(f"{bucket}/out/{FIVE[1]}", b"of an earlier run")
    server.faults({"do": do, "method": method, "key": FIVE[1], "times": 1000})
    status, lines = stored("--failures", str(tmp_path / "failures.json"))
    assert (status, lines[-1][:32]) == (1, "4 written, 0 skipped, 1 failed, ")
    server.faults()
    del expected[FIVE[1]]  # nor is the older one left, which would look like one of this run
    assert server.contents(f"{bucket}/out") == expected
    (failure,) = json.loads((tmp_path / "failures.json").read_text())
    assert failure["file"] == FIVE[1]
    what = (
        "in/2DBox_US_1.npz: could not be read" if method == "GET" else "out/2DBox_US_1.npz: could"
    )
    assert f"{FIVE[1]}: s3://{bucket}/{what}" in failure["message"]
    assert failure["message"].endswith("(3 tries)")
    if do == "503":
        assert "reduce your request rate" in failure["message"]
    status, lines = stored("--skip-existing")  # again, when it has gone
    assert (status, lines[-1][:32]) == (0, "1 written, 4 skipped, 0 failed, ")


@pytest.mark.usefixtures("quick")
def test_a_server_that_says_nothing_is_asked_again(stored, server, bucket, expected, monkeypatch):
    monkeypatch.setattr(type(remote.filesystem("s3")), "read_timeout", 1)
    remote.filesystem.cache_clear()
    server.faults({"do": "late", "seconds": 4, "method": "GET", "key": FIVE[1], "times": 1})
    status, lines = stored()
    remote.filesystem.cache_clear()
    assert status == 0
    assert server.contents(f"{bucket}/out") == expected
    assert len([line for line in lines if "trying again" in line]) == 1, lines


@pytest.mark.usefixtures("quick")
def test_an_input_that_is_replaced_during_the_run_is_told(
    stored, server, bucket, cases, expected, monkeypatch
):
    """Its parts might be of two files; and boxes may have been planned for the former one."""
    true = remote.fetch_all
    other = make_case_file(cases, "2DBox_US_9.npz").read_bytes()

    def fetch_all(remotes, paths, limit):
        server.files.pipe_file(f"{bucket}/in/{FIVE[3]}", other)
        true(remotes, paths, limit)

    monkeypatch.setattr(remote, "fetch_all", fetch_all)
    status, lines = stored()
    assert (status, lines[-1][:32]) == (1, "4 written, 0 skipped, 1 failed, "), lines
    (told,) = [line for line in lines if line.startswith(FIVE[3])]
    assert "was replaced since it was listed" in told or "bytes, found" in told
    del expected[FIVE[3]]
    assert server.contents(f"{bucket}/out") == expected


def test_a_case_larger_than_the_cache_may_be_fails_alone(stored, server, bucket, cases, expected):
    size = max((cases / name).stat().st_size for name in FIVE)
    server.files.pipe_file(f"{bucket}/in/2DBox_US_9.npz", b"x" * (size + 1))
    status, lines = stored("--cache-size", str(size))
    assert (status, lines[-1][:32]) == (1, "5 written, 0 skipped, 1 failed, ")
    (told,) = [line for line in lines if line.startswith("2DBox_US_9.npz: ")]
    assert told.endswith("MB of a case (--cache-size)")
    assert server.contents(f"{bucket}/out") == expected


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("full_by", ["input", "output", "others"])
def test_a_full_cache_fails_its_case_alone(
    full_by, small_disk, program, server, bucket, expected, monkeypatch
):
    where = {"inputs": f"s3://{bucket}/in", "outputs": f"s3://{bucket}/out"}
    if full_by == "input":
        server.files.pipe_file(f"{bucket}/in/2DBox_US_9.npz", os.urandom(300 << 10))
    elif full_by == "others":  # the disk fills up while the file is fetched
        server.files.pipe_file(f"{bucket}/in/2DBox_US_9.npz", os.urandom(200 << 10))
        true = remote.fetch_all

        def fetch_all(remotes, paths, limit):
            other = small_disk / "other"
            if paths[0].name == "2DBox_US_9.npz":
                other.write_bytes(bytes(150 << 10))
            try:
                true(remotes, paths, limit)
            finally:
                other.unlink(missing_ok=True)

        monkeypatch.setattr(remote, "fetch_all", fetch_all)
    else:
        tiny = np.zeros((3000, 3000), np.uint8)  # 9 MB that take 10 KB
        boxes = np.array([[0, 0, 2999, 2999]])
        path = small_disk.parent / "2DBox_US_9.npz"
        np.savez_compressed(path, imgs=tiny, boxes=boxes)
        server.files.pipe_file(f"{bucket}/in/2DBox_US_9.npz", path.read_bytes())
        monkeypatch.setattr(
            "swiftmedsam.program.npz_jobs.write_labels",
            lambda path, labels: path.write_bytes(os.urandom(labels.nbytes // 10)),
        )
    status, lines = program("--cache", str(small_disk), **where)
    if full_by == "output":
        assert status == 1
    else:
        assert (status, lines[-1][:32]) == (1, "5 written, 0 skipped, 1 failed, ")
        assert server.contents(f"{bucket}/out") == expected
    (told,) = [line for line in lines if line.startswith("2DBox_US_9.npz: ")]
    assert "local cache" in told
    assert "2DBox_US_9.npz" not in server.contents(f"{bucket}/out")
    assert names(small_disk) == []


# What ends a run


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("s3://no-such-bucket/in", "s3://{bucket}/out", "no-such-bucket: there is no such bucket"),
        ("s3://{bucket}/in", "s3://no-such-bucket/out", "no-such-bucket: there is no such bucket"),
        ("s3://{bucket}/none", "s3://{bucket}/out",
         "s3://{bucket}/none: expected a file or a folder, found nothing of that name"),
        ("s3://{bucket}/in", "s3://{bucket}/in/", "outputs would replace the inputs of the same"),
        ("s3://{bucket}/in", "https://127.0.0.1/out", "https:// is for reading alone"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("cases")
def test_a_place_that_cannot_be_used_is_one_line(source, target, words, stored, server, bucket):
    before = server.contents(bucket)
    where = {"inputs": source.format(bucket=bucket), "outputs": target.format(bucket=bucket)}
    status, lines = stored(**where)
    assert (status, len(lines)) == (1, 1), lines
    assert words.format(bucket=bucket) in lines[0]
    assert server.contents(bucket) == before


@pytest.mark.usefixtures("cases")
def test_missing_credentials_are_one_line(stored, bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    remote.filesystem.cache_clear()
    status, lines = stored()
    remote.filesystem.cache_clear()
    assert (status, len(lines)) == (1, 1), lines
    assert lines[0].startswith(f"s3://{bucket}/in: ")
    assert "no credentials that work (Unable to locate credentials" in lines[0]


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_not_there_is_one_line_after_some_tries(stored, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote.filesystem.cache_clear()
    status, lines = stored()
    remote.filesystem.cache_clear()
    assert (status, len(lines)) == (1, 3), lines
    assert lines[-1].startswith(f"s3://{bucket}/in: could not be found: Could not connect")
    assert lines[-1].endswith("(3 tries)")


@pytest.mark.parametrize(
    ("url", "package", "how"),
    [
        ("s3://b/in", "s3fs", "-r requirements-store.txt"),
        ("https://localhost/in", "fsspec", "-r requirements-store.txt"),
        ("gs://b/in", "gcsfs", "-r requirements-store.txt -r requirements-gs.txt"),
        ("az://b/in", "adlfs", "-r requirements-store.txt -r requirements-az.txt"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(url, package, how):
    code = f"""
import sys
sys.modules[{package!r}] = None
from swiftmedsam.commands import main
sys.exit(main([{url!r}, "nowhere"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANGS
    )
    scheme = url.partition("/")[0]
    assert (done.returncode, done.stderr.splitlines()) == (
        1, [f"{scheme}// needs a package that is not installed: pip install {how}"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ftp://host/in"], "expected a path or s3://, gs://, az://, http://, https://, got 'ftp"),
        (["in", "--weights", "s3://b/x"], "expected a file or folder of this machine"),
        (["in", "--cache", "s3://b/x"], "expected a file or folder of this machine"),
        (["in", "--boxes", "ftp://b/x"], "argument --boxes: expected a path or s3://"),
        (["merge", "--log", "s3://b/x"], "expected a file or folder of this machine"),
        (["cases", "make", "s3://b/x", "labels", "out"], "expected a file or folder of this"),
        (["s3://b/../c"], "expected SCHEME://BUCKET/FOLDER, got 's3://b/../c'"),
        (["s3:///in"], "expected SCHEME://BUCKET/FOLDER"),
        (["https://me:secret@host/in"], "expected a URL without a password in it"),
        (["in", "out", "--log", "s3://b/x"], "expected a file or folder of this machine"),
        (["in", "out", "--failures", "s3://b/x"], "expected a file or folder of this machine"),
        (["in", "out", "--stats", "s3://b/x"], "expected a file or folder of this machine"),
    ],
)
def test_a_wrong_url_is_wrong_usage(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        swiftmedsam(words)
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert "secret" not in last


# Ends and starts


@pytest.fixture
def started(server, bucket, cache, tiny_weights):
    """Start the program in a process of its own."""

    def start(*options):
        words = [sys.executable, "-m", "app", f"s3://{bucket}/in", f"s3://{bucket}/out",
                 "--cache", cache, "--weights", tiny_weights, "--threads", "1",
                 *options]  # fmt: skip
        return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    return start


def wait_until(condition):
    until = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def third_is_stored(server, bucket):
    return FIVE[2] in server.contents(f"{bucket}/out")


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_run_that_is_killed_leaves_whole_files_and_is_started_again(
    method, started, stored, server, bucket, cache, expected
):
    """Killed while it fetches or stores the fourth case."""
    server.faults({"do": "late", "seconds": 1000, "method": method, "key": FIVE[3], "times": 1})
    with started() as process:
        # the fourth case is fetched while the third one runs
        wait_until(lambda: server.requests(method, FIVE[3]) and third_is_stored(server, bucket))
        process.kill()
    there = server.contents(f"{bucket}/out")
    assert there == {name: expected[name] for name in FIVE[:3]}
    assert len(names(cache)) == 1  # its mirror, which the next run removes
    status, lines = stored("--skip-existing")
    assert (status, lines[-1][:32]) == (0, "2 written, 3 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == expected


def states(log, name):
    """What the log of a run says of a case so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["state"] for line in lines if f'"{name}", "state"' in line]


def test_a_signal_ends_a_run_that_waits_for_its_store(
    started, server, bucket, cache, expected, tmp_path
):
    log = tmp_path / "run.jsonl"
    server.faults({"do": "late", "seconds": 1000, "method": "GET", "key": FIVE[3], "times": 1})
    with started("--log", str(log)) as process:
        wait_until(lambda: server.requests("GET", FIVE[3]) and "begun" in states(log, FIVE[3]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANGS) == 143
        last = process.stderr.read().splitlines()[-1]
    assert last.startswith("stopped by SIGTERM: 3 written, 0 skipped, 0 failed, ")
    assert server.contents(f"{bucket}/out") == {name: expected[name] for name in FIVE[:3]}
    assert names(cache) == []


def test_a_run_leaves_the_mirror_of_another_one_that_lives(
    started, stored, server, bucket, cache, expected
):
    server.faults({"do": "late", "seconds": 5, "method": "GET", "key": FIVE[3], "times": 1})
    with started() as process:
        wait_until(lambda: server.requests("GET", FIVE[3]))
        (mirror,) = names(cache)
        assert stored()[0] == 0
        assert process.poll() is not None or names(cache) == [mirror]
        assert process.wait(HANGS) == 0
    assert server.contents(f"{bucket}/out") == expected


# Parts


def test_parts_in_a_store_are_merged_and_what_is_missing_is_told(
    stored, server, bucket, expected, tmp_path, merge
):
    log = tmp_path / "run.jsonl"
    for i in range(2):
        assert stored("--part", f"{i}/2", "--log", str(log))[0] == 0
    assert server.contents(f"{bucket}/out") == expected
    server.faults()
    status, lines = merge("--log", log)
    assert (status, lines) == (0, ["2 of 2 parts: 5 written, 0 skipped, 0 failed, 0 not done"])
    assert len(server.requests()) == 1  # a list
    server.files.rm_file(f"{bucket}/out/{FIVE[3]}")
    status, lines = merge("--log", log)
    assert (status, lines[0]) == (1, f"part 1/2: 1 outputs missing: {FIVE[3]}")
    status, lines = merge("--log", log, "--outputs", f"s3://{bucket}/in")
    assert status == 0
