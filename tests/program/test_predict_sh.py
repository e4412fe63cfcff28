"""predict.sh installs what its arguments need, and no more. Python is a script that takes notes."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT

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
    words = ["in", "out dir", "--only", "3D*", "--mode", "litemedsam"]
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


@pytest.fixture
def checkout(tmp_path):
    """The scripts in a folder whose Python notes its words, working folder and environment."""
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in ("predict.sh", "test.sh", BASE, *(path.name for path in ROOT.glob("req*.txt"))):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$*" "$PYTHONPATH"\nenv\n')
    python.chmod(0o755)
    return root


def said(command, folder, **env):
    """Lines that a command prints which must succeed; `env` is added to the environment."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | env, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        ([], "-m pytest"),
        (["unit"], "-m pytest tests/unit"),
        (["unit", "-k", "a or b", "-x"], "-m pytest tests/unit -k a or b -x"),
        (["tests/unit"], "-m pytest tests/unit"),
        (["-k", "unit"], "-m pytest -k unit"),
        (["nothing"], "-m pytest nothing"),
        ([""], "-m pytest "),
    ],
)
def test_a_folder_of_tests_is_named_by_its_name(checkout, words, passed):
    (checkout / "tests" / "unit").mkdir(parents=True)
    assert passed in said(["sh", checkout / "test.sh", *words], checkout.parent)


@pytest.mark.parametrize("script", ["predict.sh", "test.sh"])
def test_cdpath_does_not_lead_the_scripts_astray(checkout, script):
    """With CDPATH, `cd` prints where it went, and may go elsewhere than the current folder."""
    (checkout.parent / "other" / checkout.name).mkdir(parents=True)
    for path in (str(checkout.parent), str(checkout.parent / "other"), f".:{checkout.parent}"):
        words = ["sh", f"{checkout.name}/{script}", "a.npz"]
        assert said(words, checkout.parent, CDPATH=path)


@pytest.mark.parametrize("script", ["predict.sh", "test.sh"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "of a link", "folder"])
def test_a_link_to_a_script_runs_the_program_it_points_to(checkout, script, kind):
    folder = checkout.parent / "bin"
    link = folder / "segment"
    if kind == "folder":
        folder.symlink_to(checkout)
        link = folder / script
    else:
        folder.mkdir()
        target = checkout / script
        if kind == "relative":
            target = f"../{checkout.name}/{script}"
        if kind == "of a link":
            (folder / "first").symlink_to(target)
            target = "first"
        link.symlink_to(target)
    lines = said(["sh", link, "a.npz"], checkout.parent)
    assert (checkout / ".venv" / "installed-requirements-dev.txt").exists() == (script == "test.sh")
    if script == "predict.sh":
        path = lines[lines.index("-m app a.npz") + 1]
        assert path.split(":")[0] == str(checkout.resolve())


def test_a_change_in_an_included_file_is_installed(checkout):
    def installs():
        return any("pip install" in line for line in said(["sh", checkout / "test.sh"], checkout))

    assert (installs(), installs()) == (True, False)
    with (checkout / "requirements-train.txt").open("a") as stream:
        stream.write("another==1.0\n")
    assert (installs(), installs()) == (True, False)


def test_packages_go_into_the_venv_whatever_pip_is_set_to(checkout):
    """`user = true` of a pip.conf, or variables that name another place."""
    elsewhere = {"PIP_USER": "1", "PIP_TARGET": "/t", "PIP_PREFIX": "/p", "PIP_ROOT": "/r"}
    lines = said(["sh", checkout / "predict.sh", "a.npz"], checkout, **elsewhere)
    install = lines[: lines.index("-m app a.npz")]
    assert "pip install" in install[0]
    assert "PIP_USER=0" in install
    assert not [line for line in install if line.startswith(("PIP_TARGET", "PIP_P", "PIP_R"))]
    assert "PIP_USER=1" in lines[lines.index("-m app a.npz") :]  # the user's own, left as it was


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH is of Python 3.11")
@pytest.mark.parametrize("name", ["app/__init__.py", "json.py", "numpy.py"])
def test_files_where_the_user_stands_are_not_taken_for_the_programs(name, tmp_path):
    """`python -m` looks for every module in the current folder first."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('a file of the user')\n")
    words = ["sh", ROOT / "predict.sh", "--version"]
    env = {"SWIFTMEDSAM_PYTHON": sys.executable}
    assert said(words, tmp_path, **env)[0].startswith("SwiftMedSAM ")


def test_packages_of_other_programs_are_not_put_before_those_of_the_venv(checkout):
    """As ROS and others set PYTHONPATH; pip would count those as installed, too."""
    others = {"PYTHONPATH": "/opt/other/site-packages", "PYTHONHOME": "/opt/other"}
    lines = said(["sh", checkout / "predict.sh", "a.npz"], checkout, **others)
    assert not [line for line in lines if "/opt/other" in line]
    own = {"SWIFTMEDSAM_PYTHON": str(checkout / ".venv" / "bin" / "python")}  # as in the image
    lines = said(["sh", checkout / "predict.sh", "a.npz"], checkout, **others, **own)
    assert f"{checkout.resolve()}:/opt/other/site-packages" in lines


def test_the_folder_where_the_user_stands_may_be_gone(checkout):
    gone = checkout.parent / "gone"
    gone.mkdir()
    line = f"cd '{gone}' && rmdir '{gone}' && sh '{checkout}/predict.sh' a.npz"
    lines = said(["sh", "-c", line], checkout)
    assert f"PWD={checkout.resolve()}" in lines[: lines.index("-m app a.npz")]  # of pip


def test_an_environment_that_could_not_be_made_is_made_anew(checkout):
    """Without python3-venv Debian leaves an interpreter behind, which has no pip."""
    shutil.rmtree(checkout / ".venv")
    folder = checkout.parent / "bin"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p "$3/bin"\n'
        'printf "#!/bin/sh\\n" > "$3/bin/python"\nchmod +x "$3/bin/python"\nexit 1\n'
    )
    python.chmod(0o755)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    for _ in range(2):
        done = subprocess.run(
            ["sh", checkout / "predict.sh", "a.npz"], env=env, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "apt install python3-venv" in done.stderr
