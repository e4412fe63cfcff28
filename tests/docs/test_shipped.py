"""What is shipped is pinned by hash, listed with its licence, and the same for everybody."""

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from swiftmedsam import load
from swiftmedsam.manifest import MANIFEST, default_weights
from swiftmedsam.torch_model import VARIANTS, load_model
from tests.helpers import ROOT

PIN = re.compile(r"^([a-z0-9-]+)==(\S+?) *(?:; *(.*?))? *\\?$", re.MULTILINE)
LOCK = (ROOT / "requirements.lock").read_text()
SCANS_LOCK = (ROOT / "requirements-scans.lock").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVER_LOCK = (ROOT / "requirements-server.lock").read_text()
# a requirement, and its hashes
ENTRY = re.compile(r"^([a-z].*?) \\\n((?: +--hash=.*\n?)+)", re.MULTILINE)
V1_SHA256 = "7daf2e666571aeee1347a0c5e7f7f7490c6ac8ed4ca3f233f302f29063b6bfe9"
LARGEST_CLONE = 86 << 20  # bytes: models of one network, checkpoints of three


def pins(text):
    """(version, marker) by name and marker's quotes aside."""
    return {(name, number, marker.replace('"', "'")) for name, number, marker in PIN.findall(text)}


def has_a_hash_of_each(lock):
    entries = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    return all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_the_lock_has_what_is_required_in_these_versions_and_a_hash_of_each():
    required = pins((ROOT / "requirements.txt").read_text())
    assert len(required) == 4
    assert required <= pins(LOCK)
    assert {name for name, *_ in pins(LOCK) - required} == {"openvino-telemetry"}
    assert has_a_hash_of_each(LOCK)


def test_the_lock_for_scans_is_the_other_one_with_what_they_need():
    text = (ROOT / "requirements-scans.txt").read_text().lower()
    required = pins(re.sub(r"  #.*", "", text))
    assert len(required) == 7
    assert required | pins(LOCK) <= pins(SCANS_LOCK)
    assert has_a_hash_of_each(SCANS_LOCK)


def test_the_lock_for_the_server_is_that_for_scans_with_what_it_needs():
    required = pins((ROOT / "requirements-server.txt").read_text())
    assert len(required) == 5
    assert required | pins(SCANS_LOCK) <= pins(SERVER_LOCK)
    brought = {name for name, *_ in pins(SERVER_LOCK) - pins(SCANS_LOCK) - required}
    assert brought == {"anyio", "click", "exceptiongroup", "h11", "idna"}
    assert has_a_hash_of_each(SERVER_LOCK)


def test_a_package_has_the_same_hashes_in_all_locks():
    locks = LOCK, SCANS_LOCK, SERVER_LOCK
    small, scans, server = (dict(ENTRY.findall(lock)) for lock in locks)
    assert [len(small), len(scans), len(server)] == [len(pins(lock)) for lock in locks]
    assert small.items() <= scans.items() <= server.items()


def test_the_image_and_predict_install_from_the_lock_alone():
    predict = (ROOT / "predict.sh").read_text()
    (install,) = re.findall(r"pip3 install(?:.|\\\n)*?(?=&&)", DOCKERFILE)
    assert "--require-hashes -r /build/requirements.lock" in install
    assert "!requirements.lock" in (ROOT / ".dockerignore").read_text().split()
    assert "requirements.lock" in predict
    assert not re.search(r"requirements[-a-z]*\.txt", predict + DOCKERFILE)


def sent_to_docker(files):
    """Those of `files` that .dockerignore lets through: the last line that fits counts."""
    rules = []
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = (
                re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            )
            rules.append((re.compile(rf"{pattern}(/.*)?"), line.startswith("!")))
    return [
        file
        for file in files
        if [sent for rule, sent in rules if rule.fullmatch(file)][-1:] == [True]
    ]


def test_of_all_weights_the_image_has_the_default_network_alone(tmp_path):
    """By the command of the Dockerfile itself."""
    (line,) = re.findall(r"^RUN cd /workspace/weights && (.*)$", DOCKERFILE, re.MULTILINE)
    for name in ("v1", "v2", "v3", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).touch()
    (tmp_path / "DEFAULT").write_text("v3\n")
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DEFAULT", "v3"]
    assert (tmp_path / "v3" / MANIFEST).exists()


def test_the_image_has_only_the_parts_of_the_library_that_segment():
    """No server, no training: the image stays as small as it is, whatever is added to these."""
    library = [path.relative_to(ROOT).as_posix() for path in (ROOT / "swiftmedsam").rglob("*.py")]
    parts = {path.split("/")[1] for path in library}
    assert {"server", "train", "evaluation", "convert", "torch_model", "scans"} <= parts
    sent = {path.split("/")[1] for path in sent_to_docker(library) if path.count("/") > 1}
    assert sent == {"program", "scans", "store"}
    files = ["swiftmedsam/case.py", "swiftmedsam/scans/dicom/rtstruct.py", "predict.sh",
             "weights/v3/manifest.json", "requirements.lock"]  # fmt: skip
    assert sent_to_docker(files) == files
    others = ["swiftmedsam/server/page/index.html", "requirements-server.txt",
              "requirements-server.lock", "tests/conftest.py", "weights/v1/README.md",
              "weights/v3/v3.safetensors"]  # fmt: skip
    assert sent_to_docker(others) == []


