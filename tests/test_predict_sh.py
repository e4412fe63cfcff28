"""predict.sh installs what its arguments need, and no more. Python is a script that takes notes."""

import shutil
import subprocess
import sys

import pytest
from test_layers import ROOT

BASE, SCANS = "requirements.lock", "requirements-scans.lock"


@pytest.fixture
def predict(tmp_path):
    """Run a copy of predict.sh; return the requirements it installed and the program's words."""
    for name in ("predict.sh", BASE, SCANS):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    notes = tmp_path / "notes"
    python.write_text(f"#!{sys.executable}\nimport sys\nopen({str(notes)!r}, 'a').write("
                      "'\\t'.join(sys.argv[1:]) + '\\n')\n")  # fmt: skip
    python.chmod(0o755)

    def run(*words):
        notes.unlink(missing_ok=True)
        subprocess.run(["sh", tmp_path / "predict.sh", *words], check=True, capture_output=True)
        *installs, program = (line.split("\t") for line in notes.read_text().splitlines())
        assert program[:2] == ["-m", "app"]
        return [words[-1].rpartition("/")[2] for words in installs], program[2:]

    return run


def test_the_challenges_files_install_the_programs_own_packages(predict):
    words = ["in", "out dir", "--only", "3D*", "--mode", "exact"]
    assert predict(*words) == ([BASE], words)
    assert predict(*words) == ([], words)  # once


@pytest.mark.parametrize(
    "scan", ["a.nii", "my scan.nii.gz", "A.NRRD", "a.nhdr", "a.mha", "a.mhd", "IM.DCM"]
)
def test_a_scan_installs_what_reads_it(predict, scan):
    words = [scan, "--box", "liver", "1", "2", "3", "4", "5", "6"]
    assert predict(*words) == ([BASE, SCANS], words)
    assert predict(*words) == ([], words)


@pytest.mark.parametrize("parents", [0, 1, 2])  # the file itself, its folder, a folder of such
def test_dicom_is_found_wherever_it_stands_and_however_it_is_called(predict, parents, tmp_path):
    path = tmp_path / "studies" / "a study" / "1.2.840"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(128) + b"DICM\0\0")
    words = ["--dry-run", str([path, *path.parents][parents]), "--boxes", "boxes.csv"]
    assert predict(*words) == ([BASE, SCANS], words)


def test_the_value_of_an_option_is_a_word_too(predict):
    words = ["a.png", "--boxes-from=my labels.NII.gz", "--margin=3"]
    assert predict(*words) == ([BASE, SCANS], words)


def test_folders_of_npz_and_pictures_need_nothing_more(predict, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("2DBox_US_1.npz", "b.PNG", "b_labels.labels.json", "notes", ".DS_Store"):
        (folder / name).touch()
    assert predict(str(folder))[0] == [BASE]  # of the challenge: whatever lies beside the cases
    (folder / "notes").unlink()
    for scan in (folder, folder / "b.PNG"):
        words = [str(scan), str(folder), "--boxes=boxes.csv"]
        assert predict(*words) == ([], words)


def test_a_picture_needs_nothing_more_unless_its_labels_do(predict):
    words = ["a.png", "--box", "1", "2", "3", "4"]
    assert predict(*words) == ([BASE], words)
    assert predict("a.png", "out.nii.gz", *words[1:])[0] == [SCANS]
