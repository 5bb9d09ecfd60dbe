"""A safetensors file that notices when a bit of it has changed.

safetensors itself compares sizes only: a flipped bit in a tensor's bytes goes unnoticed, and so may
one in the metadata. Here the metadata's entry `checksum` is the SHA-256, in hexadecimal, of the
whole file with those 64 digits replaced by zeros. So it covers every byte there is, names and
shapes included, and any safetensors reader still opens the file.

Why SHA-256: it costs some 5 ms for 8 MB, once a minute, it is in every standard library, and no two
files that differ by whatever accident have the same one. It proves nothing about who wrote a file.
"""

import hashlib
import json
import re

from safetensors.torch import load, save
from torch import Tensor

CHECKSUM = "checksum"
# Names, shapes and metadata of the largest network take some 100 kB.
MAX_HEADER = 2**20
_LENGTH = 8  # bytes, little-endian: the size of the header that follows
_BLANK = b"0" * 64
# Inside another string the quotes would be escaped, and a tensor of this name is no string.
_ENTRY = re.compile(rb'"checksum"\s*:\s*"([0-9a-f]{64})"')


class DamagedError(Exception):
    """Bytes that are no such file, or no longer; the message says what is wrong."""


def seal(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return the bytes of a file.

    Args:
        tensors: by name.
        metadata: more to keep; `checksum` is added.

    Raises:
        ValueError: if the metadata are too large for a file that can be read again.
    """
    values = {name: tensor.contiguous() for name, tensor in tensors.items()}
    data = save(values, metadata | {CHECKSUM: _BLANK.decode()})
    header = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    entry = _ENTRY.search(data, _LENGTH, header)
    if header > MAX_HEADER or entry is None:
        raise ValueError(f"names and metadata take {header:,} bytes, over {MAX_HEADER:,}")
    digest = hashlib.sha256(data).hexdigest().encode()
    return b"".join([data[: entry.start(1)], digest, data[entry.end(1) :]])


def unseal(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file, `checksum` among them if there is one.

    Nothing is allocated beyond a small multiple of what the bytes really hold.

    Raises:
        DamagedError: if the checksum does not fit, or this is no safetensors file.
    """
    try:
        metadata = _metadata(data)
        if CHECKSUM in metadata:
            _verify(data)
        return load(data), metadata
    except DamagedError:
        raise
    except Exception as error:  # safetensors and torch have many ways to dislike a damaged file
        raise DamagedError(f"damaged ({type(error).__name__}: {error})") from error


def _metadata(data: bytes) -> dict[str, str]:
    header = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or header > len(data):
        raise DamagedError("damaged, or not a safetensors file: its header is cut off")
    if header > MAX_HEADER:
        raise DamagedError(f"its header of {header:,} bytes is over {MAX_HEADER:,}")
    # A code that is no UTF-8 and brackets without end are errors too.
    fields = json.loads(data[_LENGTH:header].decode())
    metadata = fields.get("__metadata__", {}) if isinstance(fields, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DamagedError("damaged: its metadata are not texts by name")
    return metadata


def _verify(data: bytes) -> None:
    entry = _ENTRY.search(data, _LENGTH, _LENGTH + int.from_bytes(data[:_LENGTH], "little"))
    if entry is None:
        raise DamagedError("damaged: its checksum is not 64 digits")
    digest = hashlib.sha256(data[: entry.start(1)])
    digest.update(_BLANK)
    digest.update(memoryview(data)[entry.end(1) :])
    if digest.hexdigest().encode() != entry[1]:
        raise DamagedError("damaged: its checksum does not fit")
