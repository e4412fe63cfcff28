"""A weights folder: what its manifest may say, and what is said of one that has none."""

import json
from dataclasses import replace

import pytest

from swiftmedsam.cpu import AUTO_PRECISIONS
from swiftmedsam.manifest import MANIFEST, WeightsError, auto_of, read_manifest, settings_of
from swiftmedsam.settings import BEST


def test_a_manifest_without_settings_means_the_default(tmp_path):
    assert settings_of(tmp_path, {}) == BEST


def test_a_manifest_may_carry_settings(tmp_path):
    manifest = json.loads('{"settings": {"crop_weight": 0.5, "prompts": ["given", "previous"]}}')
    wanted = replace(BEST, crop_weight=0.5, prompts=("given", "previous"))
    assert settings_of(tmp_path, manifest) == wanted


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"'settings' should be an object, got \[\]"),
        ({"crop_wait": 1}, "'settings': there is no setting 'crop_wait'"),
        ({"crop_weight": 3}, "'settings': crop_weight should be between 0 and 1, got 3"),
        ({"step": "2"}, "'settings': step should be a number, got '2'"),
    ],
)
def test_settings_that_are_none_are_named_with_their_file(tmp_path, value, message):
    with pytest.raises(WeightsError, match=f"{MANIFEST}: {message}"):
        settings_of(tmp_path, {"settings": value})


def test_a_manifest_may_name_the_fastest_precision_by_flag(tmp_path):
    assert auto_of(tmp_path, {}) == AUTO_PRECISIONS
    table = {"avx512_bf16": "bf16", "avx2": "int8"}
    assert auto_of(tmp_path, {"auto": table}) == table


@pytest.mark.parametrize(
    "value",
    [[], "bf16", {"avx512": "bf16"}, {"avx2": "fp16"}, {"avx2": "auto"}, {"avx2": ["int8"]}],
    ids=str,
)
def test_fastest_precisions_that_are_none_are_named_with_their_file(tmp_path, value):
    with pytest.raises(WeightsError, match=f"{MANIFEST}: 'auto' should name one of f32, bf16"):
        auto_of(tmp_path, {"auto": value})


def test_a_folder_with_a_checkpoint_alone_says_how_to_convert_it(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights here \(No such file or directory\)$"):
        read_manifest(tmp_path)
    (tmp_path / "v1.safetensors").touch()
    command = f"python -m convert {tmp_path}/v1.safetensors --variant v1 --out {tmp_path}"
    with pytest.raises(WeightsError, match=f"; make them with: {command}$"):
        read_manifest(tmp_path)
