"""What only some systems have: each function's answer with it, and with it taken away."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swiftmedsam import atomic, system
from tests.helpers import make_case_file, read_labels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_cgroup(monkeypatch, tmp_path):
    """No container; files that are named like its own can be made in `tmp_path`."""
    monkeypatch.setattr(system, "CGROUP_QUOTAS", ((str(tmp_path / "cpu.max"), None),))
    monkeypatch.setattr(system, "CGROUP_LIMITS", (str(tmp_path / "v2"), str(tmp_path / "v1")))
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("30000 100000", 1),
     ("1600000 100000", 8), ("", 8), ("none of it", 8), (None, 8)],
)  # fmt: skip
def test_threads_are_the_affinity_cut_to_the_containers_quota(
    no_cgroup, monkeypatch, quota, threads
):
    if quota is not None:
        (no_cgroup / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert system.available_threads() == threads


@pytest.mark.parametrize(("quota", "threads"), [("-1", 8), ("150000", 2), ("50000", 1)])
def test_threads_are_cut_to_an_older_containers_quota(tmp_path, monkeypatch, quota, threads):
    (tmp_path / "quota").write_text(f"{quota}\n")
    (tmp_path / "period").write_text("100000\n")
    files = str(tmp_path / "quota"), str(tmp_path / "period")
    monkeypatch.setattr(system, "CGROUP_QUOTAS", ((str(tmp_path / "missing"), None), files))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert system.available_threads() == threads


def test_without_affinity_threads_are_those_of_the_machine(no_cgroup, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert system.available_threads() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.available_threads() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize(
    "begin",
    [
        "import swiftmedsam.commands as c; c.main(['-h'])",
        "import runpy; runpy.run_module('app', run_name='__main__')",
    ],
)
def test_a_program_that_starts_has_no_idle_threads_of_numpy(begin):
    """On two cores, an idle thread of OpenBLAS would take time from the network's loading."""
    code = (
        "import os, sys; sys.argv = ['app', '-h']\n"
        f"try: {begin}\n"
        "except SystemExit: pass\n"
        "import numpy; print(len(os.listdir('/proc/self/task')))"
    )
    variables = {name: value for name, value in os.environ.items() if "OPENBLAS" not in name}
    for start, threads in ((code, "1"), ("import os, numpy; " + code.rpartition("; ")[2], "2")):
        done = subprocess.run(
            ["taskset", "--cpu-list", "0,1", sys.executable, "-c", start],
            cwd=ROOT, env=variables, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == threads


def test_flags_and_name_of_the_cpu_are_those_of_its_first_core(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    first = "processor\t: 0\nmodel name\t: A CPU: new\nvmx flags\t: vnmi\nflags\t\t: avx2 fma\n"
    (tmp_path / "cpuinfo").write_text(f"{first}\nprocessor\t: 1\nflags\t\t: avx2 fma sse9\n")
    assert system.cpu_flags() == {"avx2", "fma"}
    assert system.cpu_model() == "A CPU: new"


@pytest.mark.parametrize("content", [None, "processor\t: 0\nFeatures\t: fp asimd\n"])
def test_where_nobody_says_flags_there_are_none(tmp_path, monkeypatch, content):
    """As on macOS and Windows, and on aarch64."""
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert system.cpu_flags() == set()
    assert system.cpu_model()


class Windows:
    """`ctypes.windll` of a machine with 3 GiB."""

    kernel32: "Windows"

    def __init__(self) -> None:
        self.kernel32 = self

    def GlobalMemoryStatusEx(self, pointer):  # noqa: N802 - as Windows calls it
        memory = pointer._obj
        words = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint32))
        assert (words[0], ctypes.sizeof(memory)) == (64, 64)  # else Windows refuses
        memory[1] = 3 << 30
        return 1


