"""Read and write weights. All tensors must fit, and no pickled code is run."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from swiftmedsam.torch_model.architecture import VARIANTS, Architecture
from swiftmedsam.torch_model.model import SwiftMedSAM

WRAPPERS = ("model", "state_dict")  # keys under which training programs store the state dict
PARALLEL_PREFIX = "module."  # DistributedDataParallel adds it to each name


class CheckpointError(ValueError):
    """A file that is not a checkpoint of the wanted variant."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` or torch file, by name.

    A torch file may hold them directly or under a key of `WRAPPERS`. The prefix "module." goes.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds no dictionary of tensors, or reading it could run code.
    """
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except UnpicklingError as error:  # weights_only refuses code
        raise CheckpointError(
            f"{path.name}: holds more than tensors; refused, since loading it could run code"
        ) from error
    except Exception as error:
        # on a damaged file torch raises any error: struct.error, IndexError, KeyError, ...
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path.name}: not a readable checkpoint ({reason})") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path.name}: expected a dictionary of tensors by name")
    strays = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strays:
        raise CheckpointError(f"{path.name}: '{strays[0]}' is not a tensor")
    return {str(key).removeprefix(PARALLEL_PREFIX): value for key, value in content.items()}


def _expected(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by name, without allocating the network."""
    with torch.device("meta"):
        model = SwiftMedSAM(architecture)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def first_difference(
    state: Mapping[str, Tensor], architecture: Architecture
) -> tuple[str, str, str] | None:
    """Return the first tensor that does not fit: its name, what `state` has, what is expected."""
    expected = _expected(architecture)
    for name, shape in expected.items():
        if name not in state:
            return name, "nothing", str(shape)
        if tuple(state[name].shape) != shape:
            return name, str(tuple(state[name].shape)), str(shape)
    for name in state:
        if name not in expected:
            return name, str(tuple(state[name].shape)), "nothing"
    return None


def fitting_variant(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the variant whose tensors `state` holds exactly, or None."""
    fits = (name for name, preset in VARIANTS.items() if first_difference(state, preset) is None)
    return next(fits, None)


def model_of(
    state: Mapping[str, Tensor], architecture: Architecture, source: str = "checkpoint"
) -> SwiftMedSAM:
    """Return a network with the tensors of `state`, in float32, in eval mode.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape. The message names
            `source`.
    """
    difference = first_difference(state, architecture)
    if difference:
        name, found, wanted = difference
        variant = fitting_variant(state)
        hint = f"it fits variant '{variant}'" if variant else "it fits no known variant"
        raise CheckpointError(f"{source}: '{name}' is {found}, expected {wanted}; {hint}")
    model = SwiftMedSAM(architecture)
    model.load_state_dict(dict(state), strict=True)
    return model.float().eval()


def load_model(path: Path, architecture: Architecture) -> SwiftMedSAM:
    """Return a network with the weights of the file `path`. Every tensor must be there and fit.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is not a checkpoint, or is one of another variant.
    """
    return model_of(read_state_dict(path), architecture, path.name)


def save_model(
    model: SwiftMedSAM,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write all tensors of `model` as safetensors; floating-point tensors are stored as `dtype`."""
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    partial = path.with_name(path.name + ".partial")
    save_file(state, partial, metadata=dict(metadata or {}))
    partial.replace(path)


def trained_on(path: Path) -> list[str]:
    """Return the data sets with whose labels the weights were trained, from a file's metadata.

    The list is empty for other files than `.safetensors`, and for files without this entry.

    Raises:
        CheckpointError: the file cannot be read, or the entry is not a JSON list of names.
    """
    if path.suffix != ".safetensors":
        return []
    try:
        with safe_open(path, "pt") as file:
            names = json.loads((file.metadata() or {}).get("trained_on", "[]"))
    except SafetensorError as error:
        raise CheckpointError(f"{path.name}: not a readable checkpoint ({error})") from error
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"{path.name}: metadata 'trained_on' should be a JSON list of names of data sets"
        )
    return names
