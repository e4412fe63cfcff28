"""nnInteractive's protocol, asked by its official client, of the real server and network."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest

from tests.helpers import HANGS, ROOT, dsc
from tests.helpers.server import ball, box_around, phantom, serving

if sys.version_info < (3, 11):
    pytest.skip("the client needs blosc2, which needs Python 3.11", allow_module_level=True)

from nnInteractive.inference.remote import (  # noqa: E402 - behind the check of the version
    ServerAtCapacityError,
    SessionExpiredError,
)
from nnInteractive.inference.remote import (
    nnInteractiveRemoteInferenceSession as Client,
)
from nnInteractive.inference.remote.serialization import pack_array  # noqa: E402

SHAPE = (11, 48, 56)
FIRST, SECOND = ((5, 16, 16), 4), ((5, 33, 40), 4)
IN_SLICE = [ball(SHAPE, *one)[5] for one in (FIRST, SECOND)]
VOLUME = phantom(SHAPE, FIRST, SECOND)


@pytest.fixture(scope="module", autouse=True)
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(scope="module")
def server():
    # objects are followed to their ends, however slow the machine is
    with serving("--sessions", 3, "--answer-timeout", HANGS) as started:
        yield started


@pytest.fixture
def client(server):
    with connected(server.url) as session:
        yield session


@pytest.fixture
def following(client):
    """A client with the volume and an empty label."""
    client.set_image(VOLUME[np.newaxis], {"spacing": [3.0, 1.0, 1.0]})
    client.set_target_buffer(np.zeros(SHAPE, np.uint8))
    return client


@pytest.fixture
def drawing(following):
    """The same; boxes change their own slice only, which is quicker."""
    following.set_do_autozoom(False)
    return following


def connected(url):
    """A client that leaves no connection behind if it is refused."""
    client = Client.__new__(Client)
    try:
        client.__init__(url, read_timeout=HANGS)
    except BaseException:
        client._http.close()
        raise
    return client


def answer_of(session, path, **fields):
    """The answer to a request that the client itself would not send."""
    return session._http.post(path, json=fields)


def refused(answer, status=400):
    """The message of an error: one line, in the form that clients show."""
    assert answer.status_code == status
    message = answer.json()
    assert list(message) == ["detail"] and "\n" not in message["detail"]
    assert "Traceback" not in message["detail"]
    return message["detail"]


# The lease


def test_a_client_connects_and_knows_what_it_can_ask(server, client):
    assert client.ping()
    assert client.supported_interactions == {
        "points": False, "bbox2d": True, "bbox3d": True, "scribble": False, "lasso": False,
    }  # fmt: skip
    assert client.supports_undo and client.supports_initial_label and client.do_autozoom
    assert (client.idle_timeout_seconds, client.liveness_timeout_seconds) == (600, 60)
    assert 590 < client.heartbeat() <= 600
    assert client.lease_status()["idle_timeout_seconds"] == 600


def test_a_full_server_says_so_and_a_released_session_is_free_again(server):
    clients = [connected(server.url) for _ in range(3)]
    with pytest.raises(ServerAtCapacityError, match="^all 3 sessions are in use"):
        connected(server.url)
    token = clients[0]._lease_token
    clients.pop().close()
    clients.append(connected(server.url))
    clients.pop(0).close()
    with httpx.Client(base_url=server.url) as http:  # once more, and of a stranger
        for words in ({"X-Lease-Token": token}, {}):
            assert http.post("/release", headers=words).json() == {"released": True}
    for session in clients:
        session.close()


@pytest.mark.parametrize(
    "path",
    ["/heartbeat", "/set_image", "/set_target_buffer", "/reset_interactions", "/set_do_autozoom",
     "/undo", "/predict", "/add_bbox_interaction", "/add_point_interaction",
     "/add_scribble_interaction", "/add_lasso_interaction", "/add_initial_seg_interaction"],
)  # fmt: skip
def test_without_a_lease_nothing_is_answered(server, path):
    with httpx.Client(base_url=server.url) as http:
        assert "expired" in refused(http.post(path, json={}), 410)
        assert "expired" in refused(http.post(path, headers={"X-Lease-Token": "0" * 32}), 410)
    assert refused(httpx.get(server.url + "/lease_status"), 410)


def test_the_client_is_told_that_its_lease_is_gone(client):
    token = client._http.headers["X-Lease-Token"]
    client._http.headers["X-Lease-Token"] = "gone"
    with pytest.raises(SessionExpiredError):
        client.reset_interactions()
    client._http.headers["X-Lease-Token"] = token
    client.reset_interactions()


def test_unknown_paths_and_methods_are_errors_in_the_same_form(server):
    assert refused(httpx.get(server.url + "/nothing"), 404)
    assert refused(httpx.get(server.url + "/claim"), 405)


# Boxes


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_in_one_slice_gives_the_object_where_it_was_drawn(following, axis):
    found = following.add_bbox_interaction(box_around(*FIRST, axis), True)
    truth, mask = ball(SHAPE, *FIRST), following.target_buffer != 0
    assert dsc(mask, truth) > 0.85
    ends = np.argwhere(mask)
    assert found == [[int(low), int(high) + 1] for low, high in
                     zip(ends.min(0), ends.max(0), strict=True)]  # fmt: skip


def test_without_autozoom_only_the_slice_of_the_box_changes(drawing):
    found = drawing.add_bbox_interaction(box_around(*FIRST), True)
    assert found[0] == [5, 6]
    assert dsc(drawing.target_buffer[5] != 0, IN_SLICE[0]) > 0.9


def test_a_box_of_floats_is_half_open_and_a_box_in_three_dimensions_is_a_bound(drawing):
    k, j, i = FIRST[0]
    thin = [[float(k), k + 1.0], [j - 6.4, j + 6.6], [i - 6.4, i + 6.6]]
    drawing.add_bbox_interaction(np.array(thin), True)
    assert dsc(drawing.target_buffer[k] != 0, IN_SLICE[0]) > 0.9
    drawing.reset_interactions()
    bound = [[k - 1, k + 2], [j - 6, j + 7], [i - 6, i + 7]]
    drawing.add_bbox_interaction(bound, True)
    assert np.flatnonzero(drawing.target_buffer.any(axis=(1, 2))).tolist() == [k - 1, k, k + 1]


def test_boxes_can_wait_and_are_then_answered_together(drawing):
    boxes = box_around(*FIRST), box_around(*SECOND)
    for box in boxes:
        assert drawing.add_bbox_interaction(box, True, run_prediction=False) is None
    assert not drawing.target_buffer.any()
    assert drawing._predict(force_full_refine=True) is not None
    assert dsc(drawing.target_buffer[5] != 0, IN_SLICE[0] | IN_SLICE[1]) > 0.9
    assert drawing._predict() is None
    both = drawing.target_buffer.copy()
    outside = [[5, 6], [900, 910], [10, 20]]
    for box in (boxes[0], outside):
        drawing.add_bbox_interaction(box, False, run_prediction=False)
    refused(answer_of(drawing, "/predict"))  # the first of them does not count, either
    drawing.add_bbox_interaction(boxes[0], True)
    np.testing.assert_array_equal(drawing.target_buffer, both)
    drawing.add_bbox_interaction(boxes[0], True, run_prediction=False)
    assert drawing.undo()  # it waited
    assert drawing._predict() is None


def test_a_negative_box_takes_away_what_is_found_in_it(drawing):
    seed = ball(SHAPE, *FIRST) | ball(SHAPE, *SECOND)
    drawing.add_initial_seg_interaction(seed.astype(np.uint8))
    drawing.add_bbox_interaction(box_around(*SECOND), include_interaction=False)
    mask = drawing.target_buffer != 0
    assert (mask[5] & IN_SLICE[1]).sum() < 0.2 * IN_SLICE[1].sum()
    mask[5] |= IN_SLICE[1]
    np.testing.assert_array_equal(mask, seed)
    assert drawing.undo()
    np.testing.assert_array_equal(drawing.target_buffer != 0, seed)


# Undo, and one object after the other


def test_undo_takes_back_box_after_box(drawing):
    assert not drawing.undo()
    drawing.add_bbox_interaction(box_around(*FIRST), True)
    first = drawing.target_buffer.copy()
    drawing.add_bbox_interaction(box_around(*SECOND), True)
    assert (drawing.target_buffer != first).any()
    assert drawing.undo()
    np.testing.assert_array_equal(drawing.target_buffer, first)
    assert drawing.undo()
    assert not drawing.target_buffer.any() and not drawing.undo()


def test_objects_come_one_after_the_other(drawing):
    for one, truth in zip((FIRST, SECOND), IN_SLICE, strict=True):
        drawing.reset_interactions()
        drawing.add_bbox_interaction(box_around(*one), True)
        assert dsc(drawing.target_buffer[5] != 0, truth) > 0.9
    assert drawing.undo()  # of the second object alone
    assert not drawing.undo()


def test_an_initial_segmentation_is_what_the_next_answer_goes_on_from(drawing):
    seed = ball(SHAPE, *FIRST)
    assert drawing.add_initial_seg_interaction(seed.astype(np.uint8)) is None
    assert not drawing.undo()  # the client has it, and would not give it back
    drawing.add_bbox_interaction(box_around(*SECOND), True)
    mask = drawing.target_buffer != 0
    assert mask[seed].all() and dsc(mask[5] & ~IN_SLICE[0], IN_SLICE[1]) > 0.9


def test_an_object_that_was_corrected_by_hand_is_known_again(following):
    """As Slicer does it: reset, the edited segment as initial segmentation, a box."""
    following.add_bbox_interaction(box_around(*FIRST), True)
    edited = following.target_buffer != 0
    assert edited[3].any()
    edited[3, :, :16] = False
    following.reset_interactions()
    following.add_initial_seg_interaction(edited.astype(np.uint8))
    np.testing.assert_array_equal(following.target_buffer != 0, edited)
    _, j, i = FIRST[0]
    following.add_bbox_interaction([[7, 8], [j - 6, j + 7], [i - 6, i + 7]], True)
    np.testing.assert_array_equal(following.target_buffer[3] != 0, edited[3])
    assert dsc(following.target_buffer != 0, ball(SHAPE, *FIRST)) > 0.7


# Images


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float16", "float64"])
def test_a_picture_of_any_type_is_a_volume_of_one_slice(client, dtype):
    """As napari sends it: (1, 1, H, W), and a rectangle of floats."""
    picture = (VOLUME[5] // 3).astype(dtype)
    client.set_image(picture[np.newaxis, np.newaxis], {"spacing": np.ones(3)})
    client.set_target_buffer(np.zeros((1, *SHAPE[1:]), np.int32))
    _, j, i = FIRST[0]
    client.add_bbox_interaction([[0.0, 1.0], [j - 6.2, j + 6.2], [i - 6.2, i + 6.2]], True)
    assert client.target_buffer.dtype == np.int32
    assert dsc(client.target_buffer[0] != 0, IN_SLICE[0]) > 0.85


def test_another_image_takes_the_place_of_the_first(drawing):
    drawing.add_bbox_interaction(box_around(*FIRST), True)
    other = phantom((9, 40, 50), ((4, 22, 20), 4))
    drawing.set_image(other[np.newaxis], {"spacing": [1.0, 1.0, 1.0]})
    drawing.set_target_buffer(np.zeros(other.shape, bool))
    assert not drawing.undo()
    drawing.add_bbox_interaction(box_around((4, 22, 20), 4), True)
    assert drawing.target_buffer.dtype == bool
    assert dsc(drawing.target_buffer[4], ball(other.shape, (4, 22, 20), 4)[4]) > 0.9


# Errors leave the session usable


def test_bad_requests_are_one_line_and_the_session_goes_on(drawing):
    good = {"bbox_coords": box_around(*FIRST), "include_interaction": True}
    bad_boxes = [None, [], [[0, 1], [2, 3]], [[0, 1, 2], [3, 4], [5, 6]],
                 [["a", 1], [0, 9], [0, 9]], [[900, 901], [0, 9], [0, 9]],
                 [[10**400, 1], [0, 9], [0, 9]], [[True, 1], [0, 9], [0, 9]]]  # fmt: skip
    for box in bad_boxes:
        refused(answer_of(drawing, "/add_bbox_interaction", **{**good, "bbox_coords": box}))
    raw = '{"bbox_coords": [[NaN, 1], [0, 9], [0, Infinity]], "include_interaction": true}'
    refused(drawing._http.post("/add_bbox_interaction", content=raw))
    refused(answer_of(drawing, "/add_bbox_interaction", **{**good, "include_interaction": 3}))
    for content in (b"{", b"[]", b"\xff", b"[" * 30_000):
        refused(drawing._http.post("/add_bbox_interaction", content=content))
    refused(drawing._http.post("/set_do_autozoom", content=b" " * (1 << 17)), 413)
    for path in ("/add_point_interaction", "/add_scribble_interaction", "/add_lasso_interaction"):
        assert "boxes" in refused(answer_of(drawing, path, coordinates=[1, 2, 3]))
    for fields in ({"shape": [1, 2]}, {"shape": [11, 48, 56], "dtype": "float32"},
                   {"shape": [11, 48, 57], "dtype": "uint8"}, {"dtype": "uint8"},
                   {"shape": [11, 48, 56], "dtype": "nothing"}, {"shape": [1] * 3, "dtype": "(1,"},
                   {"shape": [11, 48, -56], "dtype": "uint8"}):  # fmt: skip
        refused(answer_of(drawing, "/set_target_buffer", **fields))
    refused(answer_of(drawing, "/set_do_autozoom", do_autozoom="yes"))
    for mask in (np.zeros((2, 2, 2), np.uint8), np.zeros(SHAPE), np.zeros((1, *SHAPE), bool)):
        content = pack_array(mask)
        assert "mask" in refused(
            drawing._http.post("/add_initial_seg_interaction", content=content)
        )
    drawing.add_bbox_interaction(good["bbox_coords"], True)
    assert dsc(drawing.target_buffer[5] != 0, IN_SLICE[0]) > 0.9


def test_bad_images_are_refused(client):
    assert "no image" in refused(answer_of(client, "/undo"))
    assert "no image" in refused(
        answer_of(client, "/add_bbox_interaction", bbox_coords=box_around(*FIRST))
    )

    def sent(content, **meta):
        words = {"X-Meta": json.dumps({"image_properties": meta})}
        return client._http.post("/set_image", content=content, headers=words)

    good = pack_array(VOLUME[np.newaxis])
    for content in (b"", b"NNIA", good[:-9], good[:40] + good[41:], b"x" + good[1:],
                    pack_array(VOLUME), pack_array(np.stack([VOLUME] * 2)),
                    pack_array(np.full((1, 3, 4, 5), np.nan, np.float32))):  # fmt: skip
        refused(sent(content))
    for spacing in ([1, 2], [1, 2, 0], "x", [1, 2, None]):
        assert "spacing" in refused(sent(good, spacing=spacing))
    refused(client._http.post("/set_image", content=good, headers={"X-Meta": "["}))
    for spacing in ([3, 1, 1], [-3, 1, -1]):  # napari's scale is negative where an axis is turned
        assert sent(good, spacing=spacing).json() == {"original_image_shape": [1, *SHAPE]}


# Clients that come and go


def test_heartbeats_are_answered_during_a_prediction(following):
    predicted = threading.Event()

    def predict():
        try:
            following.add_bbox_interaction(box_around(*FIRST), True)
        finally:
            predicted.set()

    thread = threading.Thread(target=predict)
    thread.start()
    beats = 0
    while not predicted.wait(0.01):
        assert following.heartbeat() > 0
        beats += 1
    thread.join(HANGS)
    assert beats >= 5
    assert following.target_buffer.any()


KILLED = """
import sys, numpy as np
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession as Client
client = Client(sys.argv[1])
client.set_image(np.load(sys.argv[2])[None])
client.set_target_buffer(np.zeros((11, 48, 56), np.uint8))
print("ready", flush=True)
client.add_bbox_interaction([[5, 6], [10, 23], [10, 23]], True)
sys.stdin.read()
"""


def test_a_killed_client_frees_its_session(tmp_path):
    np.save(tmp_path / "volume.npy", VOLUME)
    with serving("--sessions", 1, "--liveness-timeout", 3) as server:
        words = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "volume.npy")]
        client = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "NO_PROXY": "*"},
        )  # fmt: skip
        assert client.stdout.readline() == "ready\n"
        with pytest.raises(ServerAtCapacityError):
            connected(server.url)
        client.send_signal(signal.SIGKILL)
        client.communicate()
        deadline = time.monotonic() + HANGS
        while True:
            try:
                with connected(server.url) as other:
                    other.set_image(VOLUME[np.newaxis])
                break
            except ServerAtCapacityError:
                assert time.monotonic() < deadline
                time.sleep(0.2)


def test_an_idle_session_expires_though_its_client_lives():
    with serving("--idle-timeout", 1) as server:
        with connected(server.url) as client:
            deadline = time.monotonic() + HANGS
            with pytest.raises(SessionExpiredError):
                while time.monotonic() < deadline:
                    client.heartbeat()
                    time.sleep(0.1)
            with pytest.raises(SessionExpiredError):
                client.set_image(VOLUME[np.newaxis])


def test_two_clients_work_beside_each_other(server):
    clients = [connected(server.url) for _ in range(2)]
    volumes = VOLUME, np.ascontiguousarray(VOLUME[:, ::-1])
    boxes = [box_around(*FIRST), box_around((5, 47 - 16, 16), 4)]
    try:
        for client, volume in zip(clients, volumes, strict=True):
            client.set_image(volume[np.newaxis])
            client.set_target_buffer(np.zeros(SHAPE, np.uint8))
            client.set_do_autozoom(False)
        threads = [
            threading.Thread(target=client.add_bbox_interaction, args=[box, True])
            for client, box in zip(clients, boxes, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANGS)
        assert dsc(clients[0].target_buffer[5] != 0, IN_SLICE[0]) > 0.9
        assert dsc(clients[1].target_buffer[5] != 0, IN_SLICE[0][::-1]) > 0.9
    finally:
        for client in clients:
            client.close()
