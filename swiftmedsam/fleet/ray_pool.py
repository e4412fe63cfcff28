"""Workers as actors of Ray: on this machine alone, or on the nodes of a cluster.

Ray reads its environment when it is imported; see `ray_environment`.

Ray Core and not Ray Data: its pool of actors would give a case that kills its worker to the next
one for ever. Here no actor and no call is tried again by Ray (`max_restarts`, `max_task_retries`):
the driver decides. Such an actor of a lost node is dead, too; one that may be restarted would be
"unavailable", and cases given to it would look as if they had killed it.
"""

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray._private.worker
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError, RayTaskError

from swiftmedsam.fleet.driver import Died, Event, Finished, FleetError, Started
from swiftmedsam.fleet.worker import Outcome, Setup, Worker
from swiftmedsam.memory import available_memory
from swiftmedsam.messages import one_line, printable
from swiftmedsam.program.jobs import Job
from swiftmedsam.system import STOP_SIGNALS, available_threads

CPUS_PER_WORKER = 4  # at most, unless --threads says it
OBJECT_STORE = 80 << 20  # bytes: Ray's least, since only names and counts travel
ASK_EVERY = 2.0  # seconds between two questions to each worker, how far it is
NODES_EVERY = 5.0  # seconds between two looks at the cluster's nodes
END_WAIT = 10.0  # seconds in which workers that were killed should be gone
LOST = "its machine is lost"
RUN, READY, SLICES = "run", "ready", "slices"  # the calls of a worker

log = logging.getLogger(__name__)


class RayWorker(Worker):
    """A worker that knows its node."""

    def node(self) -> str:
        """The node's id in the cluster."""
        return str(ray.get_runtime_context().get_node_id())


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's signal handlers: Ray sets its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def reason_of(error: RayError) -> str:
    """Why an actor is dead, in a few words."""
    text = str(error)
    if isinstance(error, OutOfMemoryError) or "low on memory" in text:
        return "killed, its machine was short of memory"
    if "creation task" in text:  # its class could not even be loaded there
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return printable(lines[-1])
    if "worker process has died" in text:
        return "its process was killed or crashed"
    if "node" in text and ("died" in text or "dead" in text):
        return LOST
    if isinstance(error, ActorUnavailableError):
        return "it could not be reached"
    return one_line(error)


