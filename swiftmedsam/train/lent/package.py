"""Make a folder for training on a lent machine: code, weights and a part of the corpus.

    python -m swiftmedsam.train.lent.package --data DIR --unlabelled-data DIR --recipes v2 v1 \\
        --weights lite=F v1=F v2=F --out FOLDER

On the lent machine runs `swiftmedsam.train.lent.lease`. Pictures are shrunk to the input of the
network and encoded anew; each data set keeps some of them. Shards stay tar files and are packed
(xz). The label maps in them are not compressed: xz then makes them half as large, and the padding
of tar costs nothing.
"""

import argparse
import fnmatch
import io
import lzma
import shutil
import sys
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from swiftmedsam.frame import Frame
from swiftmedsam.torch_model import VARIANTS, CheckpointError, load_model
from swiftmedsam.torch_model.architecture import INPUT_SIZE
from swiftmedsam.train.data.corpus import (
    DATASET_POWER,
    MODALITY_POWER,
    UNLABELLED_DATASET_POWER,
    CorpusError,
    Picture,
    read_corpus,
)
from swiftmedsam.train.data.framed import frame_labels
from swiftmedsam.train.lent.lease import PACKED, RECIPES, rewrite

# The files of the library that training needs. Others import OpenVINO or more of OpenCV.
CODE = ("__init__.py", "frame.py", "torch_model/**/*.py", "train/**/*.py")
MIB = 1 << 20
UNLABELLED_SHARE = 0.4  # of the pictures, if there are enough of both kinds
# Abdominal CT is the most common task, and there the networks are worse than their teacher.
FAVOURED = (
    "CT_BTCV*", "CT_LiTS*", "CT_Pancreas*", "CT_IRCAD*", "CT_HepaticVessel*", "CT_*[kK]idney*",
    "CT_*[lL]iver*", "CT_*[cC]olon*", "CT_CPTACPDA", "CT_TCGACOAD", "CT_TCGALIHC", "CT_*Abdomen*",
    "CT_*Trauma*",
)  # fmt: skip
FAVOUR = 2.0  # factor of their share
MEMBER_BYTES = 48  # what the header of a file takes in a packed tar
# fp16 has two bytes: the packer handles first and second bytes separately (lp, pb).
FLOATS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}]


def _favoured(picture: Picture) -> bool:
    return any(fnmatch.fnmatchcase(picture.dataset, pattern) for pattern in FAVOURED)


def ranks(
    pictures: Sequence[Picture], dataset_power: float, random: np.random.Generator
) -> list[tuple[float, Picture]]:
    """Give each picture a rank; the pictures of the lowest ranks are a balanced choice.

    Shares are as in `swiftmedsam.train.data.corpus.BalancedSampler`, but twice as large for
    abdominal CT. The first picture of each data set has rank 0.
    """
    tree: dict[str, dict[str, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in pictures:
        tree[picture.modality][picture.dataset].append(picture)
    shares: dict[str, float] = {}
    for datasets in tree.values():
        within = {name: len(found) ** dataset_power for name, found in datasets.items()}
        count = sum(len(found) for found in datasets.values())
        for name, part in within.items():
            favour = FAVOUR if _favoured(datasets[name][0]) else 1.0
            shares[name] = count**MODALITY_POWER * part / sum(within.values()) * favour
    total = sum(shares.values())
    ranked = []
    for datasets in tree.values():
        for name, found in datasets.items():
            for place, index in enumerate(random.permutation(len(found))):
                ranked.append((place * total / shares[name], found[index]))
    return ranked


def order_of(
    labelled: Sequence[Picture], unlabelled: Sequence[Picture], seed: int
) -> list[tuple[str, Picture]]:
    """Return all pictures with their folder, "train" or "unlabelled", the first choices first."""
    random = np.random.default_rng(seed)
    kinds = (
        ("train", labelled, DATASET_POWER, 1 - UNLABELLED_SHARE),
        ("unlabelled", unlabelled, UNLABELLED_DATASET_POWER, UNLABELLED_SHARE),
    )
    order = [
        ((rank / share, random.random()), kind, picture)
        for kind, pictures, power, share in kinds
        for rank, picture in ranks(pictures, power, random)
    ]
    return [(kind, picture) for _, kind, picture in sorted(order, key=lambda entry: entry[0])]


@dataclass(frozen=True)
class Encoded:
    """A picture as WebP, and its label map as PNG without compression and deflated."""

    folder: str
    picture: Picture
    image: bytes
    labels: bytes

    @property
    def size(self) -> int:
        """Bytes in the packed folder, estimated; xz packs label maps better than deflation."""
        return len(self.image) + len(self.labels) + MEMBER_BYTES


def encode(folder: str, picture: Picture, quality: int) -> Encoded:
    """Shrink a picture to the input of the network and encode it; with labels in "train" only."""
    image, labels = picture.read()
    height, width = image.shape[:2]
    if max(height, width) > INPUT_SIZE:
        height, width = Frame(height, width).inner
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        labels = frame_labels(labels)[:height, :width]
    shown = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    webp = cv2.imencode(".webp", shown, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    if folder == "unlabelled":
        return Encoded(folder, picture, webp, b"")
    labels = labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16)
    png = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    return Encoded(folder, picture, webp, zlib.compress(png))


def choose(order: Sequence[tuple[str, Picture]], quality: int, limit: int) -> list[Encoded]:
    """Encode the first pictures of `order`, up to `limit` bytes together."""
    chosen, size = [], 0
    for folder, picture in order:
        encoded = encode(folder, picture, quality)
        size += encoded.size
        if size > limit:
            break
        chosen.append(encoded)
    return chosen


def write_corpus(chosen: Sequence[Encoded], folder: Path) -> None:
    """Write packed shards, train/NAME.tar.xz and unlabelled/NAME.tar.xz."""
    shards: dict[Path, list[Encoded]] = defaultdict(list)
    for encoded in chosen:
        name = f"{encoded.picture.dataset}.tar{PACKED}"
        shards[folder / encoded.folder / name].append(encoded)
    for path, members in shards.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        members.sort(
            key=lambda encoded: encoded.picture.key
        )  # neighbours in a volume are similar, and pack better
        files = [(f"{e.picture.key}.png", zlib.decompress(e.labels)) for e in members if e.labels]
        files += [(f"{e.picture.key}.webp", e.image) for e in members]
        with lzma.open(path, "wb", preset=1) as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name, data in files:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))


