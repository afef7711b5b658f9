"""Other loaders, each through its own dataset and loader: WebDataset, MosaicML Streaming, litdata.

All give batches of both tensors; nothing is shuffled, and no worker process is started.
"""

import importlib.util
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.config import Config

_PACKAGES = {"webdataset": "webdataset", "mds": "streaming", "litdata": "litdata"}


def why_missing(name: str) -> str | None:
    """Why a loader cannot be measured; None if it can."""
    package = _PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed (pip install '.[bench]' in a venv of its own)"
    return None


def prepare_peer(name: str, folder: str, batch_size: int) -> None:
    """Load code and read the first batch, before anything is measured."""
    import torch

    torch.set_num_threads(1)
    next(iter(PEERS[name](folder, batch_size)))


def read_peer(name: str, folder: str, batch_size: int) -> int:
    """All samples; how many there were."""
    return sum(len(batch) for batch in PEERS[name](folder, batch_size))


def _webdataset(folder: str, batch_size: int) -> Any:
    import webdataset

    tars = sorted(str(path) for path in Path(folder).glob("*.tar"))
    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode()
    batches = dataset.to_tuple("mean.npy", "logvar.npy").batched(batch_size)
    for mean, _ in webdataset.WebLoader(batches, batch_size=None, num_workers=0):
        yield mean


def _mds(folder: str, batch_size: int) -> Any:
    from torch.utils.data import DataLoader

    tempfile.tempdir = str(Path(folder).parent)  # its locks stay there otherwise
    streaming = _streaming()
    streaming.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=folder, batch_size=batch_size, shuffle=False)
    for batch in DataLoader(dataset, batch_size=batch_size, num_workers=0):
        yield batch["mean"]


def _streaming() -> Any:
    """``streaming.base`` without the package's top level, which loads models of all kinds."""
    if "streaming" not in sys.modules:
        spec = importlib.util.find_spec("streaming")
        assert spec is not None
        package = types.ModuleType("streaming")
        package.__path__, package.__spec__ = list(spec.submodule_search_locations or ()), spec
        sys.modules["streaming"] = package
    return importlib.import_module("streaming.base")


def _litdata(folder: str, batch_size: int) -> Any:
    import litdata

    dataset = litdata.StreamingDataset(folder, shuffle=False)
    loader = litdata.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0)
    for batch in loader:
        yield batch["mean"]


PEERS: Mapping[str, Callable[[str, int], Any]] = MappingProxyType(
    {"webdataset": _webdataset, "mds": _mds, "litdata": _litdata}
)
"""Batches of each loader, by name: of one tensor, while the other is read too."""


def write_litdata(config: Config, folder: Path) -> str:
    """The samples as litdata writes them; the folder."""
    from litdata.streaming.writer import BinaryWriter

    from pipeline.reader.dataset import LatentDataset

    folder.mkdir(parents=True)
    dataset = LatentDataset(
        config.output.uri, statistic="moments", shuffle=False, storage=config.storage
    )
    writer = BinaryWriter(str(folder), chunk_bytes=config.output.shard_bytes)
    for number, batch in enumerate(dataset):
        writer[number] = {name: batch[name][0].clone() for name in ("mean", "logvar")}
    writer.done()
    writer.merge()
    return str(folder)
