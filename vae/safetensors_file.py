"""Reading safetensors files by range: the header first, checked, then only the tensors wanted.

A file is 8 bytes n (little-endian), n bytes of JSON (name → dtype, shape and the tensor's place in
what follows), and the elements of all tensors, one after the other without gaps.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

HEADER_LIMIT = 100_000_000
"""Bytes of JSON that the format allows."""

PIECE_BYTES = 16 * 2**20
"""Bytes of one read at the most. Tensors that lie side by side share reads."""

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The format's names of dtypes."""

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model it is loaded into."""


class BinaryFile(Protocol):
    """A seekable binary file: of a disk, of object storage, or in memory."""

    def read(self, count: int, /) -> bytes:
        """Up to ``count`` bytes; none at the end."""
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move; the new position."""
        ...


Readable = str | Path | BinaryFile
"""What a checkpoint is read from: a path, or an open file, which stays open."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as the header describes it; its bytes are ``[start, end)`` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """An open file whose header was read and checked; use :func:`open_safetensors`.

    Attributes:
        name: what messages call it.
        tensors: name → place of every tensor, in the order of the file.
    """

    def __init__(self, file: BinaryFile, name: str) -> None:
        self.name = name
        self._file = file
        self.tensors = _read_header(file, name)

    @property
    def shapes(self) -> Shapes:
        """Name → shape of every tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """The named tensors on the CPU, as stored, in the given order, each when it is asked for.

        Memory holds one tensor and one piece of the file. Nothing between the tensors is read.

        Raises:
            CheckpointError: the file ends early.
        """
        wanted = [(name, self.tensors[name]) for name in names]
        stream: _Stream | None = None
        for index, (name, stored) in enumerate(wanted):
            if stream is None or stream.position != stored.start:
                stream = _Stream(self._file, stored.start, _end_of_run(wanted[index:]), self.name)
            tensor = torch.empty(stored.shape, dtype=stored.dtype, device="cpu")
            stream.fill(_bytes_of(tensor))
            yield name, tensor

    def copy(self, names: Iterable[str], target: BinaryIO) -> None:
        """Write the named tensors, in the order of this file, as a file of their own.

        Raises:
            CheckpointError: the file ends early.
        """
        chosen = set(names)
        wanted = [name for name in self.tensors if name in chosen]
        header, position = {}, 0
        for name in wanted:
            stored = self.tensors[name]
            end = position + stored.end - stored.start
            dtype = _DTYPE_NAMES[stored.dtype]
            header[name] = {"dtype": dtype, "shape": stored.shape, "data_offsets": [position, end]}
            position = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # aligns what follows
        target.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in self.read(wanted):
            target.write(_bytes_of(tensor))


@contextlib.contextmanager
def open_safetensors(source: Readable) -> Iterator[SafetensorsFile]:
    """Open a safetensors file and read its header; nothing else is ever read, least of all pickles.

    Raises:
        CheckpointError: ``source`` is not a readable and complete safetensors file.
    """
    if not isinstance(source, str | Path):
        yield SafetensorsFile(source, str(getattr(source, "name", "The checkpoint")))
        return
    path = Path(source)
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"The checkpoint {path} {kind}; give the path of a file such as vae_v2.safetensors."
        )
    with path.open("rb") as file:
        yield SafetensorsFile(file, str(path))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor of the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


class _Stream:
    """Bytes of one range of a file, read in pieces as they are needed."""

    def __init__(self, file: BinaryFile, start: int, end: int, name: str) -> None:
        self.position = start
        self._file, self._end, self._name = file, end, name
        self._piece = memoryview(b"")

    def fill(self, target: memoryview) -> None:
        """Put the next bytes into ``target``, all of it."""
        filled = 0
        while filled < len(target):
            if not self._piece:
                self._piece = memoryview(self._next_piece())
            count = min(len(self._piece), len(target) - filled)
            target[filled : filled + count] = self._piece[:count]
            self._piece = self._piece[count:]
            self.position += count
            filled += count

    def _next_piece(self) -> bytes:
        self._file.seek(self.position)
        data = self._file.read(min(PIECE_BYTES, self._end - self.position))
        if not data:
            raise _unreadable(self._name, f"it ends at byte {self.position} of {self._end}")
        return data


def _end_of_run(wanted: list[tuple[str, StoredTensor]]) -> int:
    """Where the bytes end that lie side by side with those of the first tensor."""
    end = wanted[0][1].end
    for _, stored in wanted[1:]:
        if stored.start != end:
            break
        end = stored.end
    return end


def _read_header(file: BinaryFile, name: str) -> dict[str, StoredTensor]:
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(_read_exactly(file, 8, name), "little")
    if length > HEADER_LIMIT:
        raise _unreadable(name, f"a header of {length} bytes is above the limit of {HEADER_LIMIT}")
    if 8 + length > size:
        raise _unreadable(name, f"a header of {length} bytes in a file of {size}")
    text = _read_exactly(file, length, name)
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _unreadable(name, f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise _unreadable(name, "its header is no mapping")
    header.pop("__metadata__", None)
    found = {key: _parse_entry(key, entry, 8 + length, name) for key, entry in header.items()}
    tensors = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].end)))
    position = 8 + length
    for key, stored in tensors.items():
        if stored.start != position:
            raise _unreadable(
                name, f"{key!r} begins at byte {stored.start}, the tensor before ends at {position}"
            )
        position = stored.end
    if position != size:
        raise _unreadable(name, f"its tensors end at byte {position}, the file at {size}")
    return tensors


def _read_exactly(file: BinaryFile, count: int, name: str) -> bytes:
    data = b""
    while len(data) < count:
        more = file.read(count - len(data))
        if not more:
            raise _unreadable(name, f"it ends within its header, after {len(data)} bytes")
        data += more
    return data


def _parse_entry(key: str, entry: object, base: int, name: str) -> StoredTensor:
    """One tensor's description; ``base`` is where the tensors' bytes begin."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _unreadable(name, f"the header describes {key!r} by something else than its place")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise _unreadable(name, f"{key!r} has the unknown dtype {entry['dtype']!r:.40}")
    shape, offsets = _sizes(entry["shape"]), _sizes(entry["data_offsets"])
    if shape is None or offsets is None or len(offsets) != 2:
        raise _unreadable(name, f"{key!r} has a shape or a place that is no list of sizes")
    start, end = offsets
    if end - start != math.prod(shape) * dtype.itemsize:
        raise _unreadable(
            name, f"{key!r} has {end - start} bytes for {entry['dtype']} of shape {shape!s:.80}"
        )
    return StoredTensor(dtype, shape, base + start, base + end)


def _sizes(value: object) -> tuple[int, ...] | None:
    """Integers that are not negative, or None."""
    if not isinstance(value, list) or not all(type(item) is int and item >= 0 for item in value):
        return None
    return tuple(value)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _unreadable(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is not a complete safetensors file ({reason}). Pickled checkpoints (.pt, .pth, "
        ".ckpt, .bin) are never read, because they can run code: convert the file with "
        "safetensors.torch.save_file, or fetch vae_v2.safetensors anew."
    )
