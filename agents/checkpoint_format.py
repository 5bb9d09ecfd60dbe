"""The bytes of a checkpoint: a safetensors file that detects damage.

Loading a file never runs code. A checksum covers names, types, shapes, values and metadata, since
safetensors itself checks only sizes. The checksum proves nothing about who wrote a file.
"""

import hashlib
import json
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

FORMAT_VERSION = 3
# Format 1 has no checksum; that of format 2 covers the file's bytes.
READABLE = ("1", "2", "3")
# Names, shapes and metadata of the largest network take some 100 kB.
MAX_HEADER = 2**20


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file whose metadata include a `checksum`.

    Raises:
        ValueError: If the header is too large to be read again.
    """
    values = {name: tensor.contiguous() for name, tensor in tensors.items()}
    checksum = _content_digest(values, metadata)
    data = safetensors.torch.save(values, {**metadata, "checksum": checksum})
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER:
        raise ValueError(f"names and metadata take {size:,} bytes, over {MAX_HEADER:,}")
    return data


def deserialize(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    At most a small multiple of the file's size is allocated.

    Raises:
        ValueError: If this is not a safetensors file of a known format, or the checksum is wrong.
    """
    try:
        metadata = _read_metadata(data)
        tensors = safetensors.torch.load(data)
    except Exception as error:  # safetensors and torch raise many types for a damaged file
        raise ValueError(
            f"damaged, or not safetensors ({type(error).__name__}: {error})"
        ) from error
    version = metadata.get("format")
    if version not in READABLE:
        raise ValueError(f"format {version!r}, not {' or '.join(READABLE)}")
    checksum = metadata.pop("checksum", None)
    if version == "1" and checksum is None:
        return tensors, metadata
    if checksum is None:
        raise ValueError(f"damaged: format {version} has a checksum, this file has none")
    if version == "2":
        blank = data.replace(f'"{checksum}"'.encode(), b'"' + b"0" * 64 + b'"', 1)
        digest = hashlib.sha256(blank).hexdigest()
    else:
        digest = _content_digest(tensors, metadata)
    if digest != checksum:
        raise ValueError("damaged: its checksum does not fit")
    return tensors, metadata


def _content_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of metadata, names, types, shapes and values, in the order of the names."""
    names = sorted(tensors)
    header = [sorted(metadata.items()), [_describe(name, tensors[name]) for name in names]]
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in names:
        values = tensors[name].detach().cpu().flatten().view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


def _describe(name: str, tensor: Tensor) -> list[object]:
    return [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def _read_metadata(data: bytes) -> dict[str, str]:
    """The metadata, which `safetensors.torch.load` leaves out."""
    size = int.from_bytes(data[:8], "little")
    if size > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"its header of {size:,} bytes is cut off, or over {MAX_HEADER:,}")
    metadata = json.loads(data[8 : 8 + size].decode()).get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not strings by name")
    return metadata
