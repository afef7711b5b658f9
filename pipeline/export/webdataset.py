"""WebDataset: uncompressed tar files, the files of one sample beside each other under one key.

The convention is that of https://github.com/webdataset/webdataset: the key is what stands before
the first dot. Here ``KEY.latents.npy`` (or ``KEY.mean.npy`` and ``KEY.logvar.npy``), ``KEY.txt``
(the caption) and ``KEY.json`` (``Sample.to_json``).
"""

import io
import tarfile
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.export.formats import Packed
from pipeline.export.sample import Sample


class WebDataset:
    """Tar files ``000000.tar``, ``000001.tar``, …"""

    def encode(self, sample: Sample) -> tuple[bytes, int]:
        """The members of a sample: headers, data, padding."""
        key = sample.identity.replace(":", "-")
        data = b"".join(
            [
                *(_member(f"{key}.{name}.npy", _npy(t)) for name, t in sample.tensors.items()),
                _member(f"{key}.txt", sample.caption.encode()),
                _member(f"{key}.json", sample.to_json().encode()),
            ]
        )
        return data, len(data)

    def pack(self, items: Sequence[bytes]) -> bytes:
        """Members, and the two empty blocks that end a tar file."""
        return b"".join([*items, bytes(2 * tarfile.BLOCKSIZE)])

    def name(self, number: int) -> str:
        """Six digits, as ``{000000..000123}.tar`` wants them."""
        return f"{number:06d}.tar"

    def index(self, shards: Sequence[Packed]) -> Mapping[str, bytes]:
        """None is needed."""
        return {}


def _npy(tensor: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, tensor, allow_pickle=False)
    return file.getvalue()


def _member(name: str, data: bytes) -> bytes:
    """A file as it stands in a tar file; the same bytes whoever writes it, and when."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(data), 0o644
    padding = bytes(-len(data) % tarfile.BLOCKSIZE)
    return header.tobuf(tarfile.GNU_FORMAT) + data + padding
