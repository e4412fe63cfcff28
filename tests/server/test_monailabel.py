"""The official client of MONAI Label, as 3D Slicer's module has it, against the real server.

The client is monailabel 0.8.5 without its dependencies (it needs requests alone, and the module cgi
of Python before 3.13). Geometry is read by nibabel and SimpleITK.
"""

import gc
import importlib.util
import json
import os
import sys
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tests.helpers import HANGS
from tests.helpers.scans import itk_affine, rotation
from tests.helpers.server import serving

# The client closes no connection.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
NEEDED = ("monailabel", "requests", "cgi")
TOKEN = "secret-of-the-test"
GRID, CENTRE, RADII = (48, 40, 11), (26, 19, 5), (12, 9, 3.5)  # i, j, k
AFFINES = {
    "as axial slices": np.diag([-1.0, -1, 3, 1]),
    "flipped": np.diag([1.0, 1, -3, 1]),
    "oblique": rotation(0.3, 0.2) @ np.diag([-1.0, -1.2, 2.5, 1]),
    "anisotropic, coronal": np.array(
        [[-0.7, 0, 0, 9], [0, 0, -4, -30], [0, -1.9, 0, 5], [0, 0, 0, 1.0]]
    ),
}


@pytest.fixture(scope="module")
def client_class():
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        reason = f"not installed: {', '.join(absent)}"
        if os.environ.get("REQUIRE_CLIENTS") and sys.version_info < (3, 13):
            pytest.fail(reason)
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        from monailabel.client import MONAILabelClient

        yield MONAILabelClient


