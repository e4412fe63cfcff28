"""Files in the npz format, whole or broken, made byte by byte."""

import io
import struct
import zipfile

import numpy as np

IMAGE, VOLUME = "2DBox_US_1.npz", "3DBox_MR_1.npz"


REFUSAL_BYTES = 16 << 20  # a refusal needs far less; the arrays it refuses are gigabytes


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_with(header, version=(1, 0), data=b"\0" * 64):
    """An npy file with any text as its header."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header.encode("latin1") + data


def header_of(shape, descr="'|u1'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def zip_file(folder, members, name=IMAGE, method=zipfile.ZIP_DEFLATED):
    path = folder / name
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def members_with(imgs):
    return {"imgs.npy": imgs, "boxes.npy": npy(np.array([[0, 0, 1, 1]]))}


def lock(path):
    """Say of every member of a zip file that it is encrypted."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1  # the flag of encryption
            at = content.find(signature, at + 4)
    path.write_bytes(content)
