"""Parts of training: losses, first weights, the cache, repair of a stage and of the decoder."""

import copy
import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from swiftmedsam.torch_model import LITE, SWIFT_V1, SWIFT_V2, TINY, SwiftMedSAM
from swiftmedsam.train.losses import dice_loss, iou_of, teacher_loss, trust_in, truth_loss
from swiftmedsam.train.machine import precision
from swiftmedsam.train.repair import decoder
from swiftmedsam.train.repair.blockwise import PARTS, relative_error, repair
from swiftmedsam.train.repair.features import encoder_features, read_cache
from swiftmedsam.train.repair.initialise import _keep_units, student_of
from swiftmedsam.train.repair.one_cycle import RepairOptions
from swiftmedsam.train.tools import curves
from tests.helpers import ellipse
from tests.helpers.torch_model import CACHE_PICTURES, changed_names

CERTAIN = 50.0  # a logit whose sigmoid is 0 or 1 in float32 but for 2e-22
PAPER_TOLERANCE = 1e-6  # a few operations in float32 on numbers near 1
HALF_PRECISION = 0.03  # bfloat16 keeps 8 bits; relative, of sums over a dozen layers

# Losses

WANTED = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
FOUND = torch.tensor([[[CERTAIN, -CERTAIN], [CERTAIN, -CERTAIN]]])  # one hit, one miss, one false


def test_dice_and_iou_of_2_by_2_pixels_on_paper():
    assert dice_loss(FOUND, WANTED).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert iou_of(FOUND, WANTED).tolist() == pytest.approx([1 / 3])
    assert dice_loss(torch.zeros(1, 2, 2), WANTED).item() == pytest.approx(1 - (2 + 1) / (4 + 1))
    assert iou_of(torch.zeros(1, 2, 2), WANTED).tolist() == [0]  # a logit of 0 is outside


def test_an_empty_answer_to_an_empty_target_is_right():
    nothing = torch.zeros(1, 2, 2)
    assert dice_loss(nothing - CERTAIN, nothing).item() == pytest.approx(0, abs=PAPER_TOLERANCE)
    assert iou_of(nothing - CERTAIN, nothing).tolist() == [1]
    assert iou_of(nothing - CERTAIN, WANTED).tolist() == [0]


def test_losses_are_means_over_masks():
    both, wanted = torch.cat([FOUND, 2 * WANTED - 1]), torch.cat([WANTED, WANTED])
    for loss in (dice_loss, teacher_loss, lambda a, b: truth_loss(a, a[:, 0, 0] * 0, b)):
        one_by_one = (loss(both[:1], wanted[:1]) + loss(both[1:], wanted[1:])) / 2
        assert loss(both, wanted).item() == pytest.approx(one_by_one.item())
    assert iou_of(both, wanted).tolist() == pytest.approx([1 / 3, 1])


def test_truth_is_dice_and_cross_entropy_and_error_of_the_iou():
    logits, guess = torch.zeros(1, 2, 2), torch.tensor([0.5])
    wanted = 0.4 + math.log(2) + 0.5**2  # the IoU of an empty mask is 0
    assert truth_loss(logits, guess, WANTED).item() == pytest.approx(wanted)


def test_truth_falls_as_logits_get_better():
    right = 2 * WANTED - 1
    losses = [
        truth_loss(s * right, iou_of(s * right, WANTED), WANTED).item() for s in (-3, -1, 0, 1, 3)
    ]
    assert losses == sorted(losses, reverse=True)
    perfect = truth_loss(CERTAIN * right, torch.ones(1), WANTED).item()
    assert perfect == pytest.approx(0, abs=PAPER_TOLERANCE)


def test_nothing_matches_a_teacher_better_than_its_own_answer():
    teacher = torch.tensor([[[0.3, -1.0], [2.0, 0.1]]])
    logits = teacher.clone().requires_grad_()
    teacher_loss(logits, teacher).backward()
    assert logits.grad.abs().max().item() == pytest.approx(0, abs=PAPER_TOLERANCE)
    assert teacher_loss(teacher + 0.5, teacher) > teacher_loss(teacher, teacher)
    certain = CERTAIN * (2 * WANTED - 1)
    assert teacher_loss(certain, certain).item() == pytest.approx(0, abs=PAPER_TOLERANCE)


