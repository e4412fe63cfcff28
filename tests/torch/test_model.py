"""The network in torch: sizes of the published variants, shapes, shared embeddings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from swiftmedsam.frame import Frame
from swiftmedsam.torch_model import LITE, SWIFT_V1, SWIFT_V2, SWIFT_V3, TINY, VARIANTS, SwiftMedSAM
from swiftmedsam.torch_model.tiny_vit import AttentionBlock
from tests.helpers import dsc, image_case

# Matrix products of N rows and of one add up in another order; logits here are up to about 10.
BATCH_TOLERANCE = 1e-4
ATTENTION_TOLERANCE = 1e-5  # values of about 1, sums of 24 products in another order
POSITION_TOLERANCE = 1e-5  # sine of angles up to some 30 in float32
BOXES = torch.tensor([[65.0, 55.0, 175.0, 125.0], [20.0, 20.0, 60.0, 70.0], [0.0, 3.0, 256.0, 9.0]])


def on_paper(architecture):
    """The network without memory: shapes only."""
    with torch.device("meta"):
        return SwiftMedSAM(architecture)


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [(LITE, 9_791_300), (SWIFT_V1, 6_996_636), (SWIFT_V2, 5_942_388)],
)
def test_variants_have_the_published_number_of_parameters(architecture, parameters):
    assert sum(p.numel() for p in on_paper(architecture).parameters()) == parameters


def test_v3_has_a_quarter_of_the_work_of_v2_and_the_decoder_of_v1():
    def work(model, part):
        with FlopCounterMode(display=False) as counter:
            part(model)
        return counter.get_total_flops()

    def encode(model):
        return model.encode(torch.empty(1, 3, 256, 256, device="meta"))

    v1, v2, v3 = (on_paper(architecture).eval() for architecture in (SWIFT_V1, SWIFT_V2, SWIFT_V3))
    assert work(v3, encode) < work(v2, encode) / 3.5
    shapes = {name: tensor.shape for name, tensor in v1.mask_decoder.state_dict().items()}
    assert {name: t.shape for name, t in v3.mask_decoder.state_dict().items()} == shapes


def test_the_dense_encoders_detail_comes_from_the_stage_at_64_cells():
    """A change within one cell of 64 x 64 must reach the embedding most of all there."""
    torch.manual_seed(0)
    model = SwiftMedSAM(SWIFT_V3).eval()
    pixels = torch.rand(1, 3, 256, 256)
    changed = pixels.clone()
    changed[..., 100:104, 60:64] = 0
    with torch.no_grad():
        difference = (model.encode(changed) - model.encode(pixels)).abs().mean(dim=(0, 1))
    row, column = divmod(int(difference.argmax()), 64)
    assert abs(row - 25) <= 2
    assert abs(column - 15) <= 2


def test_lite_has_the_tensors_of_the_official_checkpoint():
    names = on_paper(LITE).state_dict().keys()
    assert len(names) == 435
    assert {name.split(".")[0] for name in names} == {
        "image_encoder", "prompt_encoder", "mask_decoder",
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_are_the_same_in_every_variant_but_for_the_channels(variant):
    model = on_paper(VARIANTS[variant]).eval()
    embedding = model.encode(torch.empty(2, 3, 256, 256, device="meta"))
    assert embedding.shape == (2, 32 if variant == "tiny" else 256, 64, 64)
    logits, iou = model.decode(embedding[:1], torch.empty(5, 4, device="meta"))
    assert logits.shape == (5, 256, 256)
    assert iou.shape == (5,)
    logits, iou = model(torch.empty(2, 3, 256, 256, device="meta"), BOXES[:2].to("meta"))
    assert logits.shape == (2, 256, 256)
    assert iou.shape == (2,)


@pytest.fixture(scope="module")
def embedding(tiny_model):
    image = image_case()["imgs"]
    return tiny_model.encode(torch.from_numpy(Frame(*image.shape[:2]).pixels(image)))


def test_masks_of_the_tiny_network_depend_on_box_and_picture(tiny_model, embedding):
    """Else the tests that compare its masks would compare nothing."""
    upside_down = np.ascontiguousarray(image_case()["imgs"][::-1])
    other = tiny_model.encode(torch.from_numpy(Frame(*upside_down.shape[:2]).pixels(upside_down)))
    masks = (tiny_model.decode(embedding, BOXES)[0] > 0).numpy()
    other_masks = (tiny_model.decode(other, BOXES)[0] > 0).numpy()
    assert (masks.mean(axis=(1, 2)) > 0.1).all()
    assert (masks.mean(axis=(1, 2)) < 0.7).all()
    assert dsc(masks[0], masks[1]) < 0.9
    assert dsc(masks[0], other_masks[0]) < 0.9


def test_boxes_that_share_an_embedding_are_decoded_as_one_by_one(tiny_model, embedding):
    logits, iou = tiny_model.decode(embedding, BOXES)
    for i in range(len(BOXES)):
        one_logits, one_iou = tiny_model.decode(embedding, BOXES[i : i + 1])
        torch.testing.assert_close(logits[i], one_logits[0], rtol=0, atol=BATCH_TOLERANCE)
        torch.testing.assert_close(iou[i], one_iou[0], rtol=0, atol=BATCH_TOLERANCE)


def test_a_batch_of_images_is_segmented_as_one_by_one(tiny_model):
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 256, 256)
    logits, _ = tiny_model(pixels, BOXES[:2])
    for i in range(2):
        one, _ = tiny_model(pixels[i : i + 1], BOXES[i : i + 1])
        torch.testing.assert_close(logits[i], one[0], rtol=0, atol=BATCH_TOLERANCE)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 40), (63, 2)])
def test_a_corner_and_the_cell_under_it_have_the_same_position_code(tiny_model, row, column):
    """Cells are 4 input pixels wide; x is the first coordinate of a corner, the last of a cell."""
    encoder = tiny_model.prompt_encoder
    x, y = 4 * column + 1.5, 4 * row + 1.5  # the centre of the cell, counted in pixel centres
    top_left = encoder(torch.tensor([[x, y, 0.0, 0.0]]))[0, 0]
    torch.testing.assert_close(
        top_left - encoder.point_embeddings[2].weight[0],
        encoder.dense_positions()[0, :, row, column],
        rtol=0,
        atol=POSITION_TOLERANCE,
    )


def published_attention(block, x):
    """`AttentionBlock._attend` as published: q, k, v by one projection, then cut by head.

    Wu et al., 2022; LiteMedSAM's code. `x` is (B, H, W, C).
    """
    attention, window = block.attn, block.window
    (b, height, width, c), heads = x.shape, attention.heads
    rows, columns = -(-height // window), -(-width // window)
    x = F.pad(x, (0, 0, 0, columns * window - width, 0, rows * window - height))
    x = x.view(b, rows, window, columns, window, c).transpose(2, 3).reshape(-1, window**2, c)
    together = attention.qkv(attention.norm(x)).view(len(x), window**2, heads, -1)
    q, k, v = (part.transpose(1, 2) for part in together.split(c // heads, dim=3))
    scores = q @ k.transpose(2, 3) * (c // heads) ** -0.5
    scores = scores + attention.attention_biases[:, attention.attention_bias_idxs]
    x = attention.proj((scores.softmax(3) @ v).transpose(1, 2).reshape(len(x), window**2, c))
    x = x.view(b, rows, columns, window, window, c).transpose(2, 3)
    return x.reshape(b, rows * window, columns * window, c)[:, :height, :width]


def test_attention_by_parts_and_token_rows_is_the_published_one():
    torch.manual_seed(0)
    block = AttentionBlock(dim=24, heads=3, window=4)
    for tensor in block.parameters():  # biases of zero would hide where they belong
        torch.nn.init.normal_(tensor, std=0.3)
    x = torch.randn(2, 10, 7, 24)  # no multiple of the window
    with torch.no_grad():
        found = block._attend(x.flatten(1, 2), 10, 7).view_as(x)
        wanted = published_attention(block, x)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=ATTENTION_TOLERANCE)


def test_tiny_has_every_kind_of_layer_that_lite_has():
    def kinds(architecture):
        return {type(module) for module in on_paper(architecture).modules()}

    assert kinds(TINY) == kinds(LITE)


def test_evaluation_does_not_change_the_network(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    tiny_model(torch.ones(1, 3, 256, 256), BOXES[:1])
    for name, tensor in tiny_model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name].numpy(), err_msg=name)
