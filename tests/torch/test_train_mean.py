"""The mean of weights."""

import copy
import json

import pytest
import torch
from safetensors import safe_open

from swiftmedsam.torch_model import SWIFT_V2, TINY, SwiftMedSAM, load_model, save_model
from swiftmedsam.train.tools import mean


@pytest.fixture
def three(tiny_model, tmp_path):
    """Paths of three checkpoints whose weights are 1, 2 and 6 times the tiny network's."""
    paths = []
    for factor in (1, 2, 6):
        model = copy.deepcopy(tiny_model)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.mul_(factor)
        paths.append(tmp_path / f"{factor}.safetensors")
        save_model(model, paths[-1], metadata={"step": str(factor)})
    return paths


def test_every_weight_is_the_mean_and_the_file_says_of_what(three, tiny_model, tmp_path):
    out = tmp_path / "mean.safetensors"
    assert mean.main([*map(str, three), "--out", str(out)]) == 0
    found = load_model(out, TINY).state_dict()
    for name, tensor in tiny_model.state_dict().items():
        wanted = tensor * 3 if tensor.is_floating_point() else tensor
        torch.testing.assert_close(found[name], wanted, rtol=2e-3, atol=1e-4)  # stored as fp16
    with safe_open(out, "pt") as file:
        assert file.get_tensor("mask_decoder.iou_token.weight").dtype == torch.float16
        origins = json.loads(file.metadata()["mean"])
    assert [(o["file"], o["step"]) for o in origins] == [
        ("1.safetensors", "1"), ("2.safetensors", "2"), ("6.safetensors", "6"),
    ]  # fmt: skip
    assert len({o["sha256"] for o in origins}) == 3


def test_weights_of_another_variant_are_refused_in_one_line(three, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_model(SwiftMedSAM(SWIFT_V2), other)
    out = tmp_path / "mean.safetensors"
    assert mean.main([str(three[0]), str(other), "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "other.safetensors" in message and "v2" in message
    assert not out.exists()
    assert mean.main([str(tmp_path / "none.safetensors"), "--out", str(out)]) == 1
