"""Jobs for the challenge's npz files of a folder."""

import argparse
import functools
import logging
from pathlib import Path

from swiftmedsam.atomic import make_folder, same_files, why_not_writable, why_tables_fail
from swiftmedsam.case import CaseError
from swiftmedsam.memory import available_memory
from swiftmedsam.messages import printable
from swiftmedsam.network import Network
from swiftmedsam.npz import is_case_name, read_case, write_labels
from swiftmedsam.program.jobs import LOADING, Done, Job, LocalOutput
from swiftmedsam.program.options import OUTPUTS, chosen_settings
from swiftmedsam.result import Clock, Progress
from swiftmedsam.segment import segment
from swiftmedsam.urls import shown

log = logging.getLogger(__name__)


class FolderError(ValueError):
    """The folder of inputs or of outputs cannot be used; the message names it."""


def find_cases(inputs: Path, only: str) -> list[Path]:
    """The files of `inputs` to segment, sorted by name; one warning lists the others.

    Raises:
        OSError: the folder cannot be read.
    """
    found = [inputs] if inputs.is_file() else inputs.iterdir()
    files = sorted(path for path in found if not path.name.startswith("."))
    others = [printable(path.name) for path in files if not is_case_name(path.name)]
    if others:
        log.warning("left alone (not [23]DBox_*.npz): %s", ", ".join(others))
    return [path for path in files if is_case_name(path.name) and path.match(only)]


def segment_file(
    path: Path, options: argparse.Namespace, output: Path,
    network: Network, clock: Clock, progress: Progress,
) -> Done:  # fmt: skip
    """Segment one npz by `options`; this is `Job.run` of an npz.

    Raises:
        CaseError: the input is not a case, or no output can be written.
        OSError: writing the output fails.
        WeightsError: the network cannot be loaded.
    """
    limit = options.memory_limit or available_memory()
    if why := why_not_writable(output):
        raise CaseError(f"{printable(path.name)}: the labels could not be written ({why})")
    with clock.measure("read"):
        case = read_case(path, options.window, memory_limit=limit)
    with clock.measure(LOADING):
        network.expect(len(case.boxes))
        network.wait()
    progress(0, 1)
    settings = chosen_settings(options, network)
    result = segment(case, network, settings, memory_limit=limit, progress=progress)
    clock.add(result.seconds)
    with clock.measure("write"):
        write_labels(output, result.labels)
    return Done(case)


def npz_jobs(options: argparse.Namespace) -> list[Job]:
    """A job for each npz of the inputs; the output folder is made.

    Raises:
        FolderError: there is no case, or an output is an input.
        OSError: a folder cannot be read or made.
    """
    paths = find_cases(options.inputs, options.only)
    if not paths:
        raise FolderError(
            f"{shown(options.inputs)}: no file named 2DBox_*.npz or 3DBox_*.npz (scans need boxes: "
            "--box, --boxes or --boxes-from)"
        )
    folder = OUTPUTS if options.outputs is None else options.outputs
    make_folder(folder)
    if folder.samefile(paths[0].parent):
        raise FolderError(f"{shown(folder)}: outputs would replace the inputs of the same name")
    outputs = [folder / path.name for path in paths]
    tables = [path for path in (options.failures, options.log) if path is not None]
    if same := same_files([*outputs, *tables], paths):
        raise FolderError(f"{shown(same[0])}: is an input, and is not overwritten")
    if why := why_tables_fail(tables, outputs):
        raise FolderError(why)
    return [
        # an older output of a failed case would look like an output of this run: it is removed
        Job(
            path.name,
            LocalOutput(output),
            functools.partial(segment_file, path, options, output),
            removes_older=True,
            inputs=(path,),
            outputs=(output,),
        )
        for path, output in zip(paths, outputs, strict=True)
    ]