@pytest.fixture(autouse=True)
def without_the_connections_of_the_client():
    """They are closed here, and not in a test of another file that would be blamed for them."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def address():
    with serving("--threads", 1, "--max-upload", "3M", "--sessions", 3) as server:
        yield server.url


@pytest.fixture
def client(client_class, address, tmp_path):
    return client_class(address, str(tmp_path), client_id="user-xyz")


@pytest.fixture(scope="module")
def opened(client_class, address, tmp_path_factory):
    """A session that the tests share, and the file that it has."""
    folder = tmp_path_factory.mktemp("shared")
    path = volume(folder)
    client = client_class(address, str(folder), client_id="user-xyz")
    return client.create_session(str(path))["session_id"], path


def inside():
    """The voxels (I, J, K) of the bright object."""
    away = np.stack(np.indices(GRID), -1) - CENTRE
    return ((away / RADII) ** 2).sum(-1) <= 1


def volume(folder, affine=AFFINES["oblique"], suffix=".nii.gz"):
    """A file of a bright object in noise."""
    noise = np.random.default_rng(1).normal(60, 8, GRID)
    values = (noise + 120 * inside()).clip(0, 255).astype(np.int16)
    path = folder / f"tmpabc{suffix}"
    image = nibabel.Nifti1Image(values, affine)
    if suffix.startswith(".nii"):
        nibabel.save(image, path)
    else:
        nibabel.save(image, folder / "as.nii")
        sitk.WriteImage(sitk.ReadImage(str(folder / "as.nii")), str(path))
    return path


def roi_of(path, margin=(2, 2, 1)):
    """What the module sends for a ROI around the object: corners in RAS, to rounded voxels.

    As 3D Slicer reads the file, by the way of ITK; a pair is not sorted.
    """
    image = sitk.ReadImage(str(path))
    own = nibabel.load(path).affine if path.name.endswith((".nii", ".nii.gz")) else None
    affine = itk_affine(image) if own is None else own
    ends = np.argwhere(inside())
    low, high = ends.min(axis=0) - margin, ends.max(axis=0) + margin
    corners = np.array([[*low, 1], [*high, 1]]) @ affine.T
    sorted_in_ras = np.sort(corners[:, :3], axis=0) if not is_oblique(affine) else corners[:, :3]
    voxels = np.rint(np.column_stack([sorted_in_ras, [1, 1]]) @ np.linalg.inv(affine).T)
    return voxels[:, :3].astype(int).T.ravel().tolist()


def is_oblique(affine):
    return (np.abs(affine[:3, :3]) > 1e-6).sum() > 3


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def asked(client, session, roi, **more):
    """As the module asks; the file of the answer, and what was said."""
    params = {"label": "spleen", "foreground": [], "background": [], "roi": roi,
              "result_extension": ".nrrd", "result_dtype": "uint8", **more}  # fmt: skip
    file, said = client.infer("swiftmedsam", "tmpabc", params, session_id=session)
    return file, said


# The steps of the module


def test_the_module_connects(client):
    assert not client.auth_enabled()
    info = client.info()
    assert not info.get("config")  # else the module asks for a newer server
    (model,) = info["models"].values()
    assert (model["type"], model["dimension"]) == ("deepgrow", 3)
    assert isinstance(info["labels"], list)
    assert {"name", "description", "version", "trainers", "strategies", "scoring", "train_stats",
            "datastore"} <= info.keys()  # fmt: skip


@pytest.mark.parametrize("name", AFFINES)
def test_the_mask_lies_where_the_roi_was(client, name, tmp_path):
    path = volume(tmp_path, AFFINES[name])
    created = client.create_session(str(path))
    assert client.get_session(created["session_id"])
    roi = roi_of(path)
    file, said = asked(client, created["session_id"], roi)
    assert said["label_names"] == {"spleen": 1}
    found = sitk.ReadImage(file)
    np.testing.assert_allclose(itk_affine(found), AFFINES[name], atol=1e-4)
    labels = sitk.GetArrayFromImage(found).T
    assert np.unique(labels).tolist() == [0, 1]
    assert dice(labels == 1, inside()) > 0.9
    client.remove_session(created["session_id"])


def test_a_flat_roi_gives_the_whole_object(client, opened):
    """One that is a voxel thick, in any of the three planes."""
    session, path = opened
    for axis in range(3):
        roi = np.array(roi_of(path)).reshape(3, 2)
        roi[axis] = CENTRE[axis]
        file, _ = asked(client, session, roi.ravel().tolist())
        labels = sitk.GetArrayFromImage(sitk.ReadImage(file)).T
        assert dice(labels == 1, inside()) > 0.85, "ijk"[axis]


def test_a_roi_that_reaches_outside_is_cut_and_its_pairs_need_no_order(client, opened):
    one, _ = asked(client, opened[0], [40, 12, 29, -300, 0, 500])
    first = Path(one).read_bytes()
    two, _ = asked(client, opened[0], [12, 40, 0, 29, 0, GRID[2] - 1])
    assert first == Path(two).read_bytes()


def test_an_answer_does_not_depend_on_what_was_asked_before(client, opened):
    session, path = opened
    first = Path(asked(client, session, roi_of(path))[0]).read_bytes()
    flat = [*roi_of(path)[:4], 5, 5]
    for other in (flat, [0, 9, 0, 9, 0, 5]):
        asked(client, session, other)
    assert Path(asked(client, session, roi_of(path))[0]).read_bytes() == first


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_the_volume_may_be_of_any_kind_that_slicer_writes(client, suffix, tmp_path):
    path = volume(tmp_path, suffix=suffix)
    session = client.create_session(str(path))["session_id"]
    roi = np.array(roi_of(path)).reshape(3, 2)
    roi[2] = CENTRE[2]
    file, _ = asked(client, session, roi.ravel().tolist(), result_extension=".nii.gz")
    found = nibabel.load(file)
    assert dice(np.asarray(found.dataobj) == 1, inside()) > 0.85
    np.testing.assert_allclose(found.affine, AFFINES["oblique"], atol=1e-4)
    client.remove_session(session)


# Answers of other forms


def request(address, path, body=None, method="POST", **headers):
    """Status, headers and body of an answer, by the library's own client."""
    made = urllib.request.Request(f"{address}{path}", body, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(made, timeout=HANGS) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def form(params):
    text = params if isinstance(params, str) else json.dumps(params)
    body = f'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{text}\r\n--x--\r\n'
    return body.encode(), {"Content-Type": "multipart/form-data; boundary=x"}


def test_ohif_gets_the_bare_file_and_nobody_gets_chunks(address, opened):
    session, path = opened
    body, headers = form({"roi": roi_of(path)})
    for output in ("all", "image", "json"):
        place = f"/infer/swiftmedsam?image=a&session_id={session}&output={output}"
        status, answered, content = request(address, place, body, **headers)
        assert status == 200
        assert int(answered["Content-Length"]) == len(content)
        if output == "image":
            assert content.startswith(b"NRRD")
        elif output == "json":
            assert json.loads(content)["voxels"] > 500
        else:
            assert answered["Content-Type"].startswith("multipart/form-data; boundary=")


# What is refused


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ("no JSON", "params should be a JSON object"),
        ([1], "params should be a JSON object"),
        ({}, "place a ROI around the object; one that is flat marks it in one slice"),
        ({"roi": [1, 2, 3, 4]}, "roi should be 6 numbers (i, i, j, j, k, k), got [1, 2, 3, 4]"),
        ({"roi": [1, 2, 3, 4, 5, 10**400]},
         f"roi should be 6 numbers (i, i, j, j, k, k), got [1, 2, 3, 4, 5, 1{'0' * 183}..."),
        ({"roi": [1, 2, 3, 4, 5, None]},
         "roi should be 6 numbers (i, i, j, j, k, k), got [1, 2, 3, 4, 5, null]"),
        ('{"roi": [1, 2, 3, 4, 5, 1e999]}',
         "roi should be 6 numbers (i, i, j, j, k, k), got [1, 2, 3, 4, 5, Infinity]"),
        ({"roi": [90, 99, 3, 4, 5, 6]},
         "the box [(5, 7), (3, 5), (90, 100)] lies outside the 11 x 40 x 48 voxels"),
        ({"roi": [1, 9, 3, 9, 5, 9], "foreground": [[3, 4, 5]]},
         "points are not understood: delete them, and place a ROI"),
        ({"roi": [1, 9, 3, 9, 5, 9], "result_extension": "/../../x"},
         "result_extension should be one of .nrrd, .nii, .nii.gz, got \"/../../x\""),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_gets_one_line(address, client, opened, params, said):
    session, path = opened
    body, headers = form(params)
    place = f"/infer/swiftmedsam?session_id={session}"
    status, _, content = request(address, place, body, **headers)
    assert (status, json.loads(content)) == (400, {"detail": said})
    assert asked(client, session, roi_of(path))[0]  # the session is of use yet


def test_what_is_not_there_is_said(address):
    body, headers = form({"roi": [1, 9, 3, 9, 5, 9]})
    for place, wanted in (
        ("/infer/other", "there is no model of that name, expected swiftmedsam"),
        ("/infer/swiftmedsam?image=a", "the session is unknown or has expired: load the volume"),
        ("/infer/swiftmedsam?session_id=../../etc", "the session is unknown or has expired"),
    ):
        status, _, content = request(address, place, body, **headers)
        assert status == 404
        assert json.loads(content)["detail"].startswith(wanted)
    status, _, content = request(
        address, "/infer/swiftmedsam?output=dicom_seg", body, **headers
    )  # fmt: skip
    assert (status, json.loads(content)["detail"]) == (
        400, 'output should be one of all, image, json, got "dicom_seg"'
    )  # fmt: skip
    assert request(address, "/train/?check_if_running=true", method="GET")[0] == 404


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"x", '"a.txt": expected a name ending in .nii, .nii.gz, .nrrd, .mha'),
        ("a.nii.gz", b"x" * 99, "image.nii.gz: not a readable NIfTI file"),
        ("a.nrrd", b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
         b"data file: /etc/hostname\n\n", "image.nrrd: is damaged, or the header of"),
        ("a.nrrd", b"NRRD0004\r\ntype: uchar\r\ndimension: 3\r\nsizes: 2 2 2\r\nencoding: raw\r\n"
         b"DataFile: /etc/host%s 1 2 1\r\n\r\n", "image.nrrd: is damaged, or the header of"),
        ("a.mha", b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 1\nElementType = MET_UCHAR\n"
         b"ElementDataFile = /etc/hostname\n", "image.mha: is damaged, or the header of"),
        ("a.nii", b"x" * (4 << 20), "a request can have 3145728 bytes"),
    ],
)  # fmt: skip
def test_an_upload_that_cannot_be_opened_is_refused(address, name, content, said):
    """Also one whose header names files of the server's machine."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, _, answered = request(address, "/session/", body, "PUT", **headers)
    assert status == (413 if len(content) > 1 << 20 else 400)
    assert json.loads(answered)["detail"].startswith(said)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{}", "application/json", "the request should be a form in parts, got"),
        (b"--x", "multipart/form-data", "the form cannot be read (Missing boundary"),
        (b"nonsense", "multipart/form-data; boundary=x", "the form cannot be read"),
        (b"", "multipart/form-data; boundary=x", "expected a file in the part 'files'"),
        (b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\ncut',
         "multipart/form-data; boundary=x", "expected a file in the part 'files'"),
        (b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n--x--\r\n',
         "multipart/form-data; boundary=x", "expected a file in the part 'files'"),
    ],
)  # fmt: skip
def test_a_damaged_form_is_refused(address, body, kind, said):
    status, _, answered = request(address, "/session/", body, "PUT", **{"Content-Type": kind})
    assert status == 400
    assert json.loads(answered)["detail"].startswith(said)


def test_a_volume_that_is_gone_is_uploaded_again(client, tmp_path):
    """The oldest makes room: then the module gets {}, which is no error to it."""
    path = volume(tmp_path)
    first, second, third, last = (client.create_session(str(path))["session_id"] for _ in range(4))
    assert client.get_session(first) == {}
    for session in (second, third, last):
        assert client.get_session(session)
    client.remove_session(last)
    assert client.get_session(last) == {}


# A server with a token


def test_with_a_token_the_module_logs_in(client_class, tmp_path):
    with serving("--threads", 1, "--token", TOKEN) as server:
        client = client_class(server.url, str(tmp_path), client_id="a")
        assert client.auth_enabled()
        assert not client.auth_valid_token()
        for call in (client.info, lambda: client.create_session(str(volume(tmp_path)))):
            with pytest.raises(Exception, match="Status: 401"):
                call()
        with pytest.raises(Exception, match="the password should be the token"):
            client.auth_token("anybody", "wrong")
        client.update_auth(client.auth_token("anybody", TOKEN))
        assert client.auth_valid_token()
        assert client.info()["name"] == "SwiftMedSAM"
        path = volume(tmp_path)
        session = client.create_session(str(path))["session_id"]
        assert asked(client, session, roi_of(path))[1]["voxels"] > 500
