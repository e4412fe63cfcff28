"""A batch is used for several steps: the teacher's embedding is computed once."""

import copy
import dataclasses

import pytest
import torch
from lightning_fabric import Fabric

from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.data.replay import Replay
from swiftmedsam.train.data.stream import Batches
from swiftmedsam.train.machine.encoder import openvino_encoder
from swiftmedsam.train.options import Options
from swiftmedsam.train.run import Run
from tests.helpers.training import NOTHING, SMALL, Ellipses, cpu

BF16 = 2**-7  # relative steps of bfloat16
BRIGHTER = dataclasses.replace(NOTHING, brightness_contrast=1.0)


def batch_with_embedding(step=0, augmentation=NOTHING):
    options = dataclasses.replace(SMALL, augmentation=augmentation)
    batch = Batches(Ellipses(), options)[step]
    return batch | {"embedding": torch.randn(1, 8, 64, 64)}


def test_a_batch_comes_back_with_its_embedding_and_other_intensities():
    batch = batch_with_embedding(augmentation=BRIGHTER)
    replay = Replay(BRIGHTER, seed=1)
    replay.add(batch)
    again, once_more = replay.draw(), replay.draw()
    assert again.keys() == batch.keys()
    for name in ("clean", "boxes", "targets", "free_boxes", "shifts"):
        assert torch.equal(again[name], batch[name]), name
        assert again[name].dtype == batch[name].dtype, name
    assert torch.allclose(again["embedding"], batch["embedding"], rtol=BF16)
    assert again["embedding"].dtype == torch.float32
    first, second, third = (b["pixels"] for b in (batch, again, once_more))
    assert not torch.equal(first, second) and not torch.equal(second, third)


def test_the_oldest_batch_is_given_up_first():
    replay = Replay(NOTHING, seed=1, kept=2)
    batches = [batch_with_embedding(step) for step in range(3)]
    for batch in batches:
        replay.add(batch)
    drawn = [replay.draw()["boxes"] for _ in range(20)]
    seen = [any(torch.equal(batch["boxes"], boxes) for boxes in drawn) for batch in batches]
    assert seen == [False, True, True]


@pytest.mark.parametrize("steps, asked", [(6, 2), (7, 3)])
def test_the_teacher_is_asked_once_for_several_steps(
    steps, asked, tiny_model, tmp_path, monkeypatch
):
    options = dataclasses.replace(
        SMALL, steps=steps, repeats=3, teacher_weight=1.0, taught=1, free_boxes=0
    )
    teacher, encodings = copy.deepcopy(tiny_model), []
    encode = teacher.encode

    def counted(pixels):
        encodings.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(teacher, "encode", counted)
    Run(tmp_path, options, cpu()).train(copy.deepcopy(tiny_model), Ellipses(), teacher)
    assert encodings == [1] * asked
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows[1:]] == [str(n + 1) for n in range(steps)]


def test_openvino_gives_the_teachers_embedding(tiny_model):
    pixels = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = tiny_model.encode(pixels)
    found = openvino_encoder(tiny_model, "f32")(pixels)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-4)


def test_under_bfloat16_openvino_encodes_on_a_cpu(tiny_model, tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    fabric.launch()
    teacher = copy.deepcopy(tiny_model)
    encode = Run(tmp_path, SMALL, fabric).encoder_of(teacher)
    assert encode != teacher.encode
    pixels = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        error = (encode(pixels) - teacher.encode(pixels)).square().mean().sqrt()
        assert error < 0.05 * teacher.encode(pixels).std()


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"repeats": 2, "teacher_weight": 0.0}])
def test_repeats_need_a_teacher(wrong):
    with pytest.raises(ValueError, match="repeats"):
        Options(**wrong)


def test_by_default_each_batch_is_used_once():
    assert Options().repeats == 1
    assert Options().augmentation == Augmentation()
