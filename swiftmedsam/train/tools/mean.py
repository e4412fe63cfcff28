"""Average the weights of checkpoints of one variant.

    python -m swiftmedsam.train.tools.mean A.safetensors B.safetensors --out C.safetensors

If two runs start from the same weights, their mean is often as good as the better of both, on each
kind of picture (Wortsman et al., "Model soups", ICML 2022). Batch-norm statistics are averaged,
too; they are all the same if training froze them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from swiftmedsam.manifest import sha256_of
from swiftmedsam.torch_model import (
    VARIANTS,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    read_state_dict,
    save_model,
    trained_on,
)
from swiftmedsam.torch_model.checkpoint import fitting_variant


def mean_of(paths: Sequence[Path]) -> SwiftMedSAM:
    """Return a network whose weights are the mean of those in the files `paths`.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a file is not a checkpoint, or its variant is not that of the first file.
    """
    variant = fitting_variant(read_state_dict(paths[0]))
    if variant is None:
        raise CheckpointError(f"{paths[0].name}: fits no known variant")
    models = [load_model(path, VARIANTS[variant]) for path in paths]
    with torch.no_grad():
        for mean, *others in zip(*(model.state_dict().values() for model in models), strict=True):
            if mean.is_floating_point():
                mean.copy_(torch.stack([mean, *others]).double().mean(dim=0))
    return models[0]


def origin_of(path: Path) -> dict[str, str]:
    """Return name, hash and metadata of a file, to say where the mean comes from."""
    origin = {"file": path.name, "sha256": sha256_of(path.read_bytes())}
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            origin |= file.metadata() or {}
    return origin


def main(argv: Sequence[str] | None = None) -> int:
    """Write the mean; return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.tools.mean", description=__doc__.splitlines()[0]
    )
    parser.add_argument("weights", type=Path, nargs="+", help="checkpoints of one variant")
    parser.add_argument("--out", type=Path, required=True, help="the mean, fp16 safetensors")
    arguments = parser.parse_args(argv)
    try:
        model = mean_of(arguments.weights)
        origins = [origin_of(path) for path in arguments.weights]
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
    except (CheckpointError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    learned = sorted({name for path in arguments.weights for name in trained_on(path)})
    metadata = {"mean": json.dumps(origins), "trained_on": json.dumps(learned)}
    save_model(model, arguments.out, dtype=torch.float16, metadata=metadata)
    return 0


if __name__ == "__main__":
    sys.exit(main())
