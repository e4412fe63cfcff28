"""Weights in and out of files: nothing lost, nothing run, and errors one can act on."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swiftmedsam.torch_model import (
    LITE,
    SWIFT_V1,
    SWIFT_V2,
    TINY,
    CheckpointError,
    SwiftMedSAM,
    load_model,
    read_state_dict,
    save_model,
)
from swiftmedsam.torch_model.checkpoint import model_of

HALF_TOLERANCE = 2**-11  # relative; half the distance of neighbours in float16


@pytest.fixture
def state(tiny_model):
    """The tiny network's tensors, with every counter at 7."""
    tensors = copy.deepcopy(tiny_model.state_dict())
    for name in tensors:
        if name.endswith("num_batches_tracked"):
            tensors[name].fill_(7)
    return tensors


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        assert torch.equal(found[name], wanted[name]), name


def zeros_like_state_of(architecture):
    """A state dict of the right names and shapes that takes no memory."""
    with torch.device("meta"):
        model = SwiftMedSAM(architecture)
    return {n: torch.zeros(()).expand(t.shape) for n, t in model.state_dict().items()}


def test_every_tensor_comes_out_as_it_went_in(state, tmp_path):
    model = model_of(state, TINY)
    save_model(model, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors", TINY)
    assert_same(again.state_dict(), state)
    assert not again.training
    for unused in (  # no box needs them, but a checkpoint without them is not LiteMedSAM's
        "prompt_encoder.mask_downscaling.0.weight",
        "prompt_encoder.point_embeddings.0.weight",
        "prompt_encoder.not_a_point_embed.weight",
        "image_encoder.patch_embed.seq.0.bn.num_batches_tracked",
    ):
        assert unused in state
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
    ids=["bare", "model", "state_dict", "module.", "model and module."],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read_however_they_are_wrapped(state, tmp_path, wrap, zipped):
    path = tmp_path / "a.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=zipped)
    assert_same(load_model(path, TINY).state_dict(), state)


def test_safetensors_are_read_bare_and_prefixed(state, tmp_path):
    save_file(state, tmp_path / "bare.safetensors")
    save_file({f"module.{n}": t for n, t in state.items()}, tmp_path / "prefixed.safetensors")
    for name in ("bare", "prefixed"):
        assert_same(load_model(tmp_path / f"{name}.safetensors", TINY).state_dict(), state)


def test_half_precision_is_stored_and_comes_back_as_float32(tiny_model, state, tmp_path):
    path = tmp_path / "a.safetensors"
    save_model(tiny_model, path, dtype=torch.float16, metadata={"epoch": "3"})
    stored = read_state_dict(path)
    assert stored["mask_decoder.iou_token.weight"].dtype == torch.float16
    assert stored["image_encoder.patch_embed.seq.0.bn.num_batches_tracked"].dtype == torch.int64
    for name, tensor in load_model(path, TINY).state_dict().items():
        assert tensor.dtype == state[name].dtype
        if tensor.is_floating_point():
            wanted = state[name]
            torch.testing.assert_close(tensor, wanted, rtol=HALF_TOLERANCE, atol=1e-7)


def test_a_wrong_variant_is_named_with_the_first_tensor_that_differs(tiny_checkpoint):
    with pytest.raises(CheckpointError) as caught:
        load_model(tiny_checkpoint, LITE)
    assert str(caught.value) == (
        "tiny.safetensors: 'image_encoder.patch_embed.seq.0.c.weight' is (4, 3, 1, 1), "
        "expected (32, 3, 1, 1); it fits variant 'tiny'"
    )


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        (SWIFT_V2, SWIFT_V1, ["'image_encoder.layers.0.blocks.1.conv1.c.weight' is nothing",
                              "expected (256, 64, 1, 1)", "variant 'v2'"]),
        (SWIFT_V1, SWIFT_V2, ["'mask_decoder.transformer.layers.0.mlp.lin1.weight' is (1024, 256)",
                              "expected (256, 256)", "variant 'v1'"]),
        (LITE, SWIFT_V1, ["'mask_decoder.transformer.layers.0.mlp.lin1.weight' is (2048, 256)",
                          "expected (1024, 256)", "variant 'lite'"]),
    ],
)  # fmt: skip
def test_published_variants_are_told_apart(held, wanted, words):
    with pytest.raises(CheckpointError) as caught:
        model_of(zeros_like_state_of(held), wanted, "file")
    for word in ["file: ", *words]:
        assert word in str(caught.value)


def test_a_missing_and_a_surplus_tensor_are_refused(state):
    short = dict(state)
    del short["prompt_encoder.no_mask_embed.weight"]
    with pytest.raises(CheckpointError, match="'prompt_encoder.no_mask_embed.weight' is nothing"):
        model_of(short, TINY)
    with pytest.raises(CheckpointError, match=r"'more' is \(2, 3\), expected nothing; it fits no"):
        model_of({**state, "more": torch.ones(2, 3)}, TINY)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("torch_made", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, torch_made):
    marker, path = tmp_path / "it ran", tmp_path / "a.pth"
    content = {"model": {"a": torch.ones(2), "b": RunsCode(marker)}}
    if torch_made:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(RunsCode(marker), protocol=2))  # torch's own protocol
    with pytest.raises(CheckpointError, match="a.pth: holds more than tensors; refused"):
        read_state_dict(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists()  # else the pickle was harmless and this test is worthless


def atomic_file(kind, path):
    tensors = {"a": torch.ones(3, 2), "b": torch.zeros(40)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "torch")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "torch", "torch before 1.6"])
def test_a_truncated_file_is_named_wherever_it_ends(tmp_path, kind):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    content = atomic_file(kind, path)
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=f"^{path.name}: "):
            read_state_dict(path)


def test_a_missing_file_is_a_missing_file(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(FileNotFoundError):
            load_model(tmp_path / name, TINY)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (torch.ones(3), "expected a dictionary of tensors"),
        ({}, "expected a dictionary of tensors"),
        ({"model": {}}, "expected a dictionary of tensors"),
        ({"a": torch.ones(2), "epoch": 3}, "'epoch' is not a tensor"),
    ],
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=words):
        read_state_dict(tmp_path / "a.pth")