def test_the_image_has_all_that_the_program_imports():
    code = (
        "import sys, app.__main__, swiftmedsam.program.main, swiftmedsam.program.run\n"
        "for name, module in sys.modules.items():\n"
        "    if name.partition('.')[0] in {'app', 'swiftmedsam'}: print(module.__file__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(line).relative_to(ROOT).as_posix() for line in done.stdout.split()]
    assert "swiftmedsam/program/jobs.py" in files
    assert sent_to_docker(files) == files


SHIPPED = subprocess.run(
    ["git", "ls-files", f"weights/*/{MANIFEST}"], cwd=ROOT, capture_output=True, text=True
).stdout.split() or [f"weights/v3/{MANIFEST}"]  # an archive without git


@pytest.mark.parametrize("manifest", SHIPPED)
def test_shipped_models_load_and_are_of_the_checkpoint_beside_them(manifest):
    folder = (ROOT / manifest).parent
    assert load(folder, precision="f32", threads=1).variant == folder.name
    source = json.loads((ROOT / manifest).read_text())["source"]
    checkpoint = folder / source["file"]
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == source["sha256"]
    load_model(checkpoint, VARIANTS[folder.name])
    assert "Not a medical device" in (folder / "README.md").read_text()


def test_the_manifest_names_what_the_default_weights_were_trained_on():
    """`evaluation.breadth` tells known and new data sets apart by it."""
    names = json.loads((default_weights() / MANIFEST).read_text())["trained_on"]
    assert len(set(names)) == len(names) == 132
    assert {"CT_BTCVSABS", "MR_ACDC", "XRay_DentalCaries"} <= set(names)


@pytest.mark.parametrize("manifest", SHIPPED)
def test_manifest_and_card_say_the_same_of_each_precision(manifest):
    described = json.loads((ROOT / manifest).read_text())
    measured = described["measured"]
    assert measured["mode"] == "best"
    wanted = {"bf16", "int8"} if "int8" in described["models"] else {"bf16"}
    assert wanted <= measured["precisions"].keys()
    card = (ROOT / manifest).with_name("README.md").read_text()
    (rows,) = re.findall(r"^\| precision \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", card, re.MULTILINE)
    for precision, reached in measured["precisions"].items():
        assert re.search(rf"\bAll {reached['cases']} cases\b", card)
        figures = f"{100 * reached['dsc']:.2f} / {100 * reached['nsd']:.2f}"
        assert re.search(rf"^\| {precision}\b.*\| {figures} \|$", rows, re.MULTILINE), precision


@pytest.mark.parametrize("manifest", SHIPPED)
def test_manifest_and_card_name_the_same_data_sets(manifest):
    trained_on = json.loads((ROOT / manifest).read_text())["trained_on"]
    card = (ROOT / manifest).with_name("README.md").read_text()
    rows = re.findall(
        r"^\| data set \| pictures \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", card, re.MULTILINE
    )
    if rows:
        (table,) = rows
        assert trained_on == re.findall(r"^\| (\S+) \|", table, re.MULTILINE)
    told = re.search(r"pictures of (\d+) data sets", card)
    assert told and len(set(trained_on)) == len(trained_on) == int(told[1])


def test_v1_is_shipped_as_its_checkpoint_alone():
    """Its models are made of it by `python -m convert`."""
    folder = ROOT / "weights" / "v1"
    checkpoint = folder / "v1.safetensors"
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == V1_SHA256
    load_model(checkpoint, VARIANTS["v1"])
    assert "Not a medical device" in (folder / "README.md").read_text()


def test_a_clone_is_quick():
    """All files of the newest commit; weights/training holds a checkpoint for as long as it is
    trained, which is not counted."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is no clone")
    names = [name for name in listed.stdout.split("\0") if name]
    assert len(names) > 100
    counted = [ROOT / name for name in names if not name.startswith("weights/training/")]
    assert sum(path.stat().st_size for path in counted if path.exists()) <= LARGEST_CLONE


def bill():
    command = [sys.executable, "scripts/sbom.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_bill_of_materials_has_packages_and_weights_and_is_the_same_twice():
    text = bill()
    assert text == bill()
    bom = json.loads(text)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    components = {component["name"]: component for component in bom["components"]}
    assert components["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    licences = {name: components[name]["licenses"][0]["license"]["name"]
                for name in ("numpy", "openvino", "opencv-python-headless")}  # fmt: skip
    assert licences == {"numpy": "BSD-3-Clause", "openvino": "Apache-2.0",
                        "opencv-python-headless": "Apache-2.0"}  # fmt: skip
    folder = default_weights()
    for parts in json.loads((folder / MANIFEST).read_text())["models"].values():
        for name, sha256 in (item for files in parts.values() for item in files.items()):
            model = components[f"weights/{folder.name}/{name}"]
            assert model["hashes"] == [{"alg": "SHA-256", "content": sha256}]
            assert model["licenses"] == [{"license": {"name": "research-only"}}]
    refs = [component["bom-ref"] for component in bom["components"]]
    assert len(refs) == len(set(refs))


def test_the_table_of_licences_names_every_package_of_the_lock():
    table = (ROOT / "docs" / "shipped.md").read_text()
    for name, *_ in pins(LOCK):
        assert re.search(rf"^\| {name}\b", table, re.MULTILINE), name
