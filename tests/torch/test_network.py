"""OpenVINO does what torch does; weights folders that cannot be used are refused."""

import hashlib
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

import swiftmedsam.cpu
import swiftmedsam.manifest
import swiftmedsam.network
import swiftmedsam.system
from swiftmedsam import WeightsError, load, open_image
from swiftmedsam.frame import Frame, every_cell
from swiftmedsam.manifest import MANIFEST
from swiftmedsam.memory import MANY_PROMPTS
from swiftmedsam.network import BLOB_DIGITS, COMPILED
from swiftmedsam.system import available_threads
from tests.helpers import dsc, image_case, volume_case
from tests.helpers.networks import runs_bf16

# Two orders of summation of some hundred products in float32: logits up to about 10, 7 digits.
FP32_TOLERANCE = 1e-4
FP16_MIN_DSC = 0.99  # weights rounded to 11 bits move the edge of a mask by less
PROMPTS = np.array([[65, 55, 175, 125], [20, 20, 60, 70], [0, 3, 256, 9]], np.float32)
IMAGE = image_case()["imgs"]
PIXELS = Frame(48, 80).pixels(IMAGE)
EVERYWHERE = every_cell(len(PROMPTS))
OTHER_PIXELS = Frame(48, 80).pixels(np.ascontiguousarray(IMAGE[::-1]))


@pytest.fixture(scope="module")
def torch_embedding(tiny_model):
    return tiny_model.encode(torch.from_numpy(PIXELS))


@pytest.fixture(scope="module")
def torch_logits(tiny_model, torch_embedding):
    logits, iou = tiny_model.decode(torch_embedding, torch.from_numpy(PROMPTS))
    return logits.numpy(), iou.numpy()


@pytest.fixture
def folder(tiny_weights, tmp_path):
    """A copy of the tiny weights that a test may spoil."""
    return shutil.copytree(tiny_weights, tmp_path / "weights")


def manifest_without(folder, *keys, **replaced):
    manifest = json.loads((folder / MANIFEST).read_text())
    for key in keys:
        del manifest[key]
    (folder / MANIFEST).write_text(json.dumps({**manifest, **replaced}))


# The same numbers


def test_the_embedding_is_torchs_with_the_dense_prompt_added(
    tiny_model, exact_network, torch_embedding
):
    embedding = exact_network.encode(PIXELS)
    assert (embedding.shape, embedding.dtype) == ((1, 4096, 32), np.float32)
    wanted = torch_embedding + tiny_model.prompt_encoder.dense_prompt()
    wanted = wanted.flatten(2).transpose(1, 2).numpy()
    np.testing.assert_allclose(embedding, wanted, rtol=0, atol=FP32_TOLERANCE)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_logits_and_iou_are_torchs_for_any_number_of_boxes(exact_network, torch_logits, count):
    embedding = exact_network.encode(PIXELS)
    logits, iou = exact_network.decode(embedding, PROMPTS[:count], every_cell(count))
    assert (logits.shape, iou.shape) == ((count, 256, 256), (count,))
    np.testing.assert_allclose(logits, torch_logits[0][:count], rtol=0, atol=FP32_TOLERANCE)
    np.testing.assert_allclose(iou, torch_logits[1][:count], rtol=0, atol=FP32_TOLERANCE)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (5, 9), (1, 1)])
def test_logits_of_a_rectangle_of_cells_are_those_pixels_of_all(
    exact_network, torch_logits, height, width
):
    corners = [(3, 7), (0, 64 - width), (64 - height, 0)] if height < 64 else [(0, 0)] * 3
    boxes = [(slice(y, y + height), slice(x, x + width)) for y, x in corners]
    cells = np.stack([EVERYWHERE[0][box] for box in boxes])
    logits, iou = exact_network.decode(exact_network.encode(PIXELS), PROMPTS, cells)
    wanted = [
        one[4 * y : 4 * (y + height), 4 * x : 4 * (x + width)]
        for one, (y, x) in zip(torch_logits[0], corners, strict=True)
    ]
    np.testing.assert_allclose(logits, np.stack(wanted), rtol=0, atol=FP32_TOLERANCE)
    np.testing.assert_allclose(iou, torch_logits[1], rtol=0, atol=FP32_TOLERANCE)