class RayPool:
    """The workers of a run: `connect`, `share`, `prepare`, then what a driver calls, `close`."""

    def __init__(
        self, address: str | None, folder: Path, workers: int | None, threads: int | None
    ) -> None:
        """Nothing is started yet.

        Args:
            address: of a cluster, as Ray takes it; None: this machine alone.
            folder: for the files of a Ray that is started here.
            workers: how many are wanted; None: as many as there is room for.
            threads: of each worker; None: by the machines.
        """
        self._address, self._folder = address, folder
        self._workers, self._threads = workers, threads
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[str, int]] = {}  # by the reference of its answer
        self._started = 0
        self._ready: dict[int, str] = {}  # the node of each worker that has answered
        self._busy: dict[int, str] = {}  # the file that each has
        self._slices: dict[int, tuple[int, int]] = {}
        self._asked = self._looked = -NODES_EVERY
        self._nodes: list[dict[str, Any]] = []

    def connect(self) -> None:
        """Start Ray on this machine, or join the cluster.

        Raises:
            FleetError: that is not possible.
        """
        options: dict[str, Any] = {"address": self._address}
        if self._address is None:
            cpus = available_threads()
            if self._threads is None:
                self._threads = max(1, cpus // self._workers if self._workers else cpus)
                if self._workers is None:
                    self._threads = min(self._threads, CPUS_PER_WORKER)
            count = self._workers or max(1, cpus // self._threads)
            options = {
                "address": "local", "num_cpus": count * self._threads, "num_gpus": 0,
                "_memory": available_memory(), "object_store_memory": OBJECT_STORE,
                "include_dashboard": False, "_temp_dir": str(self._folder),
            }  # fmt: skip
        # It prints what Ray's own processes say of each death, up to hundreds of lines of counters,
        # also with log_to_driver=False. The driver says it in a line.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        try:
            with _own_signals():
                ray.init(
                    **options, log_to_driver=False, configure_logging=False,
                    logging_level=logging.ERROR,
                )  # fmt: skip
        except Exception as error:  # Ray raises many kinds, and Exception itself
            where = self._address or "this machine"
            raise FleetError(f"{where}: Ray could not be reached ({one_line(error)})") from error

    def share(self) -> tuple[int, int]:
        """The threads and bytes of each worker, by the nodes that are there; waits for the first.

        The bytes are those of the node that has the least for each worker.
        """
        needed = self._threads or 1
        while not (nodes := [one for one in self._alive() if _cpus(one) >= needed]):
            log.warning("no node has %d CPUs for a worker yet, waiting", needed)
            time.sleep(NODES_EVERY)
        if self._threads is None:
            self._threads = min(CPUS_PER_WORKER, *(_cpus(one) for one in nodes))
        least = min(
            int(one["Resources"].get("memory", 0)) // (_cpus(one) // self._threads) for one in nodes
        )
        return self._threads, least

    def prepare(self, setup: Setup, memory: int) -> None:
        """Say what workers are to be like: each asks its node for its threads and for `memory`."""
        self._memory = memory
        options = {"num_cpus": setup.threads, "memory": memory, "max_restarts": 0,
                   "max_task_retries": 0, "scheduling_strategy": "SPREAD",
                   "concurrency_groups": {SLICES: 1}}  # fmt: skip
        self._actor = ray.remote(**options)(RayWorker)
        self._setup = setup

    def close(self) -> None:
        """End all workers, and Ray if it was started here."""
        if ray.is_initialized():
            running = [call for call, (kind, _) in self._calls.items() if kind == RUN]
            for actor in self._actors.values():
                ray.kill(actor)
            if running:  # a worker that still lives could begin another file
                ray.wait(running, num_returns=len(running), timeout=END_WAIT)
        with _own_signals():
            ray.shutdown()  # also what a start that was interrupted has left

    # What the driver asks for

    def _alive(self) -> list[dict[str, Any]]:
        """The nodes of the cluster."""
        if time.monotonic() - self._looked >= NODES_EVERY:
            self._nodes = [one for one in ray.nodes() if one["Alive"]]
            self._looked = time.monotonic()
        return self._nodes

    def _room(self, node: dict[str, Any]) -> int:
        """How many workers a node has room for, if nobody else uses it."""
        by_threads = _cpus(node) // self._setup.threads
        if not self._memory:  # the nodes were started without any memory to ask for
            return by_threads
        return min(by_threads, int(node["Resources"].get("memory", 0)) // self._memory)

    def capacity(self) -> int:
        """How many workers the nodes that are there have room for."""
        return sum(self._room(one) for one in self._alive())

    def nodes(self) -> set[str]:
        """The nodes with room for a worker."""
        return {one["NodeID"] for one in self._alive() if self._room(one)}

    def start(self) -> int:
        """Ask for a worker; Ray starts it where there is room, now or later."""
        self._started += 1
        actor = self._actors[self._started] = self._actor.remote(self._setup)
        self._calls[actor.ready.remote()] = READY, self._started
        return self._started

    def send(self, worker: int, job: Job) -> None:
        """Give a case to a worker."""
        self._busy[worker] = job.file
        self._slices[worker] = (0, 0)
        job = dataclasses.replace(job, table=None)  # the driver has it
        self._calls[self._actors[worker].run.remote(job)] = RUN, worker

    def kill(self, worker: int) -> None:
        """End a worker."""
        ray.kill(self._actors[worker])
        self._forget(worker)

    def _forget(self, worker: int) -> None:
        del self._actors[worker]
        self._ready.pop(worker, None)
        self._busy.pop(worker, None)
        self._calls = {call: what for call, what in self._calls.items() if what[1] != worker}

    def slices(self, worker: int) -> tuple[int, int]:
        """How many slices of its case a worker has done, of how many; (0, 0) if not known."""
        return self._slices.get(worker, (0, 0))

    def events(self, seconds: float) -> Sequence[Event]:
        """What has happened; waits for the first event, but not longer than `seconds`."""
        self._ask()
        calls = list(self._calls)
        if not calls:
            time.sleep(seconds)
            return []
        done, _ = ray.wait(calls, num_returns=1, timeout=seconds)
        if done:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        # the answer to a case first: a worker may have died after it
        done.sort(key=lambda call: self._calls[call][0] != RUN)
        return [event for call in done if (event := self._event(call)) is not None]

    def _ask(self) -> None:
        """Ask each worker now and then how far it is: so a dead one is found before it is used."""
        if time.monotonic() - self._asked < ASK_EVERY:
            return
        self._asked = time.monotonic()
        waiting = {worker for kind, worker in self._calls.values() if kind == SLICES}
        for worker in self._ready.keys() - waiting:
            call = self._actors[worker].slices.options(concurrency_group=SLICES).remote()
            self._calls[call] = SLICES, worker

    def _event(self, call: Any) -> Event | None:
        """What the answer to a call says; None if nothing, or if its worker is known to be dead."""
        if call not in self._calls:
            return None
        kind, worker = self._calls.pop(call)
        try:
            answer = ray.get(call)
        except RayTaskError as error:  # a fault of our own, or a package that a node lacks
            if kind == READY:
                self.kill(worker)
                return Died(worker, one_line(error.cause))
            if kind == SLICES:  # only the progress lacks it
                return None
            return Finished(worker, _unforeseen(self._busy.pop(worker), error))
        except RayError as error:
            if kind == SLICES and worker in self._busy:
                return None  # the case will say so, too
            node = self._ready.get(worker)
            self._looked = -NODES_EVERY
            lost = node is not None and node not in {one["NodeID"] for one in self._alive()}
            self.kill(worker)  # one that cannot be reached might live on
            reason = LOST if lost else reason_of(error)
            return Died(worker, reason, reason == LOST)
        if kind == SLICES:
            self._slices[worker] = answer
            return None
        if kind == READY:
            self._ready[worker] = answer.node
            return Started(worker, answer)
        del self._busy[worker]
        return Finished(worker, answer)


def _unforeseen(file: str, error: RayTaskError) -> Outcome:
    """The outcome of a case that a worker could not even begin."""
    message = f"{printable(file)}: an error that was not foreseen ({one_line(error.cause)})"
    log.error("%s", message)
    return Outcome(message)


def _cpus(node: dict[str, Any]) -> int:
    return int(node["Resources"].get("CPU", 0))
