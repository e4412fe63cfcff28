"""Training of the tiny network: batches, the loop in one and two processes, the command."""

import copy
import csv
import dataclasses
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors import safe_open

from swiftmedsam.torch_model import (
    SWIFT_V1,
    SWIFT_V2,
    SWIFT_V3,
    TINY,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    save_model,
    trained_on,
)
from swiftmedsam.train import __main__ as command
from swiftmedsam.train import run as loop
from swiftmedsam.train.data import prompts
from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.data.stream import Batches, CacheSource
from swiftmedsam.train.losses import iou_of
from swiftmedsam.train.options import PAPER, Options
from swiftmedsam.train.repair import features
from swiftmedsam.train.repair.features import read_cache
from swiftmedsam.train.repair.initialise import dense_student_of
from swiftmedsam.train.repair.one_cycle import RepairOptions
from swiftmedsam.train.run import COLUMNS, LAST, WEIGHTS, Run, batch_loss, set_trainable
from tests.helpers import ellipse
from tests.helpers.torch_model import CACHE_PICTURES, changed_names, state_of
from tests.helpers.training import (
    NOTHING,
    SMALL,
    Ellipses,
    Killed,
    cpu,
    taught_loss,
)

LOG_TOLERANCE = 1e-5  # log.csv has five decimals; a mean of two of its numbers is as exact
HALF_PRECISION = 0.03  # bfloat16 keeps 8 bits; relative, of sums over a dozen layers
# Two processes add up the gradients of half batches, one those of the whole: the same sums over
# 65536 pixels in another order (measured: 1e-5 of a tensor's largest gradient). The bias of a key
# cancels in the softmax: its gradient is rounding, 5e-8 against 1e-3 and more of the others.
GRADIENT_TOLERANCE, GRADIENT_FLOOR = 1e-4, 1e-6


class OneEllipse(Ellipses):
    """Always the same picture, with an object of half the frame."""

    mask = ellipse(256, 256, (110, 140), (90, 105))

    def draw(self, random):
        return np.stack([np.where(self.mask, 255, 0).astype(np.uint8)] * 3), self.mask, None


def trained(model, folder, options, source=None, **more):
    """A copy of `model` after a run in `folder`."""
    return Run(folder, options, cpu()).train(copy.deepcopy(model), source or Ellipses(), **more)


def rows_of(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


# Batches


def test_a_batch_is_a_function_of_seed_process_and_step():
    options = dataclasses.replace(SMALL, batch_size=2, boxes=3, pseudo_objects=2)
    batches = Batches(Ellipses(), options)
    batch = batches[1]
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "clean": (2, 3, 256, 256), "pixels": (2, 3, 256, 256), "boxes": (2, 3, 4),
        "targets": (2, 3, 256, 256), "free_boxes": (2, 2, 4), "shifts": (2, 2, 4),
    }  # fmt: skip
    assert all(tensor.dtype == torch.float32 for tensor in batch.values())
    again = Batches(Ellipses(), options)[1]
    for name in batch:
        assert torch.equal(batch[name], again[name]), name
    others = [
        batches[0], Batches(Ellipses(), options, rank=1)[1],
        Batches(Ellipses(), dataclasses.replace(options, seed=1))[1],
    ]  # fmt: skip
    for other in others:
        assert not torch.equal(batch["boxes"], other["boxes"])
        assert not torch.equal(batch["clean"], other["clean"])


def test_boxes_of_a_batch_enclose_their_targets():
    batch = Batches(Ellipses(), dataclasses.replace(SMALL, batch_size=2))[0]
    for box, target in zip(
        batch["boxes"].flatten(0, 1), batch["targets"].flatten(0, 1), strict=True
    ):
        y, x = target.nonzero(as_tuple=True)
        assert box[0] <= x.min() and box[1] <= y.min()
        assert box[2] >= x.max() and box[3] >= y.max()


def test_pictures_without_objects_are_replaced_in_a_batch():
    class Speckled(Ellipses):
        def draw(self, random):
            pixels, labels, _ = super().draw(random)
            return pixels, labels * (self.left % 2), None

    source = Speckled(lasts=6)
    batch = Batches(source, dataclasses.replace(SMALL, batch_size=3))[0]
    assert batch["targets"].flatten(2).any(dim=2).all()
    assert source.left == 1  # three of the five it drew were good


