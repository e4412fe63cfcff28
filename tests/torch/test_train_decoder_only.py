"""Training of the decoder alone: masks at some cells, the teacher's answers, the command."""

import copy

import numpy as np
import pytest
import torch

from swiftmedsam.convert.rewrite import ExportedDecoder
from swiftmedsam.torch_model import (
    SWIFT_V3,
    TINY,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    save_model,
    trained_on,
)
from swiftmedsam.train import cells, decoder_only
from swiftmedsam.train.decoder_only import COLUMNS
from swiftmedsam.train.losses import iou_of, teacher_loss, truth_loss
from tests.helpers.torch_model import changed_names

# The same products in another order, in f32: of logits of about 1, and of a tensor's largest
# gradient. A gradient below the floor is rounding.
SUM_ORDER, GRADIENT_TOLERANCE, GRADIENT_FLOOR = 2e-4, 1e-3, 1e-5


def some_boxes():
    return torch.tensor([[20.0, 30, 60, 90], [0, 0, 256, 256], [200, 10, 250, 20]])


# Cells


def test_drawn_cells_stand_for_the_whole_frame():
    boxes = some_boxes()
    drawn, weights = cells.draw_cells(boxes, np.random.default_rng(0))
    assert drawn.shape == weights.shape == (3, cells.DRAWN_CELLS)
    assert all(len(set(row.tolist())) == cells.DRAWN_CELLS for row in drawn)
    assert torch.allclose(weights.sum(1), torch.tensor(4096.0))
    # a small window is there as a whole: each of its cells stands for itself
    x_min, y_min, x_max, y_max = (int(v) for v in boxes[0])
    row, column = drawn[0] // 64, drawn[0] % 64
    inside = (column * 4 >= x_min) & (column * 4 < x_max) & (row * 4 >= y_min) & (row * 4 < y_max)
    assert inside.sum() == 10 * 15
    assert (weights[0][inside] == 1).all()


def test_pixels_of_cells_are_those_of_the_map():
    maps = torch.arange(2 * 256 * 256.0).view(2, 256, 256)
    asked = torch.tensor([[0, 65], [4095, 3]])
    found = cells.at_cells(maps, asked)
    assert torch.equal(found[0, 1], maps[0, 4:8, 4:8].flatten())
    assert torch.equal(found[1, 0], maps[1, 252:, 252:].flatten())
    assert torch.equal(found[1, 1], maps[1, :4, 12:16].flatten())


def test_at_all_cells_the_losses_are_those_of_whole_masks():
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 3, 256, 256, generator=generator).mul(3)
    target = (other > 1).float()
    every = torch.arange(4096).expand(3, -1)
    ones = torch.ones(3, 4096)
    found = cells.at_cells(logits, every)
    answers = cells.losses_at(found, cells.at_cells(other.sigmoid(), every), ones, squared=True)
    assert torch.allclose(answers.mean(), teacher_loss(logits, other))
    truth = cells.losses_at(found, cells.at_cells(target, every), ones, squared=False)
    of_iou = iou_of(logits, target).square().mean()  # of a predicted IoU of 0
    assert torch.allclose(truth.mean() + of_iou, truth_loss(logits, torch.zeros(3), target))


