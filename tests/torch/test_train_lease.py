"""Training on a lent machine: the folder that is sent there, and what runs in it without OpenCV."""

import csv
import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from swiftmedsam.torch_model import SWIFT_V1, SWIFT_V3, TINY, SwiftMedSAM, load_model, save_model
from swiftmedsam.train.data.corpus import read_corpus
from swiftmedsam.train.lent import lease, package
from swiftmedsam.train.machine import without_opencv
from swiftmedsam.train.options import Options
from tests.helpers import HANGS, ellipse, picture

ROUNDED = 1  # grey level
WARP_TOLERANCE = 6  # grey levels: cv2 rounds positions to 1/32 pixel
MOVED = 0.005  # share of labels that may differ, for the same reason
LOSSY = 12  # grey levels, WebP of smooth pictures

# Without OpenCV


def smooth(shape, seed=0):
    """A picture of soft grains."""
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


SHAPES = [  # of the picture, height and width after
    ((288, 200, 3), (256, 178)), ((272, 272), (256, 256)), ((100, 77, 3), (256, 197)),
    ((64, 64), (256, 256)), ((30, 300), (256, 26)), ((51, 256), (51, 256)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_pictures_are_resized_as_by_opencv(shape, size):
    image, given = smooth(shape), size[::-1]
    wanted = cv2.resize(image, given, interpolation=cv2.INTER_AREA)
    found = without_opencv.resize(image, given, without_opencv.INTER_AREA)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found.astype(int), wanted, rtol=0, atol=ROUNDED)
    labels = image.astype(np.uint16)
    exact = cv2.resize(labels, given, interpolation=cv2.INTER_NEAREST_EXACT)
    found = without_opencv.resize(labels, given, without_opencv.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_pictures_are_warped_as_by_opencv(shape, size):
    image, given = smooth(shape), shape[1::-1]
    matrix = np.array([[0.8, -0.7, 20.3], [0.6, 0.9, -11.7]])
    wanted = cv2.warpAffine(image, matrix, given, flags=cv2.INTER_LINEAR)
    found = without_opencv.warpAffine(image, matrix, given, without_opencv.INTER_LINEAR)
    np.testing.assert_allclose(found.astype(int), wanted, rtol=0, atol=WARP_TOLERANCE)
    labels = image.astype(np.uint16) * 200
    wanted = cv2.warpAffine(labels, matrix, given, flags=cv2.INTER_NEAREST)
    found = without_opencv.warpAffine(labels, matrix, given, without_opencv.INTER_NEAREST)
    assert found.dtype == np.uint16
    assert (found != wanted).mean() < MOVED


@pytest.mark.parametrize(
    ("kind", "array"),
    [(kind, smooth(shape)) for kind in (".webp", ".jpg", ".png") for shape in ((40, 30, 3), (7, 9))]
    + [(".png", np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)],
)
def test_pictures_are_decoded_as_by_opencv(kind, array):
    data = cv2.imencode(kind, array)[1]
    wanted = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    found = without_opencv.imdecode(data, without_opencv.IMREAD_UNCHANGED)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found.astype(int), wanted, rtol=0, atol=2 * ROUNDED)
    if found.ndim == 3:
        code = cv2.COLOR_BGR2RGB
        assert code == without_opencv.COLOR_BGR2RGB
        np.testing.assert_array_equal(
            without_opencv.cvtColor(found, code), cv2.cvtColor(found, code)
        )


# The choice of pictures


@dataclass(frozen=True)
class Named:
    """A picture that is a name."""

    modality: str
    dataset: str
    key: str


def named(**counts):
    """So many pictures of each data set."""
    return [
        Named(name.split("_")[0], name, str(i)) for name, count in counts.items()
        for i in range(count)
    ]  # fmt: skip


def count_of(order):
    found = {}
    for kind, one in order:
        found[kind, one.dataset] = found.get((kind, one.dataset), 0) + 1
    return found


def test_each_data_set_comes_first_once_then_by_shares_and_the_seed_decides():
    labelled = named(CT_Other=400, CT_BTCVSABS=400, MR_Many=6400, US_One=1)
    unlabelled = named(CT_Seen=300, US_Seen=300)
    order = package.order_of(labelled, unlabelled, 3)
    assert len(order) == len(labelled) + len(unlabelled)
    assert set(count_of(order[:6]).values()) == {1}  # six sets
    found = count_of(order[:600])
    assert found["train", "CT_BTCVSABS"] == pytest.approx(2 * found["train", "CT_Other"], rel=0.05)
    many = 2 * (6400 / 800) ** 0.25  # the other is half of CT
    assert found["train", "MR_Many"] == pytest.approx(many * found["train", "CT_Other"], rel=0.05)
    share = sum(count for (kind, _), count in found.items() if kind == "unlabelled") / 600
    assert share == pytest.approx(package.UNLABELLED_SHARE, abs=0.05)
    assert package.order_of(labelled, unlabelled, 3) == order
    assert package.order_of(labelled, unlabelled, 4) != order


# The folder

SMALL = picture(48, 80, ellipse(48, 80, (20, 30), (12, 20)), colour=True)
SMALL_LABELS = ellipse(48, 80, (20, 30), (12, 20)).astype(np.uint16) * 700
LARGE_MASK = ellipse(288, 200, (150, 90), (80, 60))
LARGE = picture(288, 200, LARGE_MASK)


def write_shard(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, array in members.items():
            kind = Path(name).suffix
            shown = array[:, :, ::-1] if array.ndim == 3 else array
            quality = [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == ".webp" else []
            data = cv2.imencode(kind, shown, quality)[1].tobytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train" / "CT_A.tar", {
        "p__z001.webp": LARGE, "p__z001.png": LARGE_MASK.astype(np.uint8),
        "q__z002.webp": LARGE, "q__z002.png": LARGE_MASK.astype(np.uint8),
    })  # fmt: skip
    write_shard(folder / "train" / "US_B.tar", {"a.webp": SMALL, "a.png": SMALL_LABELS})
    write_shard(folder / "unlabelled" / "US_C.tar", {"b.webp": SMALL})
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "v1.safetensors"
    torch.manual_seed(1)
    save_model(SwiftMedSAM(SWIFT_V1), path)
    return path


def pack(shards, teacher, out, *flags, recipes=("v3-distil",)):
    """Status of the command that writes `out`."""
    return package.main([
        "--data", str(shards / "train"), "--unlabelled-data", str(shards / "unlabelled"),
        "--recipes", *recipes, "--weights", f"v1={teacher}", "--out", str(out), *flags,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def folder(shards, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("package") / "lease"
    with pytest.MonkeyPatch.context() as patch:  # random weights do not pack
        patch.setattr(package, "FLOATS", [package.FLOATS[0] | {"preset": 0}])
        assert pack(shards, teacher, out) == 0
    return out


def test_packed_shards_hold_the_pictures_at_the_size_of_the_input(folder, tmp_path):
    lease.unpack(folder, tmp_path)
    large, _, small = (p.read() for p in read_corpus(tmp_path / "corpus" / "train"))
    assert large[0].shape[:2] == large[1].shape == (256, 178)
    wanted = cv2.resize(LARGE, (178, 256), interpolation=cv2.INTER_AREA)
    assert abs(large[0][:, :, 0].astype(int) - wanted).mean() < LOSSY / 4
    assert (large[1] > 0).mean() == pytest.approx(LARGE_MASK.mean(), abs=0.005)
    assert abs(small[0].astype(int) - SMALL).mean() < LOSSY
    np.testing.assert_array_equal(small[1], SMALL_LABELS)
    (seen,) = read_corpus(tmp_path / "corpus" / "unlabelled", labelled=False)
    assert (seen.dataset, seen.labels_span) == ("US_C", None)


def test_counts_and_sizes_are_printed_and_a_limit_is_kept(
    shards, teacher, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(package, "write_weights", lambda *given: None)
    assert pack(shards, teacher, tmp_path / "all") == 0
    printed = capsys.readouterr().out
    assert "all: 3 of 3 labelled, 1 of 1 unlabelled" in printed
    assert "data sets: 2 of 2 labelled, 1 of 1 unlabelled" in printed
    order = [("train", one) for one in read_corpus(shards / "train")]
    sizes = [package.encode(*entry, 50).size for entry in order]
    assert len(package.choose(order, 50, sizes[0] + sizes[1])) == 2
    assert len(package.choose(order, 50, sizes[0] + sizes[1] - 1)) == 1
    assert pack(shards, teacher, tmp_path / "few", "--pictures", "2") == 0
    assert pack(shards, teacher, tmp_path / "none", "--total-mib", "0.001") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected at most 0.001" in error


def test_weights_that_recipes_need_are_asked_for_in_one_line(shards, teacher, tmp_path, capsys):
    recipes = ("v3-distil", "v2")
    assert pack(shards, teacher, tmp_path / "out", recipes=recipes) == 1
    assert capsys.readouterr().err == "--weights: lite=FILE is missing, which the recipes need\n"
    assert pack(shards, tmp_path / "none.pth", tmp_path / "other") == 1
    assert "none.pth" in capsys.readouterr().err


def test_weights_are_kept_in_half_the_bytes_with_their_metadata(tiny_model, tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_model(tiny_model, source, metadata={"trained_on": '["CT_A"]'})
    for as_teacher, name, kind in (
        (False, "mask_decoder.iou_token.weight", torch.float16),
        (True, "mask_decoder.iou_token.weight", torch.bfloat16),
        (True, "image_encoder.neck.1.weight", torch.float16),
    ):
        lease.rewrite(source, target, as_teacher=as_teacher)
        with safe_open(target, "pt") as file:
            assert file.metadata() == {"trained_on": '["CT_A"]'}
            assert file.get_tensor(name).dtype == kind
    found = load_model(target, TINY).state_dict()
    for name, tensor in tiny_model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=2**-8, atol=1e-6)


# The run


@pytest.mark.parametrize("recipe", lease.RECIPES)
def test_recipes_are_options_that_a_run_can_have(recipe):
    flags = lease.ALWAYS | lease.RECIPES[recipe].flags
    options = Options(**{**flags, "minutes": 5.0})
    assert options.unlabelled > 0
    assert options.teacher_weight == 1


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("v9=3", "expected one of v3-distil"),
        ("v2", "expected v2=MINUTES"),
        ("v2=long", "expected v2=MINUTES"),
        ("v3-distil=5+v2=3", "expected recipes of one variant"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_in_one_line(plan, message, tmp_path, capsys):
    assert lease.main([plan, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_second_recipe_starts_from_what_the_first_left(monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "start_v3.safetensors").touch()
    for name in ("v3-distil", "v3-truth"):
        (tmp_path / name).mkdir()
        (tmp_path / name / lease.WEIGHTS).touch()
    given = []

    class Done:
        stdout = ("a line\n",)

        def __init__(self, command, **rest):
            given.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(lease.subprocess, "Popen", Done)
    plan = lease.plan_of("v3-distil=5+v3-truth=3.5")
    assert lease.train_network(plan, tmp_path, ["--seed", "7"], 4) == 0
    flags = [dict(zip(c[3:], c[4:], strict=False)) for c in given]
    assert [f["--minutes"] for f in flags] == ["5.0", "3.5"]
    starts = [Path(f["--start"]).relative_to(tmp_path).as_posix() for f in flags]
    assert starts == ["weights/start_v3.safetensors", f"v3-distil/{lease.WEIGHTS}"]
    assert [Path(f["--init"]).name for f in flags] == [
        "teacher_v1.safetensors", "teacher_lite.safetensors",
    ]  # fmt: skip
    assert all(command[-2:] == ["--seed", "7"] for command in given)


def test_the_folder_trains_by_itself_where_opencv_is_missing(folder, tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "cv2.py").write_text("raise ImportError('not here')\n")
    command = [
        sys.executable, "-m", "swiftmedsam.train.lent.lease", "v3-distil=5", "--out", str(tmp_path /
        "out"), "--work", str(tmp_path / "work"), "--accelerator", "cpu", "--steps", "1",
        "--batch-size", "1", "--unlabelled", "1", "--taught", "1", "--workers", "0",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(blocked), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OpenCV none" in done.stdout
    load_model(tmp_path / "out" / "v3-distil.safetensors", SWIFT_V3)
    assert (tmp_path / "out" / "v3-distil.safetensors").stat().st_size < 16 << 20
    with (tmp_path / "out" / "v3-distil.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["teacher"]) > 0
    assert float(row["truth"]) == 0
