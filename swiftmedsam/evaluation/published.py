"""Tables 4 and 5 of the paper, as published.

The seconds of LiteMedSAM, Swift v1 and Swift v2 are from the paper; those of QMedSAM and Rep-MedSAM
are from their own papers. No paper says how many slices an object spans.
"""

from dataclasses import dataclass

# DSC and NSD in % on the challenge's validation set, as printed. Swift v2's DSC average is not the
# mean of its rows, which is 74.76; with 68.38 for PET it would be.
TABLE_4_COLUMNS = ("LiteMedSAM", "Swift v1", "Swift v2")
TABLE_4 = {
    "CT": ((40.71, 40.27), (43.09, 43.66), (42.76, 43.39)),
    "MR": ((61.17, 62.40), (64.59, 66.85), (63.81, 66.29)),
    "PET": ((55.10, 29.17), (68.87, 50.96), (63.38, 50.03)),
    "US": ((94.77, 96.81), (79.16, 85.12), (80.88, 87.26)),
    "X-Ray": ((75.82, 80.38), (64.48, 70.83), (70.72, 76.71)),
    "Dermoscopy": ((92.47, 93.85), (93.88, 95.30), (93.43, 94.80)),
    "Endoscopy": ((96.04, 98.11), (94.57, 97.22), (95.58, 98.02)),
    "Fundus": ((94.81, 96.41), (94.10, 95.79), (96.13, 97.69)),
    "Microscopy": ((61.63, 65.39), (69.41, 75.05), (66.13, 73.13)),
    "Average": ((74.73, 73.64), (74.68, 75.64), (75.31, 76.37)),
}

MADE = "-made"  # suffix of the name of a made case that replaces one of the table
COLUMNS = ("LiteMedSAM", "Swift v1", "Swift v2", "QMedSAM int8", "Rep-MedSAM cached")
OTHER_MACHINES = (
    "Published seconds are from other machines, each column from its authors' own: compare\n"
    "columns of this run with each other, and published columns with published ones."
)


@dataclass(frozen=True)
class Published:
    """One row of Table 5."""

    shape: tuple[int, ...]  # (H, W) or (D, H, W)
    objects: int
    seconds: tuple[float | None, ...]  # in the order of `COLUMNS`; None: not published


TABLE_5 = {
    "3DBox_CT_0566": Published((287, 512, 512), 6, (499.2, 343.2, 331.9, 142.1, 73.6)),
    "3DBox_CT_0888": Published((237, 512, 512), 6, (114.1, 97.4, 94.1, 51.0, 25.1)),
    "3DBox_CT_0860": Published((246, 512, 512), 1, (17.7, 15.9, 14.2, 12.4, 6.2)),
    "3DBox_MR_0621": Published((115, 400, 400), 6, (630.2, 166.8, 145.0, 51.5, 25.8)),
    "3DBox_MR_0121": Published((64, 290, 320), 6, (119.4, 94.7, 90.7, 31.4, 16.2)),
    "3DBox_MR_0179": Published((84, 512, 512), 1, (17.7, 14.7, 13.3, 11.9, 5.4)),
    "3DBox_PET_0001": Published((264, 200, 200), 1, (31.9, 9.9, 8.6, 7.3, None)),
    "2DBox_US_0525": Published((256, 256), 1, (1.8, 1.7, 1.6, 0.7, None)),
    "2DBox_X-Ray_0053": Published((320, 640), 34, (9.8, 9.3, 9.8, 1.8, None)),
    "2DBox_Dermoscopy_0003": Published((3024, 4032), 1, (7.9, 8.4, 7.9, 1.1, None)),
    "2DBox_Endoscopy_0086": Published((480, 560), 1, (6.1, 2.7, 2.6, 0.6, None)),
    "2DBox_Fundus_0003": Published((2048, 2048), 1, (2.6, 4.2, 4.0, 0.7, None)),
    "2DBox_Microscope_0008": Published((1536, 2040), 19, (19.5, 18.1, 18.0, 1.6, None)),
    "2DBox_Microscope_0016": Published((1920, 2560), 241, (257.5, 253.1, 267.1, 14.0, None)),
}


def published_name(file: str) -> str | None:
    """Return the case of the table that a file is or replaces; None for other files."""
    name = file.removesuffix(".npz").removesuffix(MADE)
    return name if name in TABLE_5 else None