def test_a_cache_gives_its_rows_with_the_teachers_embedding(cache):
    rows = read_cache(cache)
    options = dataclasses.replace(SMALL, augmentation=NOTHING, batch_size=8)
    batch = Batches(CacheSource(cache, first=4), options)[0]
    assert batch["embedding"].shape == (8, 32, 64, 64)
    order = range(CACHE_PICTURES)[::-1]  # two rows may be the same picture
    seen = set()
    for clean, embedding in zip(batch["clean"], batch["embedding"], strict=True):
        row = next(i for i in order if np.array_equal(rows["pixels"][i], clean * 255))
        np.testing.assert_array_equal(embedding, rows["embedding"][row])
        seen.add(row)
    assert seen == {4, 5}  # the rows before `first` are held back


# The loop


def test_one_batch_is_over_fitted(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "MAX_SHIFTS", (0,))
    monkeypatch.setattr(prompts, "LOOSE_SHARE", 0)
    torch.manual_seed(0)
    options = dataclasses.replace(  # from nothing to something: as large a step as will do
        PAPER, steps=25, batch_size=1, learning_rate=0.01, report_every=5, save_every=100,
        augmentation=NOTHING,
    )  # fmt: skip
    model = trained(SwiftMedSAM(TINY), tmp_path, options, OneEllipse())
    losses = [row["loss"] for row in rows_of(tmp_path)]
    assert losses[0] > 1
    assert losses[-1] < 0.2
    batch = Batches(OneEllipse(), options)[0]
    with torch.no_grad():
        logits, iou = model(batch["pixels"], batch["boxes"][:, 0])
    reached = iou_of(logits, batch["targets"][0])
    assert reached.item() > 0.95
    assert iou.item() == pytest.approx(reached.item(), abs=0.2)


# decay 0.9 and live batch statistics: the more a checkpoint has to remember
RESUMED = dataclasses.replace(
    SMALL, steps=6, save_every=3, warmup=2, average_decay=0.9, freeze_statistics=False
)


