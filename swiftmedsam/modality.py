"""The table of modalities, and the pattern of the names of challenge files."""

import re
from dataclasses import dataclass

# 2DBox_<modality>_<rest>.npz; the rest may be missing. Only such files are segmented and scored.
CASE_NAME = re.compile(r"(?P<dim>[23])DBox_(?P<modality>[^_]*)(?:_(?P<rest>.*))?\.npz", re.DOTALL)


@dataclass(frozen=True)
class Modality:
    """One row of the table: a name, and its other names in file names and headers."""

    name: str
    aliases: tuple[str, ...] = ()


# In the order of the paper's Table 4. Aliases of two capital letters, and OPT and DMS, are DICOM's
# codes (PS3.3 C.7.3.1.1.1).
MODALITIES = (
    Modality("CT"),
    Modality("MR", ("MRI",)),
    Modality("PET", ("PT",)),
    Modality("US", ("Ultrasound",)),
    Modality("X-Ray", ("XRay", "CXR", "XR", "DX", "CR", "XA", "RF", "PX", "IO")),
    Modality("Dermoscopy", ("Derm", "DMS")),
    Modality("Endoscopy", ("Endo", "ES")),
    Modality("Fundus", ("OP",)),
    Modality("Microscopy", ("Microscope", "Micro", "SM", "GM")),
    Modality("Mammography", ("Mamm", "Mammo", "MG")),
    Modality("OCT", ("OPT",)),
)
CT = MODALITIES[0]
UNKNOWN = Modality("unknown")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_NAME = {_plain(n): m for m in MODALITIES for n in (m.name, *m.aliases)}


def find_modality(name: str) -> Modality:
    """The modality of that name or alias; `UNKNOWN` for any other.

    Upper and lower case are the same. Only letters and digits count.
    """
    return _BY_NAME.get(_plain(name), UNKNOWN)


def parse_modality(name: str) -> Modality:
    """The modality of that name or alias.

    Raises:
        ValueError: no modality has it.
    """
    if (modality := find_modality(name)) is UNKNOWN:
        names = ", ".join(one.name for one in MODALITIES)
        raise ValueError(f"expected one of {names}, got '{name}'")
    return modality
