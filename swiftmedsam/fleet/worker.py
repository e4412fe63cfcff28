"""A worker: a process that holds the network and runs one case after another, as the program does.

It does not import Ray: `ray_pool` makes an actor of it.
"""

import logging
import logging.handlers
import socket
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np

from swiftmedsam import __version__
from swiftmedsam.atomic import mark_partials
from swiftmedsam.cpu import cpu_flags
from swiftmedsam.manifest import MANIFEST, WeightsError, default_weights, read_manifest, sha256_of
from swiftmedsam.messages import one_line, printable
from swiftmedsam.network import Network, chosen_precision, load
from swiftmedsam.program.jobs import Job, attempt, run_job
from swiftmedsam.program.progress import watched
from swiftmedsam.program.signals import Stopper
from swiftmedsam.program.stats_table import Rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreement:
    """What all workers must have in common, so that labels do not depend on who makes them."""

    variant: str
    precision: str  # as `Network.precision` says it
    manifest: str  # sha256 of the weights' manifest, which has those of the weights
    versions: dict[str, str]  # by package


def versions() -> dict[str, str]:
    """The versions of the packages that labels come from, by name."""
    return {
        "swiftmedsam": __version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "openvino": metadata.version("openvino"),
    }


def _digest(folder: Path) -> str:
    """The sha256 of a weights folder's manifest.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        return sha256_of((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise WeightsError(f"{folder / MANIFEST}: no weights here ({one_line(error)})") from error


def agree(weights: Path | None, precision: str) -> Agreement:
    """What the driver chooses for all workers; by its own CPU if `precision` is "auto".

    Raises:
        WeightsError: the manifest is wrong, or has no model for this precision.
    """
    folder = weights or default_weights()
    manifest = read_manifest(folder)
    _, chosen = chosen_precision(folder, manifest, precision, cpu_flags())
    return Agreement(manifest["variant"], chosen, _digest(folder), versions())


@dataclass(frozen=True)
class Setup:
    """What a worker is told when it starts."""

    run: str  # the name of the run, in the names of unfinished files
    weights: Path | None  # None: the default weights of the worker's own installation
    threads: int
    timeout: float | None  # seconds of --timeout
    agreement: Agreement


@dataclass(frozen=True)
class Ready:
    """A worker's answer when it has loaded the network, or why it will not take part."""

    host: str
    node: str  # of the cluster
    flags: frozenset[str]  # instruction sets of its CPU
    refusal: str = ""  # one line; "" if it takes part


@dataclass(frozen=True)
class Outcome:
    """What has become of a case."""

    message: str | None  # None if its labels are written, else why it failed
    records: list[logging.LogRecord] = field(default_factory=list)  # what was logged, in order
    rows: Rows = field(default_factory=list)  # of the table of --stats


class _Kept(logging.handlers.QueueHandler):
    """Keeps the log records of a case, as plain text that can be sent."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        super().__init__(self.records)  # type: ignore[arg-type]  # `enqueue` below uses it

    def enqueue(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("ray"):
            self.records.append(record)

    def take(self) -> list[logging.LogRecord]:
        taken, self.records = self.records, []
        return taken


class Worker:
    """Runs cases one by one. `slices` may be called from another thread meanwhile."""

    def __init__(self, setup: Setup) -> None:
        """Keep the setup; `ready` does the rest, so that a worker can say why it cannot."""
        self._setup = setup
        self._slices = (0, 0)
        self._network: Network | None = None

    def ready(self) -> Ready:
        """Load the network, and say who this is. To be called before the first case."""
        logging.getLogger("swiftmedsam").setLevel(logging.DEBUG)  # the driver chooses
        self._kept = _Kept()
        logging.getLogger().addHandler(self._kept)
        cv2.setNumThreads(self._setup.threads)  # OpenCV has its own, for flow and resizing
        mark_partials(self._setup.run)
        flags = frozenset(cpu_flags())
        return Ready(socket.gethostname(), self.node(), flags, self._load())

    def node(self) -> str:
        """The name of this machine in the cluster."""
        return socket.gethostname()

    def _load(self) -> str:
        """Load the network; return why this worker cannot take part, or ""."""
        setup, agreed = self._setup, self._setup.agreement
        for name, version in versions().items():
            if version != agreed.versions[name]:
                return f"has {name} {version}, the driver has {agreed.versions[name]}"
        folder = setup.weights or default_weights()
        try:
            if _digest(folder) != agreed.manifest:
                return f"{folder}: has other weights than the driver"
            option = agreed.precision.partition("+")[0]
            network = load(folder, precision=option, threads=setup.threads)
        except WeightsError as error:
            return printable(str(error))
        if network.precision != agreed.precision:
            return (
                f"its CPU computes in {network.precision}, and the run in {agreed.precision} "
                "(--precision f32 suits every CPU)"
            )
        self._network = network
        return ""

    def run(self, job: Job) -> Outcome:
        """Run one case. If it fails, the outcome says so; no exception is raised."""
        network = self._network
        assert network is not None  # a worker that is not ready gets no case
        self._kept.take()
        self._slices = (0, 0)
        rows: Rows = []
        failures: dict[str, str] = {}
        name = printable(job.file)
        progress = watched(self._show, Stopper(), self._setup.timeout, name)

        def step() -> None:
            line, found = run_job(job, network, progress)
            rows.extend(found)
            log.info("%s on %s", line, socket.gethostname())

        attempt(step, job.file, failures)
        return Outcome(failures.get(job.file), self._kept.take(), rows)

    def _show(self, done: int, total: int) -> None:
        self._slices = (done, total)

    def slices(self) -> tuple[int, int]:
        """How many slices of the present case are done, of how many; (0, 0) if not known."""
        return self._slices
