"""Initialise a smaller network with the weights of the teacher, as far as they fit.

The parts to keep were chosen by measurements (docs/log/2026-11-23-v2.md).
"""

from collections.abc import Mapping

from torch import Tensor

from swiftmedsam.torch_model import (
    LITE,
    SWIFT_V1,
    SWIFT_V2,
    Architecture,
    CheckpointError,
    SwiftMedSAM,
)

# The blocks of the teacher that are kept, by encoder stage. For stage 2 of v2, the pair (0, 5) was
# nearest to the teacher's output before any training (relative error 3.2; (1, 5) 3.3; (0, 1) 7.4).
KEPT_BLOCKS = {
    SWIFT_V1: ((0, 1), (0, 1), (0, 1, 4, 5), (0, 1)),
    SWIFT_V2: ((0,), (0, 1), (0, 5), (0, 1)),
}


def _source_name(name: str, kept: tuple[tuple[int, ...], ...]) -> str:
    """Return the name of the teacher's tensor that the student's tensor `name` is copied from."""
    parts = name.split(".")
    if parts[:2] == ["image_encoder", "layers"] and parts[3] == "blocks":
        parts[4] = str(kept[int(parts[2])][int(parts[4])])
    return ".".join(parts)


def _keep_units(state: dict[str, Tensor], teacher: Mapping[str, Tensor], hidden: int) -> None:
    """Keep the `hidden` units with the largest weights of the MLPs of the teacher's decoder.

    Weights of a unit: the norm of the incoming ones times the norm of the outgoing ones. This
    product limits what the unit can add to a token.
    """
    lin = "mask_decoder.transformer.layers.0.mlp."
    incoming = teacher[lin + "lin1.weight"].norm(dim=1)
    outgoing = teacher[lin + "lin2.weight"].norm(dim=0)
    units = (incoming * outgoing).topk(hidden).indices.sort().values
    state[lin + "lin1.weight"] = teacher[lin + "lin1.weight"][units]
    state[lin + "lin1.bias"] = teacher[lin + "lin1.bias"][units]
    state[lin + "lin2.weight"] = teacher[lin + "lin2.weight"][:, units]


def student_of(teacher: SwiftMedSAM, architecture: Architecture) -> SwiftMedSAM:
    """Return a network of `architecture` that starts with weights of `teacher`, a LiteMedSAM.

    Fewer attention heads need no change: 4 heads of 32 channels use the same projections as 8 heads
    of 16, so two neighbouring heads become one. A shorter IoU head keeps the teacher's first and
    last layers.
    """
    if teacher.architecture != LITE or architecture not in KEPT_BLOCKS:
        raise ValueError("expected a student of variant v1 or v2, and a teacher of variant lite")
    student = SwiftMedSAM(architecture)
    known = teacher.state_dict()
    state = student.state_dict()
    for name in state:
        source = known.get(_source_name(name, KEPT_BLOCKS[architecture]))
        if source is not None and source.shape == state[name].shape:
            state[name] = source.clone()
    _keep_units(state, known, architecture.decoder_mlp_dim)
    last = f"mask_decoder.iou_prediction_head.layers.{architecture.iou_head_depth - 1}."
    teachers_last = f"mask_decoder.iou_prediction_head.layers.{LITE.iou_head_depth - 1}."
    for kind in ("weight", "bias"):
        state[last + kind] = known[teachers_last + kind].clone()
    student.load_state_dict(state)
    return student.eval()


def dense_student_of(teacher: SwiftMedSAM, architecture: Architecture) -> SwiftMedSAM:
    """Return a network with a dense encoder of random weights and the teacher's decoder.

    The last layer norm of the encoder is the teacher's, too: channels of the embedding differ in
    size, and it would take some hundred steps to learn this.

    Raises:
        CheckpointError: the decoders differ.
    """
    student = SwiftMedSAM(architecture)
    try:
        student.prompt_encoder.load_state_dict(teacher.prompt_encoder.state_dict())
        student.mask_decoder.load_state_dict(teacher.mask_decoder.state_dict())
        student.image_encoder.neck.norm2.load_state_dict(
            teacher.image_encoder.neck[-1].state_dict()
        )
    except RuntimeError as error:
        raise CheckpointError(
            "the decoders of teacher and student differ: the teacher of v3 must be v1"
        ) from error
    return student.eval()
