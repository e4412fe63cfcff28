"""predict.sh installs what its arguments need, and no more. Python is a script that takes notes."""

import shutil
import subprocess
import sys

import pytest
from test_layers import ROOT

BASE, SCANS = "requirements.lock", "requirements-scans.txt"


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


def test_a_folder_with_boxes_is_taken_for_dicom(predict, tmp_path):
    words = [str(tmp_path), "--boxes", "boxes.csv"]
    assert predict(*words) == ([BASE, SCANS], words)


def test_a_picture_needs_nothing_more_unless_its_labels_do(predict):
    words = ["a.png", "--box", "1", "2", "3", "4"]
    assert predict(*words) == ([BASE], words)
    assert predict("a.png", "out.nii.gz", *words[1:])[0] == [SCANS]