def test_a_small_object_of_the_teachers_counts_as_a_large_one_and_one_not_trusted_not_at_all():
    masks = torch.zeros(2, 256, 256)
    masks[0, :20, :20], masks[1, :200, :200] = 1, 1
    teacher, nothing = CERTAIN * (2 * masks - 1), torch.full_like(masks, -CERTAIN)
    small, large = (teacher_loss(nothing[i : i + 1], teacher[i : i + 1]).item() for i in range(2))
    missed = CERTAIN * masks.mean(dim=(1, 2))  # cross entropy
    assert [small - missed[0], large - missed[1]] == pytest.approx([1, 1], abs=0.01)
    assert teacher_loss(nothing, teacher, torch.tensor([0.0, 0.5])).item() == pytest.approx(
        large / 4
    )


def test_a_teacher_is_trusted_by_what_its_dice_is_above_one_half():
    targets = torch.zeros(3, 2, 8, 8)
    targets[:, :, :4] = 1
    logits = targets - 0.5
    logits[1, 0, :2] = -0.5  # half of the object: Dice 2/3
    logits[2] = -0.5
    assert trust_in(logits, targets).tolist() == pytest.approx([1, 2 * (1 + 2 / 3) / 2 - 1, 0])


# First weights


@pytest.fixture(scope="module")
def lite():
    """LiteMedSAM in size; no two of its tensors are alike."""
    model = SwiftMedSAM(LITE).requires_grad_(False)
    random = torch.Generator().manual_seed(3)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(generator=random)
        else:
            tensor.random_(1, 1000, generator=random)
    return model


@pytest.mark.parametrize(
    ("architecture", "block_5_becomes", "surplus"),
    [
        # two attention blocks, decoder layer, layer of the IoU head
        (SWIFT_V1, 3, 2 * 19 + 36 + 2),
        # and two attention blocks more, one convolution block
        (SWIFT_V2, 1, 4 * 19 + 18 + 36 + 2),
    ],
    ids=["v1", "v2"],
)
def test_every_first_weight_is_the_teachers(lite, architecture, block_5_becomes, surplus):
    student = student_of(lite, architecture)
    state, known = student.state_dict(), lite.state_dict()
    moved = f"image_encoder.layers.2.blocks.{block_5_becomes}."
    head = "mask_decoder.iou_prediction_head.layers."
    cut = {f"mask_decoder.transformer.layers.0.mlp.{n}" for n in
           ("lin1.weight", "lin1.bias", "lin2.weight")}  # fmt: skip
    copied = 0
    for name in state.keys() - cut:
        source = name.replace(moved, "image_encoder.layers.2.blocks.5.")
        source = source.replace(f"{head}1.", f"{head}2.")
        if architecture is SWIFT_V1:  # blocks 0, 1, 4, 5
            source = source.replace("layers.2.blocks.2.", "layers.2.blocks.4.")
        assert torch.equal(state[name], known[source]), name
        copied += 1
    assert copied == 435 - surplus - len(cut)  # of the official checkpoint's 435 tensors
    assert not student.training
    ours, theirs = (m["mask_decoder.transformer.layers.0.mlp.lin1.bias"] for m in (state, known))
    assert torch.isin(ours, theirs).all()
    assert len(ours.unique()) == architecture.decoder_mlp_dim


def test_the_first_weights_are_a_copy(lite):
    student = student_of(lite, SWIFT_V2)
    ours, theirs = (m.prompt_encoder.no_mask_embed.weight for m in (student, lite))
    assert torch.equal(ours, theirs)
    assert ours.data_ptr() != theirs.data_ptr()


