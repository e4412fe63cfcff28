"""The lean modules of training compute what the network does."""

import copy

import pytest
import torch

from swiftmedsam.train.machine.lean import make_lean
from swiftmedsam.train.options import Options
from swiftmedsam.train.run import set_trainable

FLOAT_TOLERANCE = 1e-4  # f32, weights multiplied before instead of after a sum
BOXES = torch.tensor([[20.0, 30.0, 90.0, 200.0], [100.0, 10.0, 240.0, 130.0]])


@pytest.fixture
def pair(tiny_model):
    """The tiny network in training, its statistics frozen, and its lean twin."""
    plain = copy.deepcopy(tiny_model)
    set_trainable(plain, Options())
    lean = copy.deepcopy(plain)
    make_lean(lean)
    return plain, lean


def pixels():
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))


def test_answers_and_gradients_are_the_plain_networks(pair):
    found = []
    for model in pair:
        logits, iou = model(pixels(), BOXES)
        (logits.square().mean() + iou.sum()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(({"logits": logits, "iou": iou}, gradients))
    (wanted, slopes), (got, lean_slopes) = found
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=FLOAT_TOLERANCE)
    assert slopes.keys() == lean_slopes.keys()
    for name, slope in slopes.items():
        scale = slope.abs().max().item()
        torch.testing.assert_close(lean_slopes[name], slope, rtol=0, atol=1e-3 * scale + 1e-6)


def test_names_and_weights_stay(pair):
    plain, lean = (model.state_dict() for model in pair)
    assert plain.keys() == lean.keys()
    assert all(torch.equal(plain[name], lean[name]) for name in plain)


def test_statistics_that_move_are_not_folded(pair):
    lean = pair[1].train()
    norm = next(m for m in lean.modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    lean.encode(pixels())
    assert not torch.equal(norm.running_mean, before)


def test_norms_keep_the_type_of_products_and_positions_are_exact(pair):
    plain, lean = pair
    norm = lean.image_encoder.neck[1]
    maps = torch.rand(1, norm.weight.numel(), 4, 4)
    tokens = torch.rand(1, 4, lean.mask_decoder.transformer.norm_final_attn.weight.numel())
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(maps).dtype == torch.bfloat16
        assert lean.mask_decoder.transformer.norm_final_attn(tokens).dtype == torch.bfloat16
        exact = lean.prompt_encoder(BOXES)
        rounded = plain.prompt_encoder(BOXES)
    wanted = plain.prompt_encoder(BOXES)
    torch.testing.assert_close(exact, wanted, rtol=0, atol=1e-6)
    assert (rounded - wanted).abs().max() > 1e-3  # what it is exact against
