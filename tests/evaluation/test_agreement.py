"""Cases of unlabelled pictures whose truth is what a teacher answers."""

import io
import json
import tarfile

import cv2
import numpy as np
import pytest

from swiftmedsam.evaluation import agreement
from swiftmedsam.evaluation.agreement import first_boxes, main, teachers_objects
from swiftmedsam.evaluation.breadth import main as breadth
from swiftmedsam.frame import EMBEDDING_SIZE, INPUT_SIZE
from swiftmedsam.npz import read_case


class Bright:
    """A network that answers with what is bright in a box, and is surest of small boxes."""

    def encode(self, pixels):
        return pixels

    def decode(self, embedding, prompts, cells):
        assert cells.shape == (len(prompts), EMBEDDING_SIZE, EMBEDDING_SIZE)
        logits = np.full((len(prompts), INPUT_SIZE, INPUT_SIZE), -1, np.float32)
        for inside, (x_min, y_min, x_max, y_max) in zip(logits, prompts.astype(int), strict=True):
            rows, columns = slice(y_min, y_max + 1), slice(x_min, x_max + 1)
            inside[rows, columns] = np.where(embedding[0, 0, rows, columns] > 0.5, 1, -1)
        areas = (prompts[:, 2:] - prompts[:, :2]).prod(axis=1)
        return logits, 1 - areas / INPUT_SIZE**2

    def release_encoder(self):
        pass


def picture(height=160, width=256):
    """Two bright rectangles, and a speck that is too small."""
    image = np.zeros((height, width, 3), np.uint8)
    image[20:50, 30:70] = 255
    image[90:130, 150:230] = 255
    image[5:7, 5:7] = 255
    return image


def put_shard(folder, name, pictures):
    with tarfile.open(folder / name, "w") as tar:
        for key, image in pictures.items():
            content = image if isinstance(image, bytes) else cv2.imencode(
                ".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101]
            )[1].tobytes()  # fmt: skip
            member = tarfile.TarInfo(key)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_the_first_boxes_lie_inside_the_picture_and_reach_its_border():
    boxes = first_boxes(100, 200)
    assert len(boxes) == 4 * 4 * 2
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert boxes.min(axis=0).tolist()[:2] == [0, 0]
    assert boxes.max(axis=0).tolist()[2:] == [199, 99]


def test_objects_are_boxes_around_what_the_teacher_answers_and_do_not_overlap():
    boxes, labels = teachers_objects(picture(), Bright(), 3)
    assert 1 <= len(boxes) <= 3
    assert np.unique(labels).tolist() == list(range(len(boxes) + 1))
    bright = picture()[:, :, 0] > 0
    for label, (x_min, y_min, x_max, y_max) in enumerate(boxes.astype(int), start=1):
        inside = np.zeros_like(bright)
        inside[y_min : y_max + 1, x_min : x_max + 1] = True
        assert np.array_equal(labels == label, bright & inside)
        assert np.count_nonzero(labels == label) >= agreement.LEAST_AREA


def test_no_more_objects_than_wanted_and_none_in_an_empty_picture():
    assert len(teachers_objects(picture(), Bright(), 1)[0]) == 1
    boxes, labels = teachers_objects(np.zeros((64, 64, 3), np.uint8), Bright(), 3)
    assert boxes.shape == (0, 4) and not labels.any()


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "load", lambda weights: Bright())
    folder = tmp_path / "shards"
    folder.mkdir()
    red = picture() * np.array([0, 0, 1], np.uint8)  # cv2's order
    put_shard(folder, "CT_Some.tar", {f"p{i}__z001.webp": picture() for i in range(4)})
    put_shard(folder, "Endoscopy_Red.tar", {"a/b.webp": red})
    put_shard(folder, "US_Empty.tar", {"dark.webp": np.zeros((64, 64, 3), np.uint8)})
    return folder


def test_the_cases_can_be_segmented_and_measured(shards, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--weights", "teacher", "--pictures", "2"]
    assert main([str(shards), str(out), *more]) == 0
    assert capsys.readouterr().out == f"{out}: 3 cases of 2 of 3 sources\n"
    names = ["2DBox_CT_Some-p0__z001", "2DBox_CT_Some-p3__z001", "2DBox_Endoscopy_Red-a-b"]
    sets = json.loads((out / "sets.json").read_text())
    assert {name: entry["set"] for name, entry in sets.items()} == dict(
        zip(names, ["CT_Some", "CT_Some", "Endoscopy_Red"], strict=True)
    )
    segs = tmp_path / "segs"
    segs.mkdir()
    for name in names:
        case = read_case(out / "inputs" / f"{name}.npz")
        labels = np.load(out / "gts" / f"{name}.npz")["gts"]
        assert labels.shape == case.label_shape and labels.max() == len(case.boxes) > 0
        np.savez(segs / f"{name}.npz", segs=labels)
    assert case.image[30, 50].tolist() == [255, 0, 0]
    arguments = [str(segs), str(out / "gts"), "--sets", str(out / "sets.json")]
    assert breadth([*arguments, "--processes", "1"]) == 0
    assert "all, 2 data sets never seen      3  100.00" in capsys.readouterr().out


def test_what_cannot_be_read_is_said_in_one_line(shards, tmp_path, capsys):
    arguments = [str(tmp_path / "out"), "--weights", "teacher"]
    assert main([str(tmp_path), *arguments]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: has no tar file\n"
    put_shard(shards, "CT_Some.tar", {"bad.webp": b"no picture"})
    assert main([str(shards), *arguments]) == 1
    words = "'bad.webp' cannot be read as a picture"
    assert capsys.readouterr().err == f"{shards / 'CT_Some.tar'}: {words}\n"
    (shards / "CT_Some.tar").write_bytes(b"no archive")
    assert main([str(shards), *arguments]) == 1
    assert capsys.readouterr().err == f"{shards / 'CT_Some.tar'}: is not a tar file\n"
