"""What the tests share: pictures, case files, and a tiny network in torch and in OpenVINO."""

import contextlib
import copy
import logging
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import settings
from PIL import Image

from swiftmedsam import Network, load
from swiftmedsam.convert.__main__ import convert
from swiftmedsam.cpu import cpu_flags
from swiftmedsam.network import ov  # which keeps it from reporting its import
from swiftmedsam.program.main import main
from swiftmedsam.torch_model import TINY, SwiftMedSAM, save_model
from swiftmedsam.train.data.augment import Augmentation
from swiftmedsam.train.data.stream import CorpusSource
from swiftmedsam.train.repair import features

# The same examples on every machine and in every run; no time limits.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("suite")

torch.set_num_threads(1)  # the tiny network is too small to share among threads

# With torch's own initial values the picture is lost on the way through the network; with much
# larger ones rounding errors grow as fast as the picture's traces. With these, masks cover about a
# third of the frame and differ between boxes and between pictures (test_model says by how much).
TINY_SEED = 12
TINY_BIASES = 0.1
TINY_ENCODER_GAIN = 1.0
TINY_DECODER_GAIN = 1.4


# Where the volume case below lies in a patient, in RAS: x to the left, y to the back, z to the
# head; 1, 2 and 3 mm.
CASE_AFFINE = np.array([[-1.0, 0, 0, 30], [0, -2, 0, 40], [0, 0, 3, -50], [0, 0, 0, 1]])
CACHE_PICTURES = 6  # rows of the cache that training is tested on
runs_bf16 = pytest.mark.skipif("avx512f" not in cpu_flags(), reason="bf16 needs AVX-512")
HANGS = 300  # seconds after which a process is given up; no test asks how long one takes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=5, metavar="N", help="how often test_kill kills the program"
    )
    parser.addoption(
        "--renew-masks", action="store_true", help="store the masks of test_golden anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    # OpenVINO's own converter calls it; nothing in this repository could call something newer.
    config.addinivalue_line(
        "filterwarnings", "ignore:`torch.jit.trace(_method)?` is deprecated:DeprecationWarning"
    )


def ellipse(height: int, width: int, centre: tuple[int, int], radii: tuple[int, int]) -> np.ndarray:
    """Mask (height, width) of an ellipse; `centre` and `radii` are (y, x)."""
    y, x = np.ogrid[:height, :width]
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


def picture(height: int, width: int, *masks: np.ndarray, colour: bool = False) -> np.ndarray:
    """A grey gradient (height, width) uint8 with bright `masks`; (height, width, 3) in colour."""
    y, x = np.ogrid[:height, :width]
    grey = (20 + 60 * x / width + 40 * y / height) * np.ones((height, width))
    for i, mask in enumerate(masks):
        grey[mask] = 160 + 30 * i + 20 * (x / width * np.ones((height, 1)))[mask]
    image = grey.astype(np.uint8)
    return np.stack([image, image // 2, 255 - image], axis=-1) if colour else image


def image_case() -> dict[str, np.ndarray]:
    """Arrays of an image (48, 80, 3) with two ellipses in their boxes."""
    masks = ellipse(48, 80, (20, 25), (10, 18)), ellipse(48, 80, (32, 58), (8, 14))
    boxes = np.array([[7, 10, 43, 30], [44, 24, 72, 40]])
    return {"imgs": picture(48, 80, *masks, colour=True), "boxes": boxes}


def volume_case() -> dict[str, np.ndarray]:
    """Arrays of a volume (6, 40, 64), an ellipse that drifts, and boxes with middles 1, 2, 4."""
    slices = [picture(40, 64, ellipse(40, 64, (16 + z, 24 + 2 * z), (9, 14))) for z in range(6)]
    boxes = np.array([[8, 6, 0, 46, 30, 3], [10, 8, 1, 48, 30, 4], [14, 10, 3, 50, 32, 5]])
    return {"imgs": np.stack(slices), "boxes": boxes, "spacing": np.array([1.0, 2.0, 3.0])}


def make_case_file(folder: Path, name: str, **arrays: npt.ArrayLike | None) -> Path:
    """Write folder/name: the image or volume case above, `arrays` replaced (None: left out)."""
    content = {**(volume_case() if name.startswith("3D") else image_case()), **arrays}
    path = folder / name
    with path.open("wb") as stream:  # numpy would append .npz to other names
        np.savez_compressed(stream, **{k: v for k, v in content.items() if v is not None})
    return path


def read_labels(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        assert archive.files == ["segs"]
        return archive["segs"]


def inside(prompt: np.ndarray, height: int = 256, width: int = 256) -> np.ndarray:
    """Mask (height, width) of a box x_min, y_min, x_max, y_max, all four inclusive."""
    x_min, y_min, x_max, y_max = prompt
    y, x = np.ogrid[:height, :width]
    return (x_min <= x) & (x <= x_max) & (y_min <= y) & (y <= y_max)


def pixels_of(cells: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Of `logits` (N, 256, 256) those (N, 4 h, 4 w) of the rectangles `cells` (N, h, w)."""
    _, height, width = cells.shape
    y, x = np.divmod(cells[:, 0, 0], 64)
    return np.stack(
        [
            one[4 * r : 4 * (r + height), 4 * c : 4 * (c + width)]
            for one, r, c in zip(logits, y, x, strict=True)
        ]
    )


class BrightInBox:
    """An `swiftmedsam.segment.Encoder` one can check on paper: mask = brightest pixels inside the
    prompt.

    The embedding is a copy of the pixels; `encoded` counts how often each picture came by.
    """

    def __init__(self) -> None:
        self.encoded: Counter[bytes] = Counter()
        self.prompts: list[np.ndarray] = []  # (N, 4), one of each call

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.encoded[pixels.tobytes()] += 1
        return pixels.copy()

    def decode(
        self, embedding: np.ndarray, prompts: np.ndarray, cells: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.prompts.append(prompts.copy())
        bright = embedding[0, 0] > 0.5
        masks = np.stack([bright & inside(prompt) for prompt in prompts])
        logits = np.where(masks, 1, -1).astype(np.float32)
        return pixels_of(cells, logits), np.ones(len(prompts), np.float32)


class BoxesAsMasks(BrightInBox):
    """An `swiftmedsam.segment.Encoder` whose masks are the prompts themselves."""

    def decode(
        self, embedding: np.ndarray, prompts: np.ndarray, cells: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return super().decode(np.ones_like(embedding), prompts, cells)


class Everywhere(BrightInBox):
    """A network whose masks fill the frame."""

    def decode(self, embedding, prompts, cells):
        self.prompts.append(prompts.copy())
        logits = np.ones((len(prompts), 256, 256), np.float32)
        return pixels_of(cells, logits), np.ones(len(prompts), np.float32)


class SureOfRows(BoxesAsMasks):
    """A network whose predicted IoU is a thousandth of the row a prompt begins in."""

    def decode(self, embedding, prompts, cells):
        logits, _ = super().decode(embedding, prompts, cells)
        return logits, (prompts[:, 1] / 1000).astype(np.float32)


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def models_of(weights: Path) -> dict[str, ov.Model]:
    """What `swiftmedsam.convert.export.export` returned when `weights` was made."""
    return {part: ov.Core().read_model(weights / f"{part}.xml") for part in ("encoder", "decoder")}


@pytest.fixture(scope="session")
def tiny_model() -> SwiftMedSAM:
    torch.manual_seed(TINY_SEED)
    model = SwiftMedSAM(TINY).eval().requires_grad_(False)
    for name, tensor in model.named_parameters():
        gain = TINY_DECODER_GAIN if name.startswith("mask_decoder") else TINY_ENCODER_GAIN
        if name.endswith("bias"):
            tensor.normal_(0, TINY_BIASES)
        elif tensor.ndim > 1 and not name.endswith("embed.weight") and "token" not in name:
            tensor.normal_(0, gain / tensor[0].numel() ** 0.5)
    for name, tensor in model.named_buffers():
        if name.endswith("running_mean"):
            tensor.normal_(0, TINY_BIASES)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model: SwiftMedSAM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_model(tiny_model, path)
    return path


@pytest.fixture(scope="session")
def parity_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of cases with 5 images and 3 middle slices: exactly as many as `verify` asks for."""
    folder = tmp_path_factory.mktemp("parity")
    image = image_case()["imgs"]
    for i in range(5):
        make_case_file(folder, f"2DBox_Endoscopy_{i}.npz", imgs=np.roll(image, 5 * i, axis=1))
    make_case_file(folder, "3DBox_MR_0.npz")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(
    tiny_checkpoint: Path, parity_cases: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    convert(tiny_checkpoint, "tiny", folder, "fp32", parity_cases)
    return folder


@pytest.fixture(scope="session")
def tiny_weights_fp16(
    tiny_checkpoint: Path,
    tiny_weights: Path,
    parity_cases: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("weights_fp16") / "tiny"
    with pytest.MonkeyPatch.context() as patch:  # exported once is enough, it takes seconds
        patch.setattr("swiftmedsam.convert.__main__.export", lambda model: models_of(tiny_weights))
        convert(tiny_checkpoint, "tiny", folder, "fp16", parity_cases)
    return folder


@pytest.fixture(scope="session")
def tiny_network(tiny_weights: Path) -> Network:
    """As the program loads it: in the precision that suits this machine."""
    return load(tiny_weights, threads=1)


@pytest.fixture(scope="session")
def exact_network(tiny_weights: Path) -> Network:
    return load(tiny_weights, precision="f32", threads=1)


def state_of(model):
    """Every tensor, those that no checkpoint holds included."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def changed_names(model, before):
    now = state_of(model)
    return {name for name, tensor in state_of(before).items() if not torch.equal(tensor, now[name])}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Two training files of the challenge: a large ellipse each, one in colour and one in grey."""
    folder = tmp_path_factory.mktemp("corpus")
    for i, name in enumerate(("2DBox_Endoscopy_0.npz", "2DBox_US_1.npz")):
        mask = ellipse(90, 120, (50, 55 + 10 * i), (35, 45))
        image = picture(90, 120, mask, colour=i == 0)
        make_case_file(folder, name, imgs=image, gts=mask.astype(np.uint8))
    return folder


@pytest.fixture(scope="session")
def tiny_rows():
    """The arrays of a cache, in the widths of the tiny network."""
    widths = {"after_0": (8, 128, 128), "after_1": (8, 64, 64), "after_2": (16, 64, 64),
              "embedding": (32, 64, 64)}  # fmt: skip
    return features.INPUTS | {name: (np.float16, shape) for name, shape in widths.items()}


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def cache(tiny_model, corpus, tiny_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "ROWS", tiny_rows)
        source = CorpusSource(corpus, Augmentation(extent=0))
        features.write_cache(copy.deepcopy(tiny_model), source, folder, CACHE_PICTURES, seed=1)
    return folder


@contextlib.contextmanager
def fresh_logging():
    """Logging as at the start of a process: pytest's own handlers would be in main's way."""
    root, intensity = logging.getLogger(), logging.getLogger("swiftmedsam.display")
    handlers, levels = root.handlers[:], (root.level, intensity.level)
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        intensity.setLevel(levels[1])


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "new" / "outputs"


@pytest.fixture
def program(inputs, outputs, tiny_weights, capsys):
    """Run main on the two folders; return exit status and the lines it wrote to stderr."""

    def run(*options, inputs=inputs, outputs=outputs):
        folders = [str(folder) for folder in (inputs, outputs) if folder is not None]
        arguments = [*folders, "--weights", str(tiny_weights), "--threads", "1"]
        with fresh_logging():
            status = main([*arguments, *options])
        out, err = capsys.readouterr()
        assert out == ""
        return status, err.splitlines()

    return run


@pytest.fixture
def mine(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


@pytest.fixture
def volume(mine):
    path = mine / "scan.nii.gz"
    voxels = np.ascontiguousarray(volume_case()["imgs"].T)
    nibabel.save(nibabel.Nifti1Image(voxels, CASE_AFFINE), path)
    return path


@pytest.fixture
def photo(mine):
    path = mine / "photo.png"
    Image.fromarray(image_case()["imgs"]).save(path)
    return path
