"""What the page may open: files of the server's machine, and uploads; and what it may not."""

import gzip
import struct
from urllib.parse import urlencode

import numpy as np
import pytest

from tests.helpers.page_requests import AFFINE
from tests.helpers.scans import itk_image


def test_named_files_and_the_folder_are_listed_without_what_is_outside(client):
    assert client.fine("GET", "/api/files") == {
        "named": [{"file": "named/0", "name": "named.nii.gz"}], "has_root": True,
    }  # fmt: skip
    entries = client.fine("GET", "/api/folder")["entries"]
    assert [one["name"] for one in entries] == [
        "empty", "inner", "series", "outside.mhd", "outside.nhdr", "pattern.nhdr", "scan.nii.gz",
    ]  # fmt: skip
    inner = client.fine("GET", "/api/folder?folder=root/inner")
    assert [one["id"] for one in inner["entries"]] == ["root/inner/picture.png",
                                                      "root/inner/same.nii.gz"]  # fmt: skip
    assert inner["parent"] == "root"


@pytest.mark.parametrize("file", ["named/0", "root/scan.nii.gz", "root/inner/same.nii.gz"])
def test_files_of_the_command_line_and_below_the_root_are_opened(client, file):
    described = client.fine("POST", "/api/images", {"file": file})
    assert described["is_volume"] and not described["objects"]
    client.fine("DELETE", f"/api/images/{described['id']}")


NOT_OPENED = [
    "root/../secret/scan.nii.gz", "root/inner/../../secret/scan.nii.gz", "/etc/passwd",
    "root//etc/passwd", "root/link.nii.gz", "root/away/scan.nii.gz", "root/series",
    "root/outside.nhdr", "root/pattern.nhdr", "root/outside.mhd", "root/none.nii.gz",
    "named/1", "named/-1", "named/0/x", "named/0\0", "root/scan.nii.gz\0.png", "root/\udc80",
    "root/notes.docx", "root/empty", "other/scan.nii.gz", "", None, 7, ["root/scan.nii.gz"],
    "root/" + "a" * 5000,
]  # fmt: skip


def test_nothing_else_is_opened(client, folder):
    for file in NOT_OPENED:
        status, words = client.refused("POST", "/api/images", {"file": file})
        assert status in (400, 404), file
        assert str(folder) not in words  # where the folder lies is nobody's business
    described = client.fine("POST", "/api/images", {"file": "named/0"})
    client.fine("DELETE", f"/api/images/{described['id']}")


@pytest.mark.parametrize("folder_", ["root/..", "root/away", "/", "..", "root/scan.nii.gz", "\0"])
def test_no_other_folder_is_listed(client, folder_):
    assert client.refused("GET", f"/api/folder?{urlencode({'folder': folder_})}")[0] == 404


# Uploads


def upload(client, content, **query):
    return client.ask("POST", f"/api/images?{urlencode(query)}", body=content)


def nifti(folder):
    return (folder / "named.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("own.nii.gz", "own.nii.gz"), ("../../up.nii.gz", "up.nii.gz"), ("/etc/x.nii.gz", "x.nii.gz"),
     ("C:\\a\\b.nii.gz", "b.nii.gz"), ("..nii.gz", "nii.gz"), ("a\0b\n.nii.gz", "a_b_.nii.gz")],
)  # fmt: skip
def test_an_uploaded_file_is_opened_and_its_name_is_no_path(client, folder, name, shown):
    before = set(folder.rglob("*"))
    status, _, described = upload(client, nifti(folder), name=name)
    if shown == "nii.gz":  # a name of a suffix alone has no suffix
        assert status == 400
        return
    assert status == 200 and described["name"] == shown and described["folder"] is None
    assert set(folder.rglob("*")) == before
    client.fine("DELETE", f"/api/images/{described['id']}")


@pytest.mark.parametrize(
    ("content", "query", "status"),
    [
        (b"", {"name": "x.nii.gz"}, 400),
        (b"no gzip", {"name": "x.nii.gz"}, 400),
        (gzip.compress(bytes(1000)), {"name": "x.nii.gz"}, 400),
        (b"MZ", {"name": "x.exe"}, 400),
        (b"MZ", {}, 400),
        (bytes((3 << 20) + 1), {"name": "x.nii.gz"}, 413),
        (b"", {"name": "x", "folder": 1}, 400),
        (b"\1\2\3", {"name": "x", "folder": 1}, 400),
        (struct.pack("<IQ", 3, 1 << 60) + b"a.dc", {"name": "x", "folder": 1}, 400),
        (struct.pack("<IQ", 1 << 31, 3) + b"a.dc", {"name": "x", "folder": 1}, 400),
        (struct.pack("<IQ", 3, 5) + b"a.dcm", {"name": "x", "folder": 1}, 400),
        (b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nendian: little\nencoding: raw\n"
         b"data file: /etc/passwd\n\n", {"name": "x.nrrd"}, 400),
        (b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nendian: little\nencoding: raw\n"
         b"data file: /etc/pass%d 1 4 1\n\n", {"name": "x.nrrd"}, 400),
        (b"NDims = 3\nDimSize = 4 4 4\nElementType = MET_CHAR\nElementDataFile = /etc/passwd\n",
         {"name": "x.mha"}, 400),
    ],
)  # fmt: skip
def test_a_broken_upload_is_refused_in_one_line(client, content, query, status):
    found, words = client.refused("POST", f"/api/images?{urlencode(query)}", body=content)
    assert found == status, words


def test_an_uploaded_folder_is_opened_by_its_files(client, tmp_path):
    import SimpleITK as sitk

    sitk.WriteImage(itk_image(np.zeros((4, 5, 6), np.int16), AFFINE), tmp_path / "x.mha")
    pieces = b"".join(
        struct.pack("<IQ", len(name), len(content)) + name + content
        for name, content in [(b"sub/a.txt", b"no scan"), (b"x.mha", b"")]
    )
    query = urlencode({"name": "my series", "folder": 1})
    _, words = client.refused("POST", f"/api/images?{query}", body=pieces)
    assert words.startswith("my_series: expected DICOM images")
