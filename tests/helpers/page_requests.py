"""A volume with a ball, and requests of the page that draw around it.

`folder`, `client` and `image` are fixtures of tests/server/conftest.py.
"""

import cv2
import nibabel
import numpy as np

from tests.helpers.server import phantom

SHAPE = 12, 40, 48  # k, j, i
BALL = (6, 18, 20), 8
AFFINE = np.diag([-1.0, 2, 3, 1])  # i to the left, as a shown column; j to the front: flipped
SHOWN = {"plane": "axial", "index": 6}
# in the shown slice, rows run to the back: from the other end than j
BOX = [10, SHAPE[1] - 29, 31, SHAPE[1] - 7]


def make_folder(base):
    """A root folder with scans in it, and beside it what nobody may open."""
    root, secret = base / "root", base / "secret"
    for one in (root, root / "inner", root / "empty", secret):
        one.mkdir()
    volume = phantom(SHAPE, BALL)
    nibabel.save(nibabel.Nifti1Image(volume.T, AFFINE), root / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume.T, AFFINE), secret / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume.T, AFFINE), base / "named.nii.gz")
    cv2.imwrite(str(root / "inner" / "picture.png"), volume[6].astype(np.uint8))
    (root / "notes.docx").write_text("no scan")
    (root / "link.nii.gz").symlink_to(secret / "scan.nii.gz")
    (root / "away").symlink_to(secret)
    (root / "inner" / "same.nii.gz").symlink_to(root / "scan.nii.gz")
    (root / "series").mkdir()
    (root / "series" / "slice.dcm").symlink_to(secret / "scan.nii.gz")
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nendian: little\nencoding: raw\n"
    (secret / "voxels.raw").write_bytes(bytes(128))
    (root / "outside.nhdr").write_text(f"{header}data file: ../secret/voxels.raw\n")
    (root / "pattern.nhdr").write_text(f"{header}data file: ../secret/%d.raw 1 4 1 2\n")
    (root / "outside.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\n"
        "ElementDataFile = ../secret/voxels.raw\n"
    )
    return base


def drawn(client, path, **more):
    """Begin an object and draw a box around the ball."""
    number = client.fine("POST", f"{path}/objects", {"name": "ball"})["number"]
    box = {**SHOWN, "box": BOX, **more}
    return number, *client.changed("POST", f"{path}/objects/{number}/boxes", box)
