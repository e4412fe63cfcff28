"""Weights in and out: strict, safe (no pickled code), and with an error one can act on."""

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

WRAPPERS = ("model", "state_dict")  # keys under which trainers keep the state dict
PARALLEL_PREFIX = "module."  # left there by DistributedDataParallel


class CheckpointError(ValueError):
    """A file that is not a checkpoint of the variant asked for."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a `.safetensors` or torch file: bare, under "model", "module."-prefixed.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file holds no dictionary of tensors, or would have to run code.
    """
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except UnpicklingError as error:  # what weights_only refuses to run
        raise CheckpointError(
            f"{path.name}: holds more than tensors; refused, since loading it could run code"
        ) from error
    except Exception as error:
        # a damaged file breaks torch's reader anywhere: struct.error, IndexError, KeyError, ...
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
    """Shapes by name, without allocating the network."""
    with torch.device("meta"):
        model = SwiftMedSAM(architecture)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def first_difference(
    state: Mapping[str, Tensor], architecture: Architecture
) -> tuple[str, str, str] | None:
    """Name, what `state` has and what `architecture` wants of the first tensor that differs."""
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
    """Name of the preset whose tensors `state` holds exactly, or None."""
    fits = (name for name, preset in VARIANTS.items() if first_difference(state, preset) is None)
    return next(fits, None)


def model_of(
    state: Mapping[str, Tensor], architecture: Architecture, source: str = "checkpoint"
) -> SwiftMedSAM:
    """The network of `architecture` with the tensors of `state`, in float32, in eval mode.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape; `source` is named.
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
    """The network with the weights of `path`; strict: every tensor must be there and fit.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is no checkpoint, or one of another variant.
    """
    return model_of(read_state_dict(path), architecture, path.name)


def save_model(
    model: SwiftMedSAM,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write every tensor of `model` as safetensors, floating-point ones as `dtype`."""
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    partial = path.with_name(path.name + ".partial")
    save_file(state, partial, metadata=dict(metadata or {}))
    partial.replace(path)


def trained_on(path: Path) -> list[str]:
    """Data sets whose labels the weights of a `.safetensors` file were trained on, as it says.

    None are named in a file of another kind, or in one that was written before they were kept.

    Raises:
        CheckpointError: the file cannot be read, or its entry is not a JSON list of names.
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
