"""The first weights of a shorter network: the teacher's, as far as they fit.

Which parts to keep is decided by what was measured (docs/log/2026-11-23-v2.md), not by position.
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

# Teacher blocks kept per encoder stage. Stage 2 of v2: of the pairs tried, (0, 5) is nearest to the
# teacher's output before any training (relative error 3.2; (1, 5) 3.3; (0, 1) 7.4).
KEPT_BLOCKS = {
    SWIFT_V1: ((0, 1), (0, 1), (0, 1, 4, 5), (0, 1)),
    SWIFT_V2: ((0,), (0, 1), (0, 5), (0, 1)),
}


def _source_name(name: str, kept: tuple[tuple[int, ...], ...]) -> str:
    """Name of the teacher's tensor that the student's tensor `name` starts from."""
    parts = name.split(".")
    if parts[:2] == ["image_encoder", "layers"] and parts[3] == "blocks":
        parts[4] = str(kept[int(parts[2])][int(parts[4])])
    return ".".join(parts)


def _keep_units(state: dict[str, Tensor], teacher: Mapping[str, Tensor], hidden: int) -> None:
    """Fill the decoder's MLP with the teacher's `hidden` units of the largest weights.

    The product of a unit's incoming and outgoing norm bounds what it can add to a token.
    """
    lin = "mask_decoder.transformer.layers.0.mlp."
    incoming = teacher[lin + "lin1.weight"].norm(dim=1)
    outgoing = teacher[lin + "lin2.weight"].norm(dim=0)
    units = (incoming * outgoing).topk(hidden).indices.sort().values
    state[lin + "lin1.weight"] = teacher[lin + "lin1.weight"][units]
    state[lin + "lin1.bias"] = teacher[lin + "lin1.bias"][units]
    state[lin + "lin2.weight"] = teacher[lin + "lin2.weight"][:, units]


def student_of(teacher: SwiftMedSAM, architecture: Architecture) -> SwiftMedSAM:
    """A network of `architecture` that starts from `teacher`, a LiteMedSAM.

    Heads need no surgery: 4 heads of 32 read the same projections as 8 heads of 16, so neighbouring
    heads merge. A shorter IoU head keeps the teacher's first and last layers.
    """
    if teacher.architecture != LITE or architecture not in KEPT_BLOCKS:
        raise ValueError("a student is v1 or v2, its teacher LiteMedSAM")
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
    """A network of `architecture` with a dense encoder from nothing and the teacher's decoder.

    The embedding's last layer norm is the teacher's too: its channels differ in size, and learning
    that alone takes some hundred steps.

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
        raise CheckpointError("the teacher's decoder is not the student's: v3 has v1's") from error
    return student.eval()
