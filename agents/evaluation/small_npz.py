"""Reading `.npz` files of strangers: nothing is unpacked before its size and type are known.

numpy's own reader allocates whatever an array's header claims before it looks at the data, and
Python's reader of archives lists any number of members.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.system.files import read_bounded

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_END = b"PK\x05\x06"  # the record at an archive's end
_END_SIZE = 22
_LARGE_END = b"PK\x06\x07"  # before it, in archives of 4 GiB
_LARGE_END_SIZE = 20


def read_arrays(path: Path, limits: Mapping[str, int], most: int) -> dict[str, npt.NDArray[Any]]:
    """Read some of a file's arrays.

    Args:
        path: the file.
        limits: name -> bytes that this array may take in memory.
        most: bytes that the file itself may have.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it, or an array, is too large, or holds objects, which would have to be
            unpickled.
        KeyError: if an array is not there.
        Exception: zlib, zipfile and numpy have more ways to dislike a damaged file.
    """
    data = read_bounded(path, most)
    before_end = len(data) - _END_SIZE
    end = data[max(before_end, 0) :]
    listing = int.from_bytes(end[12:16], "little")
    is_large = data[: max(before_end, 0)][-_LARGE_END_SIZE:].startswith(_LARGE_END)
    if not end.startswith(_END) or is_large or listing > 2**12:
        raise ValueError("damaged, or not an .npz file of a few arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: _read_array(archive, name, limit) for name, limit in limits.items()}


def _read_array(archive: zipfile.ZipFile, name: str, limit: int) -> npt.NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    # The others may ask for gigabytes to unpack into.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its {name} are packed in a way that numpy never does")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"its {name} are of format {version}")
        shape, _, dtype = _HEADERS[version](file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError(f"its {name} are {dtype} of shape {shape}")
        if size > limit:
            raise ValueError(f"its {name} are too large: {size:,} bytes, {limit:,} is the most")
        data = file.read(size + 1)
    if len(data) != size:
        raise ValueError(f"its {name} are cut off, or followed by something else")
    return np.frombuffer(data, dtype).reshape(shape)