def test_of_three_hidden_units_the_two_that_can_say_most_are_kept():
    lin = "mask_decoder.transformer.layers.0.mlp."
    teacher = {
        lin + "lin1.weight": torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]]),  # norms 5, 1, 2
        lin + "lin1.bias": torch.tensor([7.0, 8.0, 9.0]),
        lin + "lin2.weight": torch.tensor([[0.1, 6.0, 0.0], [0.0, 8.0, 1.0]]),  # norms 0.1, 10, 1
    }
    state = {}
    _keep_units(state, teacher, hidden=2)  # products 0.5, 10, 2
    assert state[lin + "lin1.weight"].tolist() == [[1, 0], [0, 2]]
    assert state[lin + "lin1.bias"].tolist() == [8, 9]
    assert state[lin + "lin2.weight"].tolist() == [[6, 0], [8, 1]]


@pytest.mark.parametrize(
    ("teacher", "student"), [(LITE, TINY), (LITE, LITE), (TINY, SWIFT_V2), (SWIFT_V1, SWIFT_V2)]
)
def test_only_litemedsam_teaches_and_only_its_reductions_learn(teacher, student):
    with torch.device("meta"):
        model = SwiftMedSAM(teacher)
    with pytest.raises(ValueError, match="expected a student of variant v1 or v2"):
        student_of(model, student)


# On a cache


def first_two(rows):
    return torch.from_numpy(rows[:2].astype(np.float32))


def test_a_cache_holds_what_the_teacher_computes(cache, tiny_model):
    rows = read_cache(cache)
    assert {len(array) for array in rows.values()} == {CACHE_PICTURES}
    pixels = first_two(rows["pixels"]) / 255
    exact = encoder_features(tiny_model, pixels)
    torch.testing.assert_close(exact["embedding"], tiny_model.encode(pixels), rtol=0, atol=0)
    for name, tensor in exact.items():
        assert (first_two(rows[name]) - tensor).norm() <= HALF_PRECISION * tensor.norm(), name
    assert all(labels.any() for labels in rows["labels"])


def test_an_unfinished_cache_is_read_as_far_as_it_goes(cache, tmp_path):
    for path in cache.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "done").unlink()
    (tmp_path / "done").write_text("4")
    assert {len(array) for array in read_cache(tmp_path).values()} == {4}


def error_of(model, part, cache):
    """Relative error of a part of `model` on the first two pictures."""
    rows = read_cache(cache)
    source = first_two(rows[part.source]) / (255 if part.source == "pixels" else 1)
    with torch.inference_mode():
        output = nn.Sequential(*part.modules(model))(source)
    return relative_error(output, first_two(rows[part.target])).item()


def test_a_constant_has_a_relative_error_of_1():
    target = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, squares 4 + 1 + 0 + 9; unbiased: 14 / 3
    assert relative_error(torch.full((4,), 3.0), target).item() == pytest.approx(14 / 4 / (14 / 3))
    assert relative_error(target, target).item() == 0


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_parts_of_the_teacher_lead_from_their_source_to_their_target(part, cache, tiny_model):
    assert error_of(tiny_model, part, cache) < HALF_PRECISION**2


def test_repair_brings_a_disturbed_stage_back_and_touches_nothing_else(cache, tiny_model):
    student = copy.deepcopy(tiny_model)
    torch.manual_seed(0)
    for tensor in student.image_encoder.layers[2].parameters():
        tensor.add_(0.2 * torch.randn_like(tensor))
    disturbed = copy.deepcopy(student)
    before = error_of(student, PARTS["stage2"], cache)
    options = RepairOptions(
        steps=30, batch_size=2, held_back=2, learning_rate=1e-2, report_every=15
    )
    after = repair(student, PARTS["stage2"], cache, options)
    assert before > 0.3  # else there was nothing to repair
    assert after < 0.5 * before
    assert after == pytest.approx(error_of(student, PARTS["stage2"], cache), rel=0.1)  # bfloat16
    changed = changed_names(student, disturbed)
    assert all(name.startswith("image_encoder.layers.2.") for name in changed)
    assert not any("running" in name or "tracked" in name for name in changed)