def test_memory_is_what_the_system_says(monkeypatch):
    pages = {"SC_PHYS_PAGES": 4 << 20, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    assert system.physical_memory() == 16 << 30
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(ctypes, "windll", Windows(), raising=False)
    assert system.physical_memory() == 3 << 30


def test_where_no_system_says_its_memory_it_counts_as_the_challenges(monkeypatch):
    def sysconf(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", sysconf, raising=False)
    monkeypatch.delattr(ctypes, "windll", raising=False)
    assert system.physical_memory() == system.ASSUMED_MEMORY


@pytest.mark.parametrize(
    ("v2", "v1", "limits"),
    [(None, None, []), ("max", None, []), ("4096", None, [4096]), (None, "8192", [8192]),
     ("4096", "8192", [4096, 8192])],
)  # fmt: skip
def test_limits_are_those_of_the_containers_cgroup(no_cgroup, v2, v1, limits):
    for name, content in (("v2", v2), ("v1", v1)):
        if content is not None:
            (no_cgroup / name).write_text(f"{content}\n")
    assert system.container_memory_limits() == limits


def test_a_program_is_stopped_by_what_the_system_sends():
    names = {number.name for number in system.STOP_SIGNALS}
    assert names == {"SIGTERM", "SIGINT"} | ({"SIGBREAK"} & set(dir(signal)))


@pytest.fixture
def like_windows(monkeypatch):
    """No locks; a file that this process has open can neither be renamed nor removed."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("which files are open is looked up in /proc")
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "OPEN_FILES_STAY", True)

    def guarded(call):
        def guard(path, *arguments, **options):
            handles = Path("/proc/self/fd").iterdir()
            if Path(path).resolve() in {handle.resolve() for handle in handles}:
                raise PermissionError(13, "used by another process", str(path))
            return call(path, *arguments, **options)

        return guard

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


def test_files_are_written_whole_where_open_ones_cannot_be_renamed(tmp_path, like_windows):
    out = tmp_path / "out"
    out.write_bytes(b"old")
    assert atomic.why_not_writable(out) == ""
    with atomic.atomic_file(out) as stream:
        stream.write(b"new")
        assert atomic.remove_partials(tmp_path) == 0  # it is in use
        assert out.read_bytes() == b"old"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"new")]


def test_a_failed_write_leaves_nothing_where_open_files_cannot_be_removed(tmp_path, like_windows):
    with pytest.raises(KeyboardInterrupt), atomic.atomic_file(tmp_path / "out") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_run_left_is_removed_where_open_files_cannot_be(tmp_path, like_windows):
    (tmp_path / ".segs-abcdefgh.partial").touch()
    (tmp_path / ".segs-folder.partial").mkdir()
    assert atomic.remove_partials(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".segs-folder.partial"]


def test_without_locks_nothing_is_removed_where_open_files_can_be(tmp_path, monkeypatch):
    """A running program could not be told from a dead one."""
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "OPEN_FILES_STAY", False)
    (tmp_path / ".segs-abcdefgh.partial").touch()
    assert atomic.remove_partials(tmp_path) == 0


# Runs before anything of ours is imported: what Linux has and Windows has not is gone.
WITHOUT_LINUX = """
import os, signal, sys

for module in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[module] = None
for name in ("sched_getaffinity", "sysconf", "posix_spawnp", "wait4", "fchmod", "fork",
             "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
    delattr(os, name)

def no_folder_of_linux(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

sys.addaudithook(no_folder_of_linux)

real_signal = signal.signal

def only_those_of_windows(number, handler):
    if number not in (signal.SIGINT, signal.SIGTERM, signal.SIGABRT, signal.SIGFPE):
        raise ValueError("invalid signal value")
    return real_signal(number, handler)

signal.signal = only_those_of_windows
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes away what Linux has")
def test_the_program_does_the_same_without_what_linux_has(inputs, tmp_path, tiny_weights):
    make_case_file(inputs, "2DBox_Endoscopy_1.npz")
    make_case_file(inputs, "3DBox_MR_1.npz")
    found = []
    for folder, before in (("with", ""), ("without", WITHOUT_LINUX)):
        out = tmp_path / folder
        words = [str(inputs), str(out), "--weights", str(tiny_weights), "--precision", "f32",
                 "--threads", "1"]  # fmt: skip
        code = f"{before}\nfrom swiftmedsam.commands import main\nraise SystemExit(main({words!r}))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "2 written, 0 skipped, 0 failed" in done.stderr
        found.append({path.name: read_labels(path) for path in out.iterdir()})
    assert len(found[0]) == 2
    assert found[0].keys() == found[1].keys()
    for name, labels in found[0].items():
        assert labels.any()
        np.testing.assert_array_equal(labels, found[1][name])