def test_weights_stored_as_fp16_give_the_same_masks(tiny_weights_fp16, torch_logits):
    network = load(tiny_weights_fp16, precision="f32", threads=1)
    logits, _ = network.decode(network.encode(PIXELS), PROMPTS, EVERYWHERE)
    for found, wanted in zip(logits > 0, torch_logits[0] > 0, strict=True):
        assert dsc(found, wanted) >= FP16_MIN_DSC


def test_what_was_returned_is_not_overwritten_by_the_next_call(exact_network):
    first = exact_network.encode(PIXELS)
    kept = first.copy()
    second = exact_network.encode(OTHER_PIXELS)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, kept)
    logits, iou = exact_network.decode(first, PROMPTS, EVERYWHERE)
    kept_logits, kept_iou = logits.copy(), iou.copy()
    exact_network.decode(second, PROMPTS[::-1], EVERYWHERE)
    np.testing.assert_array_equal(logits, kept_logits)
    np.testing.assert_array_equal(iou, kept_iou)


def test_the_inputs_are_not_changed(exact_network):
    pixels, prompts = PIXELS.copy(), PROMPTS.copy()
    embedding = exact_network.encode(pixels)
    kept = embedding.copy()
    exact_network.decode(embedding, prompts, EVERYWHERE)
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(prompts, PROMPTS)
    np.testing.assert_array_equal(embedding, kept)


def test_an_embedding_that_was_kept_decodes_as_when_it_was_new(exact_network):
    embedding = exact_network.encode(PIXELS)
    wanted, _ = exact_network.decode(embedding, PROMPTS, EVERYWHERE)
    other = exact_network.encode(OTHER_PIXELS)
    exact_network.decode(other, PROMPTS, EVERYWHERE)
    np.testing.assert_array_equal(exact_network.decode(embedding, PROMPTS, EVERYWHERE)[0], wanted)


# Several threads

THREADS, ROUNDS = 12, 6


