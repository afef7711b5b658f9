"""Our reader, and raw reading of the same bytes."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import botocore.config
import botocore.session

from pipeline.bench.read_samples import sample_bytes
from pipeline.config import Config
from pipeline.reader.draw import Statistic
from pipeline.storage import Store, open_filesystem


def prepare(config: Config, batch_size: int, reads: int, *_: object) -> None:
    """Load code, make what is shared by readers, and connect, before anything is measured."""
    import torch

    torch.set_num_threads(1)
    next(iter(_dataset(config, batch_size, reads, "moments")))


def read_cache(
    config: Config, batch_size: int, reads: int, statistic: str, shuffle: bool = True
) -> int:
    """One epoch of all samples; how many there were."""
    dataset = _dataset(config, batch_size, reads, statistic, shuffle)
    return sum(len(batch["ids"]) for batch in dataset)


def _dataset(
    config: Config, batch_size: int, reads: int, statistic: str, shuffle: bool = True
) -> Any:
    from pipeline.reader.dataset import LatentDataset

    return LatentDataset(
        config.output.uri,
        batch_size=batch_size,
        statistic=cast(Statistic, statistic),
        shuffle=shuffle,
        reads=reads,
        prefetch=max(2, -(-reads // batch_size)),
        storage=config.storage,
    )


def raw_local(config: Config, batch_size: int, reads: int) -> int:
    """All shards from begin to end; how many samples they hold."""
    buffer = bytearray(batch_size * sample_bytes(config))
    total = 0
    for path in _shards(config):
        with Path(path).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total // sample_bytes(config)


def raw_s3(config: Config, batch_size: int, reads: int, shuffled: bool = False) -> int:
    """All shards by ranges of a statistic of a sample, ``reads`` at once; how many samples."""
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=config.storage.endpoint_url,
        region_name=config.storage.region,
        config=botocore.config.Config(max_pool_connections=reads),
    )
    step = sample_bytes(config) // 2
    filesystem, _ = open_filesystem(config.output.uri, config.storage)

    def get(part: tuple[str, int, int]) -> int:
        path, begin, end = part
        bucket, _, key = path.partition("/")
        wanted = f"bytes={begin}-{end - 1}"
        return len(client.get_object(Bucket=bucket, Key=key, Range=wanted)["Body"].read())

    parts = []
    for path in _shards(config):
        size = int(filesystem.size(path))
        parts += [(path, at, min(at + step, size)) for at in range(0, size, step)]
    if shuffled:
        random.Random(0).shuffle(parts)
    with ThreadPoolExecutor(reads) as pool:
        return sum(pool.map(get, parts)) // sample_bytes(config)


def _shards(config: Config) -> list[str]:
    store = Store(config.output.uri, config.storage)
    filesystem, root = open_filesystem(store.uri, config.storage)
    return sorted(filesystem.find(f"{root}/data"))


def forget(folder: Path) -> None:
    """Have the system drop all files below a folder from its page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
