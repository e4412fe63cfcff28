"""Only files of the command line and below the root can be opened, whatever a client asks for."""

import pytest

from swiftmedsam.server.files import Files, UnknownFileError
from tests.helpers.server import scratch


@pytest.fixture
def root(tmp_path):
    for name in ("root/b.nii.gz", "root/a.PNG", "root/notes.txt", "root/.hidden.nii",
                 "root/IM0001", "root/study/1.dcm", "root/line\nbreak.nii",
                 "outside/secret.nii", "rootless/c.nii"):  # fmt: skip
        scratch(tmp_path, name)
    (tmp_path / "root" / "out.nii").symlink_to(tmp_path / "outside" / "secret.nii")
    (tmp_path / "root" / "outfolder").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "inside.nii").symlink_to(tmp_path / "root" / "b.nii.gz")
    return tmp_path / "root"


def test_a_listing_has_folders_and_what_can_be_read(root):
    entries = Files(root=root).folder()
    assert [(entry.kind, entry.name) for entry in entries] == [
        ("folder", "study"), ("scan", "IM0001"), ("scan", "a.PNG"), ("scan", "b.nii.gz"),
        ("scan", "inside.nii"), ("scan", "line\\nbreak.nii"),
    ]  # fmt: skip
    (series,) = Files(root=root).folder(entries[0].id)
    assert (series.id, series.path) == ("root/study/1.dcm", root / "study" / "1.dcm")


def test_an_id_of_a_listing_is_found_again(root):
    files = Files(root=root)
    for entry in files.folder():
        assert files.find(entry.id) == entry or entry.name == "inside.nii"
    assert files.find("root/study").kind == "folder"


@pytest.mark.parametrize(
    "asked",
    ["", "/", "root/", "root//a.PNG", "root/..", "root/../outside/secret.nii", "../root/a.PNG",
     "root/../rootless/c.nii", "root/out.nii", "root/outfolder", "root/outfolder/secret.nii",
     "root/study/../a.PNG", "root/./a.PNG", "/etc/passwd", "root//etc/passwd", "named/0",
     "root/nothing", "root/a.PNG/x", "root/a\0b", "root/study\\1.dcm", "~", "root/~"],
)  # fmt: skip
def test_nothing_else_is_found(root, asked):
    files = Files(root=root)
    for look in (files.find, files.folder):
        with pytest.raises(UnknownFileError) as refused:
            look(asked)
        assert "\n" not in str(refused.value)


def test_files_of_the_command_line_need_no_root(tmp_path):
    scan, folder = scratch(tmp_path, "x/scan.nii"), scratch(tmp_path, "y/1.dcm").parent
    files = Files([scan, folder])
    assert [(entry.id, entry.name, entry.kind, entry.path) for entry in files.named()] == [
        ("named/0", "scan.nii", "scan", scan), ("named/1", "y", "folder", folder),
    ]  # fmt: skip
    assert files.find("named/1").path == folder
    assert not files.has_root
    for asked in ("named/2", "named/0/..", "named/1/1.dcm", "root", "root/x"):
        with pytest.raises(UnknownFileError):
            files.find(asked)
    with pytest.raises(UnknownFileError):
        files.folder()
