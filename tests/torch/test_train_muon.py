"""Muon: orthogonal steps for matrices and dense convolutions, AdamW for everything else."""

import contextlib
import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from swiftmedsam.torch_model import VARIANTS, SwiftMedSAM
from swiftmedsam.train.muon import Muon, orthogonal
from swiftmedsam.train.run import LAST, Run
from tests.helpers.training import SMALL, Ellipses, Killed, cpu

RATE = 1e-2


@pytest.mark.parametrize("shape", [(24, 24), (24, 90), (90, 24)])
def test_singular_values_become_about_one_and_the_vectors_stay(shape):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.1, 1, 24)
    found = orthogonal(left * values @ right)
    assert found.shape == shape
    assert torch.linalg.svdvals(found).min() > 0.6 and torch.linalg.svdvals(found).max() < 1.3
    # in the directions of the matrix: what is left is diagonal, up to the errors of bfloat16
    inside = left.T @ found @ right.T
    assert (inside - torch.diag(inside.diag())).abs().max() < 0.05
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


def test_weights_of_v3_that_are_matrices():
    model = SwiftMedSAM(VARIANTS["v3"])
    encoder = model.image_encoder
    optimizer = Muon(encoder.parameters(), RATE, 0.0)
    groups = {group["orthogonal"]: set(group["params"]) for group in optimizer.param_groups}
    weights = [m.weight for m in encoder.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    depthwise = [m.weight for m in encoder.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    others = {*groups[False]} & {*weights}
    assert depthwise and others == set(depthwise)
    assert groups[True] <= set(weights)
    assert sum(map(len, groups.values())) == len(list(encoder.parameters()))


def layers():
    """A dense and a depthwise convolution with norms and biases, with gradients."""
    torch.manual_seed(1)
    made = nn.Sequential(
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3, groups=32)
    ).to(memory_format=torch.channels_last)
    made(torch.randn(2, 16, 8, 8)).square().sum().backward()
    return made


def test_a_step_is_orthogonal_for_matrices_and_adamw_s_for_the_others():
    model, plain = layers(), layers()
    before = model[0].weight.detach().clone()
    optimizer = Muon(model.parameters(), RATE, 0.0)
    optimizer.step()
    torch.optim.AdamW(plain.parameters(), RATE, weight_decay=0.0).step()
    names = dict(plain.named_parameters())
    for name, value in model.named_parameters():
        if name != "0.weight":
            assert torch.equal(value, names[name]), name
    step = (model[0].weight.detach() - before).flatten(1)
    values = torch.linalg.svdvals(step) / (RATE * 0.2 * 144**0.5)
    assert values.min() > 0.6 and values.max() < 1.3


def test_weights_decay_with_both():
    model = layers()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(model.state_dict())
    Muon(model.parameters(), RATE, 0.5).step()
    for name, value in model.named_parameters():
        assert torch.allclose(value, before[name] * (1 - RATE * 0.5)), name


def test_stored_and_loaded_in_the_middle_it_goes_on_alike():
    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            model(images).square().sum().backward()
            optimizer.step()

    torch.manual_seed(2)
    images = torch.randn(2, 16, 8, 8)
    straight = layers()
    optimizer = Muon(straight.parameters(), RATE, 0.0)
    steps(straight, optimizer, 2)
    again = copy.deepcopy(straight)
    other = Muon(again.parameters(), RATE, 0.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(straight, optimizer, 2)
    steps(again, other, 2)
    for one, same in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)


def test_a_run_takes_it_and_resumes(tiny_model, tmp_path):
    options = dataclasses.replace(SMALL, optimizer="muon", steps=3, save_every=1)
    weights = {}
    for name, kills in (("straight", ()), ("resumed", (2,))):
        (tmp_path / name).mkdir()
        for lasts in (*kills, math.inf):
            with contextlib.suppress(Killed):
                Run(tmp_path / name, options, cpu()).train(
                    copy.deepcopy(tiny_model), Ellipses(lasts), resume=True
                )
        stored = torch.load(tmp_path / name / LAST, weights_only=True)
        assert stored["step"] == 3
        momenta = [one for one in stored["optimizer"]["state"].values() if "momentum" in one]
        assert momenta
        weights[name] = stored["student"]
    for name, value in weights["straight"].items():
        assert torch.equal(value, weights["resumed"][name]), name