def write_code(folder: Path) -> None:
    """Copy the modules that training imports."""
    library = Path(__file__).parents[2]
    for pattern in CODE:
        for path in library.glob(pattern):
            target = folder / library.name / path.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def write_weights(recipes: Sequence[str], files: Mapping[str, Path], folder: Path) -> None:
    """Write the packed weights that `recipes` need: teachers, and weights to start from.

    `files` are the checkpoints by variant. A network with a dense encoder may start with random
    weights.

    Raises:
        CorpusError: the weights of a variant are missing.
        CheckpointError, OSError: a file does not exist, or holds no weights of its variant.
    """
    folder.mkdir()
    teachers = {RECIPES[name].teacher for name in recipes}
    starts = {RECIPES[name].variant for name in recipes}
    starts -= {name for name in starts - files.keys() if VARIANTS[name].dense_encoder}
    if missing := sorted((teachers | starts) - files.keys()):
        raise CorpusError(f"--weights: {missing[0]}=FILE is missing, which the recipes need")
    for kind, names in (("teacher", teachers), ("start", starts)):
        for name in sorted(names):
            load_model(files[name], VARIANTS[name])  # checks the file
            plain = folder / f"{kind}_{name}.safetensors"
            rewrite(files[name], plain, as_teacher=kind == "teacher")
            with lzma.open(f"{plain}{PACKED}", "wb", filters=FLOATS) as packed:
                packed.write(plain.read_bytes())
            plain.unlink()


def size_of(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def contents_table(order: Sequence[tuple[str, Picture]], chosen: Sequence[Encoded]) -> str:
    """Return a table: pictures chosen and in the corpus, by modality, and of abdominal CT."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    sets: dict[str, set[str]] = defaultdict(set)
    every = [(kind, picture, "there") for kind, picture in order]
    every += [(encoded.folder, encoded.picture, "chosen") for encoded in chosen]
    for kind, picture, what in every:
        rows = [picture.modality, "all", *(["abdominal CT"] if _favoured(picture) else [])]
        for row in rows:
            counts[row][f"{kind} {what}"] += 1
        sets[f"{kind} {what}"].add(picture.dataset)
    lines = [
        f"{row}: {c['train chosen']} of {c['train there']} labelled, "
        f"{c['unlabelled chosen']} of {c['unlabelled there']} unlabelled"
        for row, c in sorted(counts.items())
    ]
    of = " of ".join(str(len(sets[f"train {what}"])) for what in ("chosen", "there"))
    more = " of ".join(str(len(sets[f"unlabelled {what}"])) for what in ("chosen", "there"))
    return "\n".join([*lines, f"data sets: {of} labelled, {more} unlabelled"])


def write_package(arguments: argparse.Namespace) -> None:
    """Write the folder, and print what is in it.

    Raises:
        CorpusError: weights or pictures are missing, or the folder is too large.
        CheckpointError, OSError: weights or pictures cannot be read.
    """
    out: Path = arguments.out
    labelled = read_corpus(arguments.data)
    unlabelled = read_corpus(arguments.unlabelled_data, labelled=False)
    out.mkdir(parents=True)
    write_code(out)
    code = size_of(out)
    write_weights(arguments.recipes, dict(arguments.weights), out / "weights")
    weights = size_of(out) - code
    total = int(arguments.total_mib * MIB)
    limit = min(int(arguments.limit_mib * MIB), total - code - weights)
    order = order_of(labelled, unlabelled, arguments.seed)
    chosen = choose(order[: arguments.pictures], arguments.quality, limit)
    write_corpus(chosen, out / "corpus")
    print(contents_table(order, chosen))
    size = size_of(out)
    parts = (("code", code), ("weights", weights), ("corpus", size - code - weights))
    print(", ".join(f"{name} {part / MIB:.1f} MiB" for name, part in (*parts, ("all", size))))
    if size > total or not chosen:
        raise CorpusError(f"{out}: {size / MIB:.1f} MiB, expected at most {arguments.total_mib}")


def _weights(text: str) -> tuple[str, Path]:
    """Parse "VARIANT=FILE"."""
    name, _, path = text.partition("=")
    if name not in VARIANTS or not path:
        raise argparse.ArgumentTypeError(f"'{text}': expected VARIANT=FILE")
    return name, Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m swiftmedsam.train.lent.package", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="labelled pictures")
    parser.add_argument("--unlabelled-data", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=sorted(RECIPES), required=True)
    parser.add_argument(
        "--weights", nargs="+", type=_weights, metavar="VARIANT=FILE", required=True,
        help="checkpoints of the teachers and students of the recipes",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--limit-mib", type=float, default=40, help="limit of the packed corpus, in MiB"
    )
    parser.add_argument(
        "--total-mib", type=float, default=63, help="limit of the whole folder, in MiB"
    )
    parser.add_argument("--quality", type=int, default=50, help="quality of WebP, 1 to 100")
    parser.add_argument(
        "--pictures", type=int, help="number of pictures, at most (default: as many as fit)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    try:
        write_package(parser.parse_args(argv))
    except (CheckpointError, CorpusError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
