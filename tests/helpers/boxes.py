"""Files of boxes as other programs write them."""

import json

import numpy as np
import SimpleITK as sitk

from swiftmedsam import make_case
from swiftmedsam.scans.boxes.drawn import Meaning, on_grid
from swiftmedsam.scans.scan import PICTURE_AFFINE, RAS_OF_LPS
from tests.helpers import labels_of, volume_case
from tests.helpers.scans import ALIGNED, itk_image, scan_of

GRID = (64, 40, 6)


VOXEL = Meaning()


def scan(affine=ALIGNED):
    return scan_of(np.zeros(GRID, np.uint8), affine)


def picture_scan():
    return scan_of(np.zeros((64, 40, 1), np.uint8), PICTURE_AFFINE, has_mm=False)


def written(folder, name, content):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def placed(entries, scan):
    boxes = [on_grid(entry.box, scan, 1) for entry in entries]
    return [(box.name, box.first, box.last) for box in boxes]


def roi(first, last, affine, space="LPS", turned=None, **more):
    """A markup of the outer sides of voxels `first` to `last` of an aligned grid."""
    to_space = RAS_OF_LPS if space == "LPS" else np.eye(4)
    ends = [to_space @ affine @ [*end, 1] for end in
            (np.array(first) - 0.5, np.array(last) + 0.5)]  # fmt: skip
    directions = np.diag(to_space)[:3] * np.eye(3) if turned is None else turned
    return {
        "type": "ROI", "coordinateSystem": space, "coordinateUnits": "mm", "roiType": "Box",
        "center": ((ends[0] + ends[1]) / 2)[:3].tolist(),
        "orientation": directions.ravel().tolist(),
        "size": np.abs(ends[1] - ends[0])[:3].tolist(),
        "insideOut": False, "controlPoints": [], **more,
    }  # fmt: skip


def label_map(grid=GRID):
    labels = np.zeros(grid, np.int16)
    labels[8:47, 6:31, 0:4] = 5
    labels[20:30, 10:20, 2:5] = 2
    return labels


LIVER = {"ID": "Segment_1", "Name": "liver, left lobe", "Color": "0.2 0.4 1", "LabelValue": "5",
         "Layer": "0"}  # fmt: skip


SPLEEN = {"ID": "Segment_2", "Name": "spleen", "Color": "1 0 0.6", "LabelValue": "2", "Layer": "0"}


def slicer_file(path, *segments, voxels=None, affine=ALIGNED):
    """A .seg.nrrd of label_map(), or of voxels (I, J, K[, layers]), with the fields of segments."""
    stored = label_map() if voxels is None else voxels
    image = itk_image(stored, affine, is_vector=stored.ndim == 4)
    for number, fields in enumerate(segments):
        for key, value in fields.items():
            image.SetMetaData(f"Segment{number}_{key}", value)
    sitk.WriteImage(image, str(path))
    return path


def layered(number, **more):
    return {"ID": f"Segment_{number}", "Name": f"organ {number}", "LabelValue": "1",
            "Layer": str(number), **more}  # fmt: skip


BOXES = volume_case()["boxes"]


def box_words(boxes=BOXES):
    return [word for box in boxes for word in ("--box", *map(str, box))]


def wanted_volume(network):
    case = volume_case()
    return labels_of(make_case(case["imgs"], case["boxes"], modality="MR"), network).T