@pytest.fixture(scope="module")
def straight(tiny_model, tmp_path_factory):
    """Folder and network of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, trained(tiny_model, folder, RESUMED)


def assert_same(found, wanted, where=""):
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_same(found[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert_same(dict(enumerate(found)), dict(enumerate(wanted)), where)
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted, where


def test_a_run_that_was_killed_and_resumed_ends_as_one_that_was_not(straight, tiny_model, tmp_path):
    reference, _ = straight
    options = dataclasses.replace(RESUMED, report_every=2)
    with pytest.raises(Killed):
        trained(tiny_model, tmp_path, options, Ellipses(lasts=3))
    assert torch.load(tmp_path / LAST, weights_only=True)["step"] == 3
    trained(tiny_model, tmp_path, options, resume=True)
    ends = [torch.load(folder / LAST, weights_only=True) for folder in (tmp_path, reference)]
    assert ends[0].keys() == {"student", "average", "optimizer", "schedule", "step", "minutes"}
    assert_same(*ends)
    weights = [load_model(folder / WEIGHTS, TINY).state_dict() for folder in (tmp_path, reference)]
    assert_same(*weights)

    each = [row["loss"] for row in rows_of(reference)]
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [2, 4, 6]
    wanted = [(each[0] + each[1]) / 2, each[3], (each[4] + each[5]) / 2]  # step 3 was not reported
    assert [row["loss"] for row in rows] == pytest.approx(wanted, abs=LOG_TOLERANCE)


def test_rows_after_the_last_checkpoint_are_logged_once(straight, tiny_model, tmp_path):
    with pytest.raises(Killed):
        trained(tiny_model, tmp_path, RESUMED, Ellipses(lasts=5))
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5]
    trained(tiny_model, tmp_path, RESUMED, resume=True)
    columns = ("step", "loss", "learning_rate")
    ends = [[[row[c] for c in columns] for row in rows_of(f)] for f in (tmp_path, straight[0])]
    assert ends[0] == ends[1]


def test_a_finished_run_that_is_resumed_does_nothing(straight, tiny_model):
    folder, model = straight
    content = (folder / LAST).read_bytes()
    again = trained(tiny_model, folder, RESUMED, Ellipses(lasts=0), resume=True)
    assert (folder / LAST).read_bytes() == content
    assert_same(again.state_dict(), model.state_dict())


def test_a_log_has_a_row_for_each_report(straight):
    folder, _ = straight
    header, *rows = (folder / "log.csv").read_text().splitlines()
    assert header == "step,loss,truth,teacher,answers,learning_rate,pictures_per_second"
    assert header == ",".join(COLUMNS)
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    for row in rows_of(folder):
        assert row["loss"] == row["truth"]  # there is no teacher
        assert row["pictures_per_second"] > 0
    rates = [row["learning_rate"] / RESUMED.learning_rate for row in rows_of(folder)]
    # of the next step: cosine over 6 steps; the two steps of the warm-up are over after one
    wanted = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(1, 7)]
    assert rates == pytest.approx(wanted, rel=5e-3, abs=1e-9)  # three digits


def test_what_was_averaged_is_what_was_stored_and_its_indices_are_whole(straight, tiny_model):
    folder, model = straight
    stored = load_model(folder / WEIGHTS, TINY)
    assert changed_names(model, stored) == set()
    indices = {n: b for n, b in tiny_model.named_buffers() if n.endswith("bias_idxs")}
    assert indices  # they are in no checkpoint, and were averaged like weights once
    for name, buffer in indices.items():
        assert torch.equal(state_of(model)[name], buffer)
    end = torch.load(folder / LAST, weights_only=True)
    name = "mask_decoder.iou_token.weight"
    assert not torch.equal(end["student"][f"model.{name}"], stored.state_dict()[name])


def test_weights_carry_the_options_they_were_trained_with(straight):
    with safe_open(straight[0] / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata["step"] == "6"
    assert Options.from_json(metadata["options"]) == RESUMED


def test_options_survive_json_and_unknown_ones_are_refused():
    options = dataclasses.replace(PAPER, seed=7, augmentation=Augmentation(flip=0.25))
    assert Options.from_json(options.to_json()) == options
    with pytest.raises(TypeError, match="momentum"):
        Options.from_json(json.dumps({**json.loads(options.to_json()), "momentum": 0.9}))


def test_the_papers_recipe_has_the_papers_numbers():
    """SwiftMedSAM paper, section 4.1."""
    assert PAPER.learning_rate == 0.005
    assert PAPER.batch_size == 32
    assert PAPER.steps * PAPER.batch_size == 26 * 1_500_000  # epochs of so many pictures
    assert PAPER.boxes == 1
    assert PAPER.schedule == "plateau"
    assert PAPER.augmentation == dataclasses.replace(NOTHING, flip=0.5)
    assert max(prompts.MAX_SHIFTS) == 10
    assert PAPER.teacher_weight == PAPER.average_decay == 0
    assert not PAPER.freeze_statistics
    assert not PAPER.frozen_stages


@pytest.mark.parametrize("freeze_statistics", [True, False])
def test_batch_norm_statistics_move_only_where_they_may(freeze_statistics, tiny_model, tmp_path):
    options = dataclasses.replace(SMALL, steps=1, freeze_statistics=freeze_statistics)
    changed = changed_names(trained(tiny_model, tmp_path, options), tiny_model)
    statistics = {name for name in changed if "running" in name or "tracked" in name}
    assert bool(statistics) is not freeze_statistics
    assert any(name.startswith("image_encoder.") for name in changed - statistics)
    assert not any(name.startswith("prompt_encoder.") for name in changed)


def test_statistics_settle_once_and_are_those_of_the_pictures_after(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SETTLING_BATCHES", 3)
    options = dataclasses.replace(SMALL, batch_size=2, steps=2, settling=2, learning_rate=0.0)
    found = trained(tiny_model, tmp_path, options)
    wanted = copy.deepcopy(tiny_model).train()
    norm = wanted.image_encoder.patch_embed.seq[0].bn
    batches = Batches(Ellipses(), options)
    maps = []
    norm.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    with torch.no_grad():
        for step in range(2, 5):
            wanted.encode(batches[step]["pixels"])
    means = torch.stack([x.mean(dim=(0, 2, 3)) for x in maps]).mean(0)
    kept = found.image_encoder.patch_embed.seq[0].bn
    torch.testing.assert_close(kept.running_mean, means, rtol=1e-3, atol=1e-4)
    more = dataclasses.replace(options, steps=4)
    again = trained(tiny_model, tmp_path, more, resume=True)  # they stay from here on
    torch.testing.assert_close(
        again.image_encoder.patch_embed.seq[0].bn.running_mean, kept.running_mean, rtol=0, atol=0
    )


def test_without_the_truth_labels_are_not_looked_at(tiny_model, tmp_path):
    class Unlabelled(Ellipses):
        def draw(self, random):
            raise AssertionError("a labelled picture was drawn")

        def draw_unlabelled(self, random):
            return super().draw(random)[0]

    options = dataclasses.replace(
        SMALL, batch_size=2, unlabelled=2, taught=2, free_boxes=0, teacher_weight=1.0,
        truth_weight=0.0,
    )  # fmt: skip
    teacher = copy.deepcopy(tiny_model)
    for tensor in teacher.image_encoder.neck.parameters():
        tensor.data.mul_(1.5)
    student = trained(tiny_model, tmp_path, options, source=Unlabelled(), teacher=teacher)
    changed = changed_names(student, tiny_model)
    assert any(name.startswith("image_encoder.") for name in changed)
    assert not any(name.startswith("mask_decoder.") for name in changed)
    assert all(row["truth"] == row["answers"] == 0 < row["teacher"] for row in rows_of(tmp_path))


def test_a_dense_student_has_its_teachers_decoder():
    teacher = SwiftMedSAM(SWIFT_V1)
    student = dense_student_of(teacher, SWIFT_V3)
    for part in ("prompt_encoder", "mask_decoder"):
        wanted = getattr(teacher, part).state_dict()
        for name, tensor in getattr(student, part).state_dict().items():
            assert torch.equal(tensor, wanted[name]), name
    norm = teacher.image_encoder.neck[-1]
    assert torch.equal(student.image_encoder.neck.norm2.weight, norm.weight)
    with pytest.raises(CheckpointError, match="the teacher of v3 must be v1"):
        dense_student_of(SwiftMedSAM(SWIFT_V2), SWIFT_V3)


def test_a_frozen_encoder_keeps_weights_and_statistics(tiny_model, tmp_path):
    options = dataclasses.replace(SMALL, steps=1, frozen_stages=4, freeze_statistics=False)
    changed = changed_names(trained(tiny_model, tmp_path, options), tiny_model)
    assert changed
    assert all(name.startswith("mask_decoder.") for name in changed)


def test_a_run_of_the_encoder_alone_keeps_the_decoder(tiny_model, tmp_path):
    options = dataclasses.replace(SMALL, steps=1, trained="encoder")
    changed = changed_names(trained(tiny_model, tmp_path, options), tiny_model)
    assert changed
    assert all(name.startswith("image_encoder.") for name in changed)


def test_the_rate_falls_on_a_plateau_of_means_not_of_single_batches(
    tiny_model, tmp_path, monkeypatch
):
    losses = iter([5.0, 5.0, 9.0, 1.0, 1.0, 9.0])  # means of two: 5, 5, 5; last ones: 5, 1, 9
    seen = []

    class Plateau:
        def __init__(self, optimizer):
            pass

        def step(self, loss):
            seen.append(loss)

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    def made_up(student, batch, options):
        _, logits, *_ = student(batch["pixels"], batch["boxes"], batch["free_boxes"])
        loss = logits.mean() * 0 + next(losses)
        return dict.fromkeys(loop.TERMS, loss)

    monkeypatch.setattr(loop, "ReduceLROnPlateau", Plateau)
    monkeypatch.setattr(loop, "batch_loss", made_up)
    trained(
        tiny_model, tmp_path,
        dataclasses.replace(SMALL, steps=6, schedule="plateau", report_every=2),
    )  # fmt: skip
    assert seen == [5, 5, 5]


def test_a_student_that_is_its_teacher_is_at_no_distance(tiny_model, tmp_path):
    options = dataclasses.replace(
        SMALL, steps=1, teacher_weight=0.5, free_boxes=0, augmentation=NOTHING
    )
    trained(tiny_model, tmp_path, options, teacher=copy.deepcopy(tiny_model))
    (row,) = rows_of(tmp_path)
    assert row["teacher"] == pytest.approx(0, abs=LOG_TOLERANCE)
    assert row["loss"] == pytest.approx(row["truth"], abs=LOG_TOLERANCE)


class Clock:
    """Time that goes on by 15 seconds whenever somebody looks."""

    seconds = 0

    def monotonic(self):
        self.seconds += 15
        return self.seconds


BY_THE_CLOCK = dataclasses.replace(SMALL, steps=1000, minutes=6.0, save_every=1)


def test_a_run_by_the_clock_ends_with_its_time_and_its_learning_rate(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "time", Clock())
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
    trained(tiny_model, straight, BY_THE_CLOCK)
    rates = [row["learning_rate"] for row in rows_of(straight)]
    assert 5 < len(rates) < 25
    assert rates == sorted(rates, reverse=True) and rates[-1] == 0
    end = torch.load(straight / LAST, weights_only=True)
    assert end["step"] == len(rates) and end["minutes"] >= 6
    trained(tiny_model, straight, BY_THE_CLOCK, Ellipses(lasts=0), resume=True)  # nothing to do

    with pytest.raises(Killed):
        trained(tiny_model, killed, BY_THE_CLOCK, Ellipses(lasts=4))
    trained(tiny_model, killed, BY_THE_CLOCK, resume=True)
    assert len(rows_of(killed)) == pytest.approx(len(rates), abs=1)  # the time before counts


def test_all_processes_end_by_the_clock_of_one(tiny_model, tmp_path, monkeypatch):
    fabric = cpu()
    monkeypatch.setattr(fabric, "broadcast", lambda minutes: 7.0)
    Run(tmp_path, BY_THE_CLOCK, fabric).train(copy.deepcopy(tiny_model), Ellipses())
    assert len(rows_of(tmp_path)) == 1


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"minutes": -1.0}, {"minutes": math.nan}])
def test_a_run_without_length_is_refused(wrong):
    with pytest.raises(ValueError, match="expected at least 1, 0"):
        dataclasses.replace(SMALL, **wrong)


def test_a_cached_embedding_stands_in_for_the_teacher(cache, tiny_model):
    options = dataclasses.replace(SMALL, teacher_weight=2.0)
    other = copy.deepcopy(tiny_model)
    for tensor in other.image_encoder.neck.parameters():
        tensor.add_(0.5)
    student = loop.Student(other)
    batch = Batches(CacheSource(cache, first=0), options)[0]
    with torch.no_grad():
        cached = batch_loss(student, batch, options)
        asked = taught_loss(student, batch | {"embedding": None}, tiny_model, options)
        ignored = taught_loss(student, batch, other, options)
    assert cached["teacher"].item() == pytest.approx(asked["teacher"].item(), rel=HALF_PRECISION)
    assert ignored["teacher"].item() == cached["teacher"].item()
    assert cached["loss"] == cached["truth"] + 2 * cached["teacher"]
    assert cached["answers"] == 0  # a cache cannot be asked


def test_a_teachers_weight_without_a_teacher_is_refused(tiny_model):
    options = dataclasses.replace(SMALL, teacher_weight=0.5)
    with pytest.raises(ValueError, match="neither teacher nor cache"):
        batch_loss(loop.Student(tiny_model), Batches(Ellipses(), options)[0], options)


# The command


@pytest.fixture
def tiny_command(corpus, tiny_rows, tiny_checkpoint, tmp_path, monkeypatch):
    """`main` for the tiny network as teacher and student, a step or two a phase; its status."""
    small = {"held_back": 1, "batch_size": 1}
    for name, value in {
        "VARIANTS": {"lite": TINY, "v2": TINY}, "REPAIRS": {"v2": {"stage2": 2}},
        "student_of": lambda teacher, architecture: copy.deepcopy(teacher),
        "RepairOptions": functools.partial(RepairOptions, **small),
        "DECODER_REPAIR": RepairOptions(steps=1, **small),
        "RECIPES": {"ours": dataclasses.replace(SMALL, teacher_weight=0.5)},
    }.items():  # fmt: skip
        monkeypatch.setattr(command, name, value)
    monkeypatch.setattr(features, "ROWS", tiny_rows)
    given = {"--variant": "v2", "--init": tiny_checkpoint, "--data": corpus, "--pictures": 3,
             "--out": tmp_path / "run", "--accelerator": "cpu", "--devices": 1}  # fmt: skip

    def run(*flags, **options):
        pairs = given | {f"--{name.replace('_', '-')}": v for name, v in options.items()}
        return command.main([*(str(part) for pair in pairs.items() for part in pair), *flags])

    return run


def test_each_phase_leaves_its_weights_and_is_not_repeated(tiny_command, tmp_path):
    folder = tmp_path / "run"
    assert tiny_command(steps=1) == 0
    left = ["cache/done", "stage2.safetensors", "decoder.safetensors"]
    times = [(folder / name).stat().st_mtime_ns for name in left]
    assert tiny_command("--cached", "--resume", steps=2) == 0
    assert [(folder / name).stat().st_mtime_ns for name in left] == times
    assert [row["step"] for row in rows_of(folder)] == [1, 2]
    assert rows_of(folder)[1]["teacher"] > 0  # from the cache
    load_model(folder / WEIGHTS, TINY)


def test_every_number_and_word_among_the_options_is_a_flag(tiny_command, tmp_path, capsys):
    assert tiny_command(steps=1, batch_size=2, schedule="plateau", average_decay=0.5) == 0
    with safe_open(tmp_path / "run" / WEIGHTS, "pt") as file:
        stored = Options.from_json(file.metadata()["options"])
    assert (stored.batch_size, stored.schedule, stored.average_decay) == (2, "plateau", 0.5)
    with pytest.raises(SystemExit):
        tiny_command(steps=1, schedule="linear")
    assert "choose from" in capsys.readouterr().err


def test_the_last_phase_alone_is_enough_to_go_on(tiny_command, tmp_path):
    folder = tmp_path / "run"
    assert tiny_command(steps=1) == 0
    (folder / "stage2.safetensors").unlink()  # the decoder's weights hold it
    (folder / WEIGHTS).unlink()
    assert tiny_command(steps=1) == 0
    assert not (folder / "stage2.safetensors").exists()
    assert (folder / WEIGHTS).exists()


def test_training_starts_from_given_weights_with_given_options(
    tiny_command, tiny_checkpoint, tmp_path
):
    flags = {"start": tiny_checkpoint, "learning_rate": 0.001, "seed": 5, "precision": "32-true"}
    assert tiny_command(steps=1, frozen_stages=2, taught=1, **flags) == 0
    with safe_open(tmp_path / "run" / WEIGHTS, "pt") as file:
        options = Options.from_json(file.metadata()["options"])
    assert (options.steps, options.learning_rate, options.seed) == (1, 0.001, 5)
    assert (options.frozen_stages, options.taught) == (2, 1)
    assert not (tmp_path / "run" / "cache").exists()


def test_a_run_without_place_for_its_unlabelled_pictures_is_refused():
    for wrong in ({"unlabelled": 2, "taught": 1}, {"batch_size": 2, "unlabelled": 2, "taught": 2},
                  {"unlabelled": 1, "taught": 2, "teacher_weight": 0.0}):  # fmt: skip
        with pytest.raises(ValueError, match="unlabelled"):
            dataclasses.replace(Options(), **wrong)


def test_pictures_for_a_second_teacher_without_one_end_the_command_in_one_line(
    tiny_command, capsys
):
    with pytest.raises(SystemExit):
        tiny_command(batch_size=3, unlabelled=1, taught=2, second=1, second_for="CT")
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("--second 1: expected --second-init, the second teacher")


def test_weights_name_the_data_sets_they_learned_from(
    tiny_command, tiny_checkpoint, corpus, tmp_path
):
    before = tmp_path / "before.safetensors"
    model = load_model(tiny_checkpoint, TINY)
    save_model(model, before, metadata={"trained_on": '["CT_Earlier"]'})
    assert trained_on(before) == ["CT_Earlier"]
    assert tiny_command(steps=1, start=before) == 0
    found = trained_on(tmp_path / "run" / WEIGHTS)
    assert found == ["CT_Earlier", corpus.name]
    assert trained_on(tiny_checkpoint) == []


def test_a_corpus_that_cannot_be_read_ends_the_command_in_one_line(
    tiny_command, tmp_path, caplog, capsys
):
    assert tiny_command(data=tmp_path / "misspelt") == 1
    assert "misspelt: no .tar shard" in caplog.messages[-1]
    assert tiny_command(unlabelled_data=tmp_path / "none") == 1
    assert "none: no shard" in caplog.messages[-1]
    with pytest.raises(SystemExit):
        tiny_command(pictures=1)
    assert "--pictures 1: expected more than 1" in capsys.readouterr().err


def test_a_missing_teacher_ends_the_command_with_status_1(tiny_command, tmp_path):
    assert tiny_command(init=tmp_path / "none.pth") == 1


# Two processes

# No teacher: the relative error divides by the variance of a batch, which differs between a half
# and the whole. Frozen statistics, no clipping: neither is linear in the gradients either.
SHARED = dataclasses.replace(SMALL, clip_norm=1e9)


class GradientsKept(Fabric):
    """Remembers the gradients of the first step."""

    kept: dict[str, torch.Tensor] | None = None

    def clip_gradients(self, module, optimizer, *args, **kwargs):
        if self.kept is None:
            named = module.module.named_parameters()
            self.kept = {name: p.grad.clone() for name, p in named if p.grad is not None}
        return super().clip_gradients(module, optimizer, *args, **kwargs)


def train_one_of_two(fabric: GradientsKept, folder: Path, start: Path) -> None:
    """What each of two processes does."""
    torch.set_num_threads(1)
    model = Run(folder, SHARED, fabric).train(load_model(start, TINY), Ellipses())
    torch.save((fabric.kept, model.state_dict()), folder / f"{fabric.global_rank}.pt")


class Doubled(Batches):
    """The batches of two processes as one."""

    def __getitem__(self, step):
        halves = [Batches(self._source, self._options, rank)[step] for rank in (0, 1)]
        return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}


def test_two_processes_learn_what_one_learns_from_both_their_batches(
    tiny_model, tiny_checkpoint, tmp_path, monkeypatch
):
    two = GradientsKept(accelerator="cpu", devices=2, strategy="ddp_spawn", precision="32-true")
    two.launch(train_one_of_two, tmp_path, tiny_checkpoint)
    (first, weights), (second, other_weights) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert_same(second, first)
    assert_same(other_weights, weights)
    assert len(rows_of(tmp_path)) == 2 * 1  # one process writes

    monkeypatch.setattr(loop, "Batches", Doubled)
    one = GradientsKept(accelerator="cpu", devices=1, precision="32-true")
    one.launch()
    (tmp_path / "one").mkdir()
    Run(tmp_path / "one", SHARED, one).train(copy.deepcopy(tiny_model), Ellipses())
    assert first.keys() == one.kept.keys()
    still = {name for name, tensor in one.kept.items() if tensor.abs().max() < GRADIENT_FLOOR}
    assert all(name.endswith("k_proj.bias") for name in still)
    for name, wanted in one.kept.items():
        atol = max(GRADIENT_TOLERANCE * wanted.abs().max().item(), GRADIENT_FLOOR)
        torch.testing.assert_close(first[name], wanted, rtol=0, atol=atol, msg=name)
    losses = [[row["loss"] for row in rows_of(folder)] for folder in (tmp_path, tmp_path / "one")]
    assert losses[0] == pytest.approx(losses[1], rel=GRADIENT_TOLERANCE)


def test_what_cannot_learn_has_no_gradient(tiny_model):
    """Else several processes would wait for gradients that never come."""
    model = copy.deepcopy(tiny_model)
    set_trainable(model, SHARED)
    batch = Batches(Ellipses(), SHARED)[0]
    batch_loss(loop.Student(model), batch, SHARED)["loss"].backward()
    for name, tensor in model.named_parameters():
        assert tensor.requires_grad == (tensor.grad is not None), name