class Right:
    """A teacher whose mask is the object, for any box."""

    def __init__(self, labels):
        self.logits = torch.where(torch.from_numpy(labels) > 0, 6.0, -6.0)

    def decode(self, embeddings, boxes):
        return self.logits.expand(len(boxes), 256, 256), torch.ones(len(boxes))


def test_repair_of_the_decoder_learns_one_object_by_heart(tiny_model, monkeypatch):
    """One picture, twice: to learn from and to measure on."""
    labels = ellipse(256, 256, (110, 120), (70, 90)).astype(np.uint8)
    pixels = torch.from_numpy(np.where(labels, 0.8, 0.2).astype(np.float32)).expand(1, 3, 256, 256)
    with torch.inference_mode():
        embedding = tiny_model.encode(pixels).numpy().astype(np.float16)
    rows = {"labels": np.stack([labels] * 2), "embedding": np.repeat(embedding, 2, axis=0)}
    monkeypatch.setattr(decoder, "read_cache", lambda cache: rows)
    monkeypatch.setattr(decoder, "BOXES", 1)
    student = copy.deepcopy(tiny_model)
    options = RepairOptions(steps=30, batch_size=2, held_back=1, learning_rate=1e-2)
    still = dataclasses.replace(options, steps=1, learning_rate=0.0)
    teacher, cache = Right(labels), Path("is not read")
    before = decoder.repair_decoder(copy.deepcopy(student), teacher, cache, still)
    after = decoder.repair_decoder(student, teacher, cache, options)
    assert before < 0.3
    assert after > 0.5
    changed = changed_names(student, tiny_model)
    assert changed
    assert all(name.startswith("mask_decoder.") for name in changed)


# What a person looks at


def test_curves_are_drawn_of_what_a_run_logged(tmp_path):
    rows = ["step,loss,truth,teacher,answers,learning_rate,pictures_per_second"]
    rows += [f"{step},{3 / step},{2 / step},{1 / step},{1 / step},0.001,2" for step in range(1, 8)]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    columns = curves.read_log(tmp_path)
    assert columns["truth"][1] == 1
    assert curves.running_mean([7, 1, 1, 1, 1, 6]) == [7, 4, 3, 2.5, 2.2, 2]
    assert curves.main([str(tmp_path), str(tmp_path / "curves.png")]) == 0
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (600, 800, 3)


def test_curves_of_several_runs_go_on_from_run_to_run(tmp_path):
    logs = {"a": ["step,truth,teacher,learning_rate", "5,0,0.4,0.1", "10,0,0.3,0.1"],
            "b": ["step,truth,teacher,answers,learning_rate", "5,0.5,0.2,0.6,0.1"]}  # fmt: skip
    for name, rows in logs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text("\n".join(rows))
    columns, between = curves.in_sequence([tmp_path / "a", tmp_path / "b"])
    assert (columns["step"], between) == ([5, 10, 15], [10])
    assert columns["teacher"] == [0.4, 0.3, 0.2]
    nan = pytest.approx(np.nan, nan_ok=True)
    assert columns["truth"] == [nan, nan, 0.5] and columns["answers"] == [nan, nan, 0.6]
    words = [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c.png"), "--top", "1"]
    assert curves.main(words) == 0
    assert cv2.imread(str(tmp_path / "c.png")).shape == (600, 800, 3)


# Precision


@pytest.mark.parametrize(
    ("accelerator", "computes", "there", "expected"),
    [
        ("cpu", True, False, "bf16-mixed"),
        ("cpu", False, True, "32-true"),
        ("auto", False, False, "32-true"),
        ("auto", False, True, "bf16-mixed"),
        ("cuda", False, True, "bf16-mixed"),
    ],
)
def test_bfloat16_is_the_default_where_it_is_computed(
    accelerator, computes, there, expected, monkeypatch
):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: computes)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    assert precision.default_precision(accelerator) == expected


@pytest.mark.parametrize(("computes", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_repair_computes_in_bfloat16_only_where_the_cpu_does(computes, dtype, monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: computes)
    with precision.cpu_autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
