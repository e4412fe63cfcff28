"""Pictures in folders, with a table of boxes."""

import cv2
import numpy as np

from tests.helpers import image_case


def make_photos(folder, table):
    """Write three pictures into `folder`, two of which are called alike, and a table of boxes."""
    rows = ["file,name,x_min,y_min,x_max,y_max"]
    for i, file in enumerate(("b/photo.png", "a/photo.png", "c.png")):
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(path), np.roll(image_case()["imgs"], 5 * i, axis=1))
        rows += [f"{file},disc,7,10,43,30", f"{file},other,44,24,72,40"]
    table.write_text("\n".join(rows))
    return table