def test_masks_and_gradients_are_those_of_the_plain_decoder(tiny_model):
    model = copy.deepcopy(tiny_model).requires_grad_(True)
    embedding = torch.randn(1, 32, 64, 64, generator=torch.Generator().manual_seed(1))
    image = (embedding + model.prompt_encoder.dense_prompt()).flatten(2).transpose(1, 2)
    boxes = some_boxes()
    wanted, wanted_iou = model.decode(embedding, boxes)
    decoder = ExportedDecoder(model)
    logits, iou = cells.decode(decoder, image, boxes)
    assert (logits - wanted).abs().max() < SUM_ORDER
    assert (iou - wanted_iou).abs().max() < SUM_ORDER
    drawn, _ = cells.draw_cells(boxes, np.random.default_rng(0))
    found, _ = cells.decode_at(decoder, image, boxes, drawn)
    assert (found - cells.at_cells(wanted, drawn)).abs().max() < SUM_ORDER

    parameters = dict(model.mask_decoder.named_parameters())
    gradients = [
        torch.autograd.grad(masks.square().mean() + ious.sum(), list(parameters.values()),
                            retain_graph=True, allow_unused=True)
        for masks, ious in ((wanted, wanted_iou), (logits, iou))
    ]  # fmt: skip
    for name, one, other in zip(parameters, *gradients, strict=True):
        if one is None:  # the masks for ambiguous prompts
            assert other is None and name.startswith("output_hypernetworks_mlps"), name
            continue
        if other is None:  # the bias of a key: it cancels in the softmax
            assert name.endswith("k_proj.bias") and one.abs().max() < GRADIENT_FLOOR, name
            continue
        assert (one - other).abs().max() <= GRADIENT_TOLERANCE * one.abs().max() + GRADIENT_FLOOR


# Networks


def test_a_student_with_fewer_mask_tokens_has_the_first_ones(tmp_path):
    save_model(SwiftMedSAM(SWIFT_V3), tmp_path / "four.safetensors")
    teacher = decoder_only.with_its_tokens(tmp_path / "four.safetensors", "v3")
    assert len(teacher.mask_decoder.mask_tokens.weight) == 4
    student = decoder_only.with_tokens(teacher, 1)
    save_model(student, tmp_path / "one.safetensors")
    again = decoder_only.with_its_tokens(tmp_path / "one.safetensors", "v3")
    assert again.architecture == student.architecture
    known = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        whole = known[name]
        assert torch.equal(tensor, whole[: len(tensor)] if tensor.ndim else whole), name
    assert len(student.mask_decoder.mask_tokens.weight) == 1


def test_a_teacher_with_another_encoder_is_refused(tmp_path, tiny_model):
    save_model(copy.deepcopy(tiny_model), tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="tiny.safetensors"):
        decoder_only.with_its_tokens(tmp_path / "tiny.safetensors", "v3")


# The command


def test_the_decoder_learns_and_the_encoder_stays(tiny_model, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_only, "REPORT_EVERY", 1)
    monkeypatch.setattr(decoder_only, "WARMUP", 1)
    teacher, start = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in start.mask_decoder.parameters():
            parameter.mul_(0.8)
    save_model(teacher, tmp_path / "teacher.safetensors", metadata={"trained_on": '["CT_Old"]'})
    save_model(start, tmp_path / "start.safetensors")
    arguments = [str(tmp_path / "teacher.safetensors"), "--variant", "tiny", "--data", str(corpus),
                 "--out", str(tmp_path / "run"), "--start", str(tmp_path / "start.safetensors"),
                 "--steps", "12", "--repeats", "6", "--truth-weight", "1",
                 "--learning-rate", "3e-2"]  # fmt: skip
    assert decoder_only.main(arguments) == 0
    written = tmp_path / "run" / "student.safetensors"
    student = load_model(written, TINY)
    start = load_model(tmp_path / "start.safetensors", TINY)
    changed = changed_names(student, start)
    assert changed and all(name.startswith("mask_decoder.") for name in changed)
    assert trained_on(written) == ["CT_Old", corpus.name]
    header, *rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert tuple(header.split(",")) == COLUMNS
    errors = [float(row.split(",")[COLUMNS.index("truth")]) for row in rows]
    assert len(errors) == 12
    assert errors[-1] < 0.9 * errors[0]


def test_a_missing_corpus_is_one_line(tiny_model, tmp_path, caplog):
    save_model(copy.deepcopy(tiny_model), tmp_path / "teacher.safetensors")
    arguments = [str(tmp_path / "teacher.safetensors"), "--variant", "tiny", "--data",
                 str(tmp_path / "none"), "--out", str(tmp_path / "run")]  # fmt: skip
    assert decoder_only.main(arguments) == 1
    assert "none" in caplog.text
    assert not (tmp_path / "run").exists()
