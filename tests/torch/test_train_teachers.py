"""What teachers say of a batch, and what the student learns of it."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from swiftmedsam.torch_model import TINY, SwiftMedSAM
from swiftmedsam.train import teachers
from swiftmedsam.train.data.stream import Batches
from swiftmedsam.train.losses import teacher_loss, truth_loss
from swiftmedsam.train.repair.blockwise import relative_error
from swiftmedsam.train.run import Run, Student, batch_loss
from swiftmedsam.train.teachers import Teacher, answered
from tests.helpers import ellipse
from tests.helpers.training import NOTHING, SMALL, Ellipses, PartlyLabelled, cpu, taught_loss

# Two of four pictures have no labels; the first of these is for the second teacher
TWO_TEACHERS = dataclasses.replace(
    SMALL, batch_size=4, unlabelled=2, second=1, second_for="CT", taught=3, teacher_weight=1.0,
    free_boxes=2, boxes=2, truth_weight=0.0, augmentation=NOTHING,
)  # fmt: skip


def test_in_free_boxes_the_teachers_masks_are_the_target(tiny_model, monkeypatch):
    monkeypatch.setattr(teachers, "trust_in", lambda logits, targets: torch.full((1,), 0.25))
    options = dataclasses.replace(
        SMALL, batch_size=2, teacher_weight=0.5, answers_weight=3.0, taught=1, free_boxes=3,
        augmentation=NOTHING,
    )  # fmt: skip
    batch = Batches(Ellipses(), options)[0]
    assert batch["free_boxes"].shape == (2, 3, 4)
    with torch.no_grad():
        terms = taught_loss(Student(tiny_model), batch, tiny_model, options)
        embedding = tiny_model.encode(batch["clean"][:1])
        logits, _ = tiny_model.decode(embedding, batch["free_boxes"][0])
    wanted = 0.25 * teacher_loss(logits, logits)
    assert terms["answers"].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert terms["answers"].item() > 0.0025  # what is left of the teacher's own doubt
    wanted = terms["truth"] + 0.5 * (terms["teacher"] + 3 * terms["answers"])
    assert terms["loss"].item() == pytest.approx(wanted.item())
    student = copy.deepcopy(tiny_model)
    for tensor in student.mask_decoder.parameters():
        tensor.mul_(0.5)
    with torch.no_grad():
        worse = taught_loss(Student(student), batch, tiny_model, options)
    assert worse["answers"] > terms["answers"]


class Asked:
    """A network that keeps the boxes it is asked with; its answers to each are `masks`, anew."""

    def __init__(self, model, masks):
        self.model, self.masks, self.boxes = model, masks, []

    def encode(self, pixels):
        return self.model.encode(pixels)

    def decode(self, embedding, boxes):
        self.boxes.append(boxes)
        logits = torch.from_numpy(np.stack(self.masks)).float() * 2 - 1
        return logits.repeat(len(boxes) // len(self.masks), 1, 1), None


def test_pseudo_objects_are_boxes_of_what_the_teacher_sees_in_free_boxes(tiny_model):
    options = dataclasses.replace(
        SMALL, batch_size=2, teacher_weight=1.0, taught=2, free_boxes=3, pseudo_objects=2,
        augmentation=NOTHING,
    )  # fmt: skip
    batch = Batches(Ellipses(), options)[0]
    seen = [ellipse(256, 256, (100, 60), (30, 20)), ellipse(256, 256, (200, 150), (10, 40))]
    teacher, asked_of_student = Asked(tiny_model, seen), []

    def student(pixels, boxes, free_boxes):
        asked_of_student.append(free_boxes)
        return Student(tiny_model)(pixels, boxes, free_boxes)

    taught_loss(student, batch, teacher, options)
    first, second, third = teacher.boxes
    torch.testing.assert_close(first, batch["free_boxes"][:, :2].flatten(0, 1))
    (asked,) = asked_of_student
    # it answers what the student is asked, and then what the truth is known of
    torch.testing.assert_close(second, asked.flatten(0, 1))
    torch.testing.assert_close(third, batch["boxes"].flatten(0, 1))
    torch.testing.assert_close(asked[:, 2], batch["free_boxes"][:, 2])
    for picture in asked:
        for box, mask in zip(picture[:2].tolist(), seen, strict=True):
            y, x = np.nonzero(mask)
            tight = np.array([x.min(), y.min(), x.max(), y.max()])
            outward = (np.array(box) - tight) * [-1, -1, 1, 1]
            assert 0 <= outward.min() <= outward.max() <= 10


def test_labelled_objects_take_the_place_of_the_last_free_boxes_where_there_are_labels(tiny_model):
    options = dataclasses.replace(
        SMALL, batch_size=3, unlabelled=1, taught=2, teacher_weight=1.0, free_boxes=3, boxes=2,
        labelled_objects=2, augmentation=NOTHING,
    )  # fmt: skip
    batch = Batches(PartlyLabelled(), options)[0]
    teacher = Asked(tiny_model, [np.zeros((256, 256))])
    answers = teachers.answers_of(
        teacher, torch.zeros(2, 1, 1, 1), batch["free_boxes"][:2], batch["shifts"][:2],
        (batch["boxes"][:1], batch["targets"][:1]), 2,
    )  # fmt: skip
    torch.testing.assert_close(answers.boxes[0], batch["free_boxes"][0])
    torch.testing.assert_close(answers.boxes[1, :1], batch["free_boxes"][1, :1])
    torch.testing.assert_close(answers.boxes[1, 1:], batch["boxes"][0])
    torch.testing.assert_close(teacher.boxes[0], answers.boxes.flatten(0, 1))
    answered_batch = answered(batch, [Teacher(tiny_model, tiny_model.encode)], options)
    torch.testing.assert_close(answered_batch["answered_boxes"], answers.boxes)


def test_more_labelled_objects_than_boxes_are_refused():
    with pytest.raises(ValueError, match="labelled_objects 3: expected 0 to 2, the smaller of"):
        dataclasses.replace(SMALL, boxes=2, free_boxes=3, labelled_objects=3)


def test_each_free_box_has_the_trust_of_its_picture(tiny_model, monkeypatch):
    monkeypatch.setattr(teachers, "trust_in", lambda logits, targets: torch.tensor([0.25, 1]))
    options = dataclasses.replace(
        SMALL, batch_size=2, free_boxes=3, teacher_weight=1.0, augmentation=NOTHING
    )
    batch = Batches(Ellipses(), options)[0]
    teacher = Asked(tiny_model, [np.zeros((256, 256))])
    asked = answered(batch, [Teacher(teacher, tiny_model.encode)], options)
    assert asked["trust"].tolist() == [0.25] * 3 + [1] * 3


def test_unlabelled_pictures_come_first_and_only_the_teacher_answers_for_them(
    tiny_model, monkeypatch
):
    options = dataclasses.replace(
        SMALL, batch_size=3, unlabelled=1, taught=2, teacher_weight=1.0, free_boxes=2, boxes=2,
        augmentation=NOTHING,
    )  # fmt: skip
    batch = Batches(PartlyLabelled(), options)[0]
    assert batch["pixels"].shape[0] == batch["free_boxes"].shape[0] == 3
    assert batch["boxes"].shape[0] == batch["targets"].shape[0] == 2
    assert (batch["clean"][0] * 255 == 77).all()
    assert not (batch["clean"][1] * 255 == 77).all()
    monkeypatch.setattr(teachers, "trust_in", lambda logits, targets: torch.full((1,), 0.25))
    teacher = Asked(tiny_model, [np.zeros((256, 256))])
    asked = answered(batch, [Teacher(teacher, tiny_model.encode)], options)
    assert asked["trust"].tolist() == [1, 1, 0.25, 0.25]  # no truth, no doubt
    torch.testing.assert_close(teacher.boxes[1], batch["boxes"][0])  # of the taught labelled one
    with torch.no_grad():
        terms = taught_loss(Student(tiny_model), batch, tiny_model, options)
        embedding = tiny_model.encode(batch["pixels"][1:]).repeat_interleave(2, 0)
        logits, iou = tiny_model.decode(embedding, batch["boxes"].flatten(0, 1))
        wanted = truth_loss(logits, iou, batch["targets"].flatten(0, 1))
    assert terms["truth"].item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.fixture
def two_teachers(tiny_model):
    """The tiny network, and another one with other weights."""
    torch.manual_seed(5)
    other = SwiftMedSAM(TINY).eval()
    return [Teacher(model, model.encode) for model in (tiny_model, other)]


def test_the_second_teacher_answers_for_the_first_pictures_alone(two_teachers):
    batch = Batches(PartlyLabelled(), TWO_TEACHERS)[0]
    asked = answered(batch, two_teachers, TWO_TEACHERS)
    assert asked["embedding"].shape[0] == 2
    torch.testing.assert_close(
        asked["embedding"], two_teachers[0].encode(batch["clean"][1:3]), rtol=1e-4, atol=1e-5
    )
    for i, teacher in enumerate([two_teachers[1], *two_teachers[:1] * 2]):
        embedding = teacher.encode(batch["clean"][i : i + 1]).repeat_interleave(2, 0)
        logits, _ = teacher.model.decode(embedding, asked["answered_boxes"][i])
        torch.testing.assert_close(
            asked["answers"][2 * i : 2 * i + 2], logits, rtol=1e-4, atol=1e-4
        )
    assert asked["trust"][:4].tolist() == [1] * 4  # without truth


def test_the_embedding_of_the_first_teacher_is_learned_where_the_second_does_not_answer(
    two_teachers,
):
    batch = Batches(PartlyLabelled(), TWO_TEACHERS)[0]
    asked = answered(batch, two_teachers, TWO_TEACHERS)
    student = Student(two_teachers[1].model)
    with torch.no_grad():
        terms = batch_loss(student, asked, TWO_TEACHERS)
        own = two_teachers[1].encode(batch["pixels"][1:3])
    wanted = relative_error(own, asked["embedding"])
    assert terms["teacher"].item() == pytest.approx(wanted.item(), rel=1e-3)
    assert wanted > 0.1
    # the first picture has other answers with one teacher
    alone = dataclasses.replace(TWO_TEACHERS, second=0, second_for="")
    with torch.no_grad():
        other = batch_loss(student, answered(batch, two_teachers[:1], alone), alone)
    assert other["answers"] > terms["answers"]


def test_pictures_for_the_second_teacher_have_boxes_of_their_labelled_objects():
    options = dataclasses.replace(TWO_TEACHERS, free_boxes=3, pseudo_objects=1)
    drawn = Batches(PartlyLabelled(), options)[0]
    y, x = np.nonzero(drawn["clean"][0, 0].numpy() == 1)
    tight = np.array([x.min(), y.min(), x.max(), y.max()])
    for box in drawn["free_boxes"][0, 1:].numpy():  # the first one becomes a pseudo-object
        assert (np.abs(box - tight) <= 10).all()


def test_two_teachers_train_a_student_and_one_is_not_enough(tiny_model, tmp_path):
    options = dataclasses.replace(TWO_TEACHERS, steps=1, repeats=1)
    run = Run(tmp_path, options, cpu())
    with pytest.raises(ValueError, match="second 1: expected two teachers"):
        run.train(copy.deepcopy(tiny_model), PartlyLabelled(), copy.deepcopy(tiny_model))
    teachers_of_it = [copy.deepcopy(tiny_model) for _ in range(2)]
    run.train(copy.deepcopy(tiny_model), PartlyLabelled(), *teachers_of_it)
    assert (tmp_path / "log.csv").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("wrong", "most"),
    [
        ({"second": 3}, 2),
        ({"second_for": ""}, 2),
        ({"second": 0}, 2),
        ({"second": 2, "taught": 2}, 1),  # nothing would be left for the first teacher
    ],
)
def test_pictures_for_a_second_teacher_are_unlabelled_ones_of_named_sets(wrong, most):
    with pytest.raises(ValueError, match=f"second .*expected 0 to {most} .unlabelled, .*and names"):
        dataclasses.replace(TWO_TEACHERS, **wrong)