@pytest.fixture
def hasty():
    """Python gives every other thread a turn as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work):
    """Results of `work(i)` for each of `THREADS` threads that begin together."""
    start = Barrier(THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda i: (start.wait(), work(i))[1], range(THREADS)))


def test_threads_with_one_network_get_their_own_answers(tiny_network, hasty):
    pixels = [np.roll(PIXELS, 11 * i, axis=3) for i in range(THREADS)]
    prompts = [PROMPTS + i for i in range(THREADS)]
    embeddings = [tiny_network.encode(one) for one in pixels]
    wanted = [
        tiny_network.decode(embedding, own, EVERYWHERE)
        for embedding, own in zip(embeddings, prompts, strict=True)
    ]
    assert all((embeddings[0] != other).any() for other in embeddings[1:])

    def work(i):
        encoded, decoded = [], []
        for _ in range(ROUNDS):
            encoded.append(tiny_network.encode(pixels[i]))
            decoded.append(tiny_network.decode(embeddings[i], prompts[i], EVERYWHERE))
            tiny_network.release_encoder()
        return encoded, decoded

    for i, (encoded, decoded) in enumerate(in_threads(work)):
        for embedding, answer in zip(encoded, decoded, strict=True):
            np.testing.assert_array_equal(embedding, embeddings[i])
            np.testing.assert_array_equal(answer[0], wanted[i][0])
            np.testing.assert_array_equal(answer[1], wanted[i][1])


def test_threads_with_one_open_image_get_the_labels_of_their_own_boxes(tiny_network, hasty):
    volume = volume_case()
    image = open_image(volume["imgs"], tiny_network, modality="MR", spacing_mm=(3, 2, 1))
    image._network._most = 2  # embeddings are dropped and made again all the time
    boxes = [volume["boxes"][i % 3] + [i % 5, 0, 0, i % 5, 0, 0] for i in range(THREADS)]
    wanted = [image.segment(box).labels for box in boxes]
    assert sum(labels.any() for labels in wanted) > THREADS / 2
    for labels, own in zip(
        in_threads(lambda i: image.segment(boxes[i]).labels), wanted, strict=True
    ):
        np.testing.assert_array_equal(labels, own)


# Which network


def test_a_network_says_what_it_is(exact_network):
    assert (exact_network.variant, exact_network.precision) == ("tiny", "f32")
    assert exact_network.threads == 1


@runs_bf16
def test_bf16_is_computed_with_whatever_weights_there_are(tiny_weights):
    network = load(str(tiny_weights), precision="bf16", threads=1)
    logits, _ = network.decode(network.encode(PIXELS), PROMPTS, EVERYWHERE)
    assert network.precision == "bf16"
    assert logits.shape == (3, 256, 256)
    assert np.isfinite(logits).all()


def test_without_a_folder_the_default_is_used(folder, monkeypatch):
    monkeypatch.setattr(swiftmedsam.manifest, "WEIGHTS", folder.parent)
    with pytest.raises(WeightsError, match="no default weights"):
        load()
    (folder.parent / "DEFAULT").write_text(folder.name + "\n")
    assert load(threads=1).variant == "tiny"


def test_an_unknown_precision_is_refused_with_those_there_are(tiny_weights):
    with pytest.raises(ValueError, match="one of auto, f32, bf16, int8, got 'fp64'") as caught:
        load(tiny_weights, precision="fp64")
    assert not isinstance(caught.value, WeightsError)  # the caller's mistake, not the folder's


def test_a_precision_that_was_not_converted_is_refused(tiny_weights):
    with pytest.raises(WeightsError, match="precision int8 needs a model in int8, found fp32"):
        load(tiny_weights, precision="int8")


@pytest.mark.parametrize("name", ["encoder.xml", "encoder.bin", "decoder.xml", "decoder.bin"])
def test_an_altered_or_missing_file_is_refused_and_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: sha256 is [0-9a-f]{{64}}, the manifest says"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name}: cannot be read .No such file"):
        load(folder)


def test_a_folder_without_a_readable_manifest_is_refused(folder):
    with pytest.raises(WeightsError, match="no weights here"):
        load(folder / "missing")
    for content in ("", "{", "[]", "{}", '{"format": 1}', '"format"'):
        (folder / MANIFEST).write_text(content)
        with pytest.raises(WeightsError, match=f"{MANIFEST}: (not JSON|expected a manifest)"):
            load(folder)


@pytest.mark.parametrize("key", ["models", "variant"])
def test_a_manifest_that_lacks_something_is_refused(folder, key):
    manifest_without(folder, key)
    with pytest.raises(WeightsError, match=MANIFEST):
        load(folder)


def test_a_manifest_that_lacks_the_decoder_is_refused(folder):
    models = json.loads((folder / MANIFEST).read_text())["models"]
    del models["fp32"]["decoder"]
    manifest_without(folder, models=models)
    with pytest.raises(WeightsError, match="decoder"):
        load(folder)


def test_a_manifest_whose_decoder_for_many_boxes_has_no_model_is_refused(folder):
    models = json.loads((folder / MANIFEST).read_text())["models"]
    del models["fp32"]["decoder_many"]["decoder_many.xml"]
    manifest_without(folder, models=models)
    with pytest.raises(WeightsError, match=r"'models' has no decoder_many \.xml for fp32"):
        load(folder)


# Which precision


@pytest.mark.parametrize(
    ("flags", "models", "ran"),
    [
        ("fpu avx2", ["fp16", "int8"], "f32"),
        ("fpu avx2 avx512bw", ["fp16", "int8"], "int8+f32"),
        ("fpu avx2 avx512f avx512_vnni", ["fp16", "int8"], "int8+f32"),
        ("fpu avx_vnni", ["fp16"], "f32"),
        ("fpu avx512_vnni avx512_bf16", ["fp16"], "bf16"),
        ("fpu avx512_vnni avx512_bf16", ["fp16", "int8"], "int8+bf16"),
        ("fpu avx512_vnni avx512_bf16 amx_bf16 amx_int8", ["fp16", "int8"], "bf16"),
        (None, ["fp16", "int8"], "f32"),
    ],
)
def test_the_fastest_precision_that_suits_the_cpu_is_chosen(
    folder, tmp_path, monkeypatch, flags, models, ran
):
    parts = json.loads((folder / MANIFEST).read_text())["models"]["fp32"]
    manifest_without(folder, models=dict.fromkeys(models, parts))
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(swiftmedsam.system, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(
        swiftmedsam.network, "_compiled_request", lambda *_: None
    )  # this CPU may not compute it
    assert load(folder, threads=1).precision == ran


@pytest.mark.parametrize(
    ("flags", "ran"),
    [
        ("avx2 avx512bw", "int8+f32"),
        ("avx2 avx512bw avx512_vnni avx512_bf16", "bf16"),
        ("avx2 avx_vnni", "f32"),
    ],
)
def test_weights_may_have_another_fastest_precision(folder, tmp_path, monkeypatch, flags, ran):
    parts = json.loads((folder / MANIFEST).read_text())["models"]["fp32"]
    auto = {"avx512_bf16": "bf16", "avx512bw": "int8"}
    manifest_without(folder, models={"fp16": parts, "int8": parts}, auto=auto)
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(swiftmedsam.system, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(swiftmedsam.network, "_compiled_request", lambda *_: None)
    assert load(folder, threads=1).precision == ran


def test_the_decoder_waits_until_the_program_does(folder, monkeypatch):
    """The imports of a program that starts, and the encoder, have both cores until then."""
    begun, real = [], swiftmedsam.network._compiled_request

    def compiled_request(core, where, files, *more):
        begun.append(min(files))
        return real(core, where, files, *more)

    monkeypatch.setattr(swiftmedsam.network, "_compiled_request", compiled_request)
    network = load(folder, threads=1, wait=False)
    embedding = network.encode(np.zeros((1, 3, 256, 256), np.float32))
    assert begun == ["encoder.bin"]
    network.wait()
    assert begun == ["encoder.bin", "decoder.bin"]
    whole = every_cell(1)
    first = network.decode(embedding, np.float32([[9, 9, 99, 99]]), whole)
    network = load(folder, threads=1, wait=False)  # without waiting, the first use begins it
    second = network.decode(embedding, np.float32([[9, 9, 99, 99]]), whole)
    np.testing.assert_array_equal(first[0], second[0])


# Many boxes in a slice


def test_many_prompts_get_the_same_masks_from_a_decoder_of_their_own(folder, monkeypatch):
    names, network = compiled_models(folder, monkeypatch, precision="f32")
    assert names == ["decoder.xml", "encoder.xml"]
    asked, real = [], swiftmedsam.network._compiled_request

    def compiled_request(core, where, files, *more):
        asked.append(min(files))
        return real(core, where, files, *more)

    monkeypatch.setattr(swiftmedsam.network, "_compiled_request", compiled_request)
    embedding = network.encode(PIXELS)
    random = np.random.default_rng(0)
    low = random.integers(0, 200, (MANY_PROMPTS, 2))
    prompts = np.concatenate([low, low + 40], axis=1).astype(np.float32)
    corners = random.integers(0, 50, (MANY_PROMPTS, 1, 1)).astype(np.int32)
    cells = corners * 64 + corners + np.arange(12)[:, None] * 64 + np.arange(8)
    cells = cells.astype(np.int32)
    fewer = network.decode(embedding, prompts[:-1], cells[:-1])
    network.expect(MANY_PROMPTS - 1)
    assert asked == []
    network.expect(MANY_PROMPTS)
    all_of_them = network.decode(embedding, prompts, cells)
    assert asked == ["decoder_many.bin"]
    for few, many in zip(fewer, all_of_them, strict=True):
        assert len(many) == MANY_PROMPTS
        np.testing.assert_allclose(many[:-1], few, rtol=0, atol=FP32_TOLERANCE)


def test_a_folder_without_a_decoder_for_many_boxes_is_used_as_before(folder, monkeypatch):
    network = load(folder, threads=1, precision="f32")
    embedding, prompts = network.encode(PIXELS), np.repeat(PROMPTS[:1], 20, axis=0)
    wanted = network.decode(embedding, prompts, every_cell(20))
    manifest = json.loads((folder / MANIFEST).read_text())
    for parts in manifest["models"].values():
        del parts["decoder_many"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    network = load(folder, threads=1, precision="f32")
    network.expect(20)
    found = network.decode(embedding, prompts, every_cell(20))
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=FP32_TOLERANCE)
    network.precompile()
    assert len(list((folder / COMPILED).iterdir())) == 2


def test_an_altered_decoder_for_many_boxes_is_refused_when_it_is_needed(folder):
    with (folder / "decoder_many.bin").open("ab") as file:
        file.write(b"x")
    network = load(folder, threads=1)
    embedding, prompts = network.encode(PIXELS), np.repeat(PROMPTS[:1], MANY_PROMPTS, axis=0)
    network.decode(embedding, prompts[1:], every_cell(MANY_PROMPTS - 1))
    with pytest.raises(WeightsError, match="decoder_many.bin: sha256 is"):
        network.decode(embedding, prompts, every_cell(MANY_PROMPTS))


# Compiled models that were kept


def compiled_models(folder, monkeypatch, **options):
    """Names of the IR files that loading `folder` compiles, and the network."""
    seen = []
    real = swiftmedsam.network.ov.Core.compile_model

    def compile_model(core, path, *arguments):
        seen.append(path.name)
        return real(core, path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(swiftmedsam.network.ov.Core, "compile_model", compile_model)
        network = load(folder, threads=1, **options)
    return sorted(seen), network


def test_kept_models_are_used_on_the_same_cpu_and_compute_the_same(folder, tmp_path, monkeypatch):
    names, fresh = compiled_models(folder, monkeypatch)
    assert names == ["decoder.xml", "encoder.xml"]
    fresh.precompile()
    assert len(list((folder / COMPILED).iterdir())) == 3
    names, kept = compiled_models(folder, monkeypatch)
    assert names == []
    assert kept.precision == fresh.precision
    embedding = fresh.encode(PIXELS)
    np.testing.assert_array_equal(kept.encode(PIXELS), embedding)
    for a, b in zip(
        kept.decode(embedding, PROMPTS, EVERYWHERE),
        fresh.decode(embedding, PROMPTS, EVERYWHERE), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(a, b)
    before = {path.name: path.read_bytes() for path in (folder / COMPILED).iterdir()}
    kept.precompile()  # again
    assert {path.name: path.read_bytes() for path in (folder / COMPILED).iterdir()} == before
    assert compiled_models(folder, monkeypatch)[0] == []

    flags = swiftmedsam.cpu.cpu_flags()
    monkeypatch.setattr(swiftmedsam.system, "CPU_INFO", tmp_path / "cpuinfo")
    for other, compiled in (
        (flags | {"sse9"}, []),  # which OpenVINO does not use
        (flags ^ {"avx512_fp16"}, ["decoder.xml", "encoder.xml"]),
    ):
        (tmp_path / "cpuinfo").write_text(f"flags : {' '.join(sorted(other))}\n")
        assert compiled_models(folder, monkeypatch)[0] == compiled


@pytest.mark.parametrize(
    ("most", "found"),
    [
        ("AVX512_CORE", {"avx2", "avx512f", "avx512bw"}),
        ("avx512_core_vnni", {"avx2", "avx512f", "avx512bw", "avx512_vnni"}),
        ("AVX2", {"avx2"}),
        ("SSE41", set()),
        ("ALL", {"avx2", "avx512f", "avx512bw", "avx512_vnni", "amx_bf16"}),
        (None, {"avx2", "avx512f", "avx512bw", "avx512_vnni", "amx_bf16"}),
    ],
)
def test_flags_are_those_that_onednn_may_use(tmp_path, monkeypatch, most, found):
    """So that models can be kept for a lesser CPU than the one that compiles them."""
    flags = "flags : fpu avx2 avx512f avx512bw avx512_vnni amx_bf16\n"
    (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(swiftmedsam.system, "CPU_INFO", tmp_path / "cpuinfo")
    if most is None:
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    else:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert swiftmedsam.cpu.cpu_flags() == found


def test_a_kept_model_that_was_altered_or_cut_is_compiled_anew(folder, monkeypatch):
    load(folder, threads=1).precompile()
    for i, path in enumerate(sorted((folder / COMPILED).iterdir())):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if i % 2 else content[:1000])
    assert compiled_models(folder, monkeypatch)[0] == ["decoder.xml", "encoder.xml"]


def test_a_kept_model_that_openvino_cannot_read_is_compiled_anew(folder, monkeypatch, caplog):
    load(folder, threads=1).precompile()
    for path in list((folder / COMPILED).iterdir()):
        path.unlink()
        start, content = path.stem.partition("-")[0], b"whole by its sha256, and no model"
        digest = hashlib.sha256(content).hexdigest()[:BLOB_DIGITS]
        (folder / COMPILED / f"{start}-{digest}.blob").write_bytes(content)
    assert compiled_models(folder, monkeypatch)[0] == ["decoder.xml", "encoder.xml"]
    assert caplog.text.count("compiled anew") == 2


@runs_bf16
def test_models_kept_for_another_precision_are_not_used(folder, monkeypatch):
    load(folder, threads=1, precision="bf16").precompile()
    names, _ = compiled_models(folder, monkeypatch, precision="f32")
    assert names == ["decoder.xml", "encoder.xml"]


def test_kept_models_run_on_as_many_threads_as_they_are_asked_to(folder, monkeypatch):
    load(folder, threads=2).precompile()
    names, network = compiled_models(folder, monkeypatch)
    assert names == []
    for request in (network._encoder, network._decoder):
        assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


# How many threads


@pytest.mark.parametrize(
    ("quota", "threads"),
    [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("30000 100000", 1),
     ("1600000 100000", 8), ("", 8), ("none of it", 8)],
)  # fmt: skip
def test_threads_are_cut_to_the_containers_quota(tmp_path, monkeypatch, quota, threads):
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(swiftmedsam.system, "CGROUP_QUOTAS", ((str(tmp_path / "cpu.max"), None),))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert available_threads() == threads


@pytest.mark.parametrize(("quota", "threads"), [("-1", 8), ("150000", 2), ("50000", 1)])
def test_threads_are_cut_to_an_older_containers_quota(tmp_path, monkeypatch, quota, threads):
    (tmp_path / "quota").write_text(quota + "\n")
    (tmp_path / "period").write_text("100000\n")
    quotas = (
        (str(tmp_path / "missing"), None),
        (str(tmp_path / "quota"), str(tmp_path / "period")),
    )
    monkeypatch.setattr(swiftmedsam.system, "CGROUP_QUOTAS", quotas)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert available_threads() == threads
