"""The shards that are there against those that the tables name, both ways."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow.compute as pc

from pipeline.maintain.files import list_files
from pipeline.manifest import Manifest
from pipeline.ranges import spans

_SHARD = re.compile(r"data/h\d+w\d+/[0-9a-f]{32}\.(safetensors|parquet)")
_TEMPORARY = re.compile(r"data/(.*/)?\.[^/]+\.[0-9a-f]{12}\.tmp")


@dataclass(frozen=True)
class Files:
    """What lies below ``data``: sizes of shards by path.

    ``foreign`` are files that are named like none of ours; ``temporary`` what a killed writer left.
    """

    shards: Mapping[str, int]
    foreign: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)

    @classmethod
    def listed(cls, manifest: Manifest) -> "Files":
        """List them."""
        files = cls({})
        shards: dict[str, int] = {}
        for file in list_files(manifest.store, "data"):
            if _SHARD.fullmatch(file.path):
                shards[file.path] = file.size
            elif _TEMPORARY.fullmatch(file.path):
                files.temporary.append(file.path)
            else:
                files.foreign.append(file.path)
        return cls(shards, files.foreign, files.temporary)

    def elsewhere(self, path: str) -> str | None:
        """Where a shard of this name lies in another folder."""
        return self._by_name.get(path.rsplit("/", 1)[-1])

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return {path.rsplit("/", 1)[-1]: path for path in self.shards}


def orphans(manifest: Manifest, files: Files, named: Collection[str]) -> list[str]:
    """Shards that no row names in any state that was published, nor in the ``named`` ones.

    One that lies in another folder than it is named in is misplaced, not orphaned. States are read
    from the newest on, for as long as there is a shard to explain.
    """
    misplaced = {files.elsewhere(path) for path in set(named).difference(files.shards)}
    left = set(files.shards).difference(named, misplaced)
    read: set[int] = set()
    for number in reversed(manifest.snapshot_numbers()):
        if not left:
            break
        version = manifest.snapshot(number).tables.get("samples")
        if version is None or version in read:
            continue
        read.add(version)
        with manifest.by_range("samples", ("source_id", "shard"), version) as rows:
            for span in spans(rows.num_rows):
                left.difference_update(pc.unique(rows.read(span)["shard"]).to_pylist())
    return sorted(left)
