"""Caches for the tests of maintenance: the real write stage and committer, invented latents."""

import datetime
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.buckets import Bucket
from pipeline.cache import LatentCache
from pipeline.commit import Committer
from pipeline.config import StorageConfig
from pipeline.coverage import Coverage, committed_coverage
from pipeline.identity import stable_hash
from pipeline.live import newest_by_source
from pipeline.maintain.vacuum import Keep
from pipeline.manifest import Manifest
from pipeline.packs import Event, PackMeta, facts_to_json, to_batch
from pipeline.planned import PlannedSources
from pipeline.reader.build import publish_index
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.storage import Store
from tests.pipeline.helpers import (
    LOCAL,
    SMALL,
    WIDE,
    make_config,
    make_contract,
    make_facts,
    make_recipe,
    make_segment,
    make_source,
)

CONTRACT = make_contract()
FACTS = facts_to_json(make_facts())
SEGMENT = 2
"""Windows of a segment."""
DAY = datetime.timedelta(hours=24)
LAST = Keep(snapshots=1)


def nothing() -> None:
    """A guard of who holds no lease."""


def latents(sample: str, bucket: Bucket, frames: int) -> dict[str, np.ndarray]:
    """The tensors of a sample: they follow from its id."""
    shape = (3 if frames == 17 else 1, 2, bucket.height // 16, bucket.width // 16)
    rng = np.random.default_rng(int(sample[:12], 16))
    return {name: rng.normal(size=shape).astype(np.float16) for name in CONTRACT.tensors}


class Builder:
    """Grows a cache by runs that each commit once."""

    def __init__(
        self, uri: Path | str, form: str = "safetensors", storage: StorageConfig = LOCAL
    ) -> None:
        self.uri = str(uri)
        self.storage = storage
        self.manifest = Manifest(Store(self.uri, storage))
        config = make_config(output__uri=self.uri, output__format=form)
        config = config.model_copy(update={"storage": storage})
        self._write = make_write_fn(config, make_recipe())
        self._runs = 0
        if self.manifest.contract() is None:
            self.manifest.write_contract(CONTRACT)

    def generation(self, source: str, version: int) -> str:
        return stable_hash(["generation", source, version])

    def encode(
        self,
        works: Mapping[tuple[str, int], int] | Iterable[tuple[str, int]],
        *,
        buckets: Iterable[Bucket] = (SMALL,),
        stop: int | None = None,
        commit: bool = True,
        frames: int = 17,
        segment: int = SEGMENT,
    ) -> set[str]:
        """One run brings sources, as (name, version), to their windows (default: 3).

        What is committed already is not written again. With ``stop``, it ends before that window,
        and the sources stay unfinished. Returns the shards written.
        """
        wanted = dict(works) if isinstance(works, Mapping) else dict.fromkeys(works, 3)
        chosen = tuple(buckets)
        self._runs += 1
        run = f"run-{self._runs:04}"
        revisions = self._revisions()
        generations = {self.generation(*work): work for work in wanted}
        covered = committed_coverage(self.manifest, generations)
        plans = {
            source: make_source(
                source,
                generation=self.generation(source, version),
                version=f"v{version}",
                buckets=chosen,
                revision=revisions.get(source, 0) + 1,
                coverage=covered.get(self.generation(source, version), Coverage()),
            )
            for source, version in wanted
        }
        planned = PlannedSources.of(plans.values())
        committer = Committer(self.manifest, run, CONTRACT.contract_id, planned, 1e9)
        committer.settle()
        shards: set[str] = set()
        for bucket in chosen:
            written = self._written(wanted, plans, bucket, stop, frames, segment)
            shards |= written.shards.keys()
            committer.add(written)
        if commit:
            committer.commit()
        return shards

    def _written(self, wanted, plans, bucket, stop, frames, segment) -> Written:
        segments, tensors, events = [], [], []
        for (source, version), windows in wanted.items():
            plan = plans[source]
            for first, end in plan.coverage.missing((bucket,)):
                last = min(windows, windows if stop is None else stop)
                for at in range(first, min(last, end or last), segment):
                    count = min(segment, min(last, end or last) - at)
                    info = make_segment(source, at, count, bucket, frames)
                    ids = [
                        stable_hash([source, version, bucket.name, at + n]) for n in range(count)
                    ]
                    ends = at + count == windows
                    segments.append(
                        replace(
                            info,
                            generation=plan.generation,
                            sample_ids=ids,
                            last=ends,
                            frames_actual=windows * 17 if ends else None,
                        )
                    )
                    tensors += [latents(i, bucket, frames) for i in ids]
            if stop is None:
                facts = (windows, windows * 17, FACTS)
                events.append(Event("end", source, plan.generation, *facts))
        meta = PackMeta("pack", tuple(segments), tuple(events))
        stacked = {
            name: np.stack([t[name] for t in tensors]) if tensors else np.empty(0)
            for name in CONTRACT.tensors
        }
        return Written.from_json(str(self._write(to_batch(meta, stacked))[RESULT][0]))

    def _revisions(self) -> dict[str, int]:
        newest = newest_by_source(self.manifest.read("sources", columns=["source_id", "revision"]))
        return dict(
            zip(newest["source_id"].to_pylist(), newest["revision"].to_pylist(), strict=True)
        )

    def remove(self, *sources: str) -> None:
        """Bury sources that are there."""
        self._runs += 1
        newest = newest_by_source(self.manifest.read("sources"))
        rows = [
            n
            for n, row in enumerate(newest.select(["source_id", "status"]).to_pylist())
            if row["source_id"] in sources and row["status"] != "removed"
        ]
        run = f"run-{self._runs:04}"
        committer = Committer(self.manifest, run, CONTRACT.contract_id, PlannedSources(), 1e9)
        committer.bury(newest.take(rows))

    def publish(self) -> int:
        return self.manifest.publish(f"run-{self._runs:04}", CONTRACT).number

    def open(self, snapshot: int | None = None) -> LatentCache:
        return LatentCache.open(self.uri, snapshot, self.storage)

    # ---- local caches

    def shards(self) -> set[str]:
        root = Path(self.uri)
        return {str(p.relative_to(root)) for p in root.glob("data/*/*") if p.name[0] != "."}

    def age(self, paths: Iterable[str] | None = None, hours: float = 48) -> None:
        """Make files look older (default: all)."""
        then = time.time() - hours * 3600
        root = Path(self.uri)
        chosen = [root / p for p in paths] if paths is not None else root.rglob("*")
        for path in chosen:
            os.utime(path, (then, then))

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Every file's bytes and time of modification; leases left out."""
        root = Path(self.uri)
        return {
            str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in root.rglob("*")
            if path.is_file() and "leases" not in path.relative_to(root).parts
        }


def check_readable(cache: LatentCache) -> dict[str, dict[str, object]]:
    """Read every sample and compare with what was encoded; rows by sample id."""
    rows = {row["sample_id"]: row for row in cache.samples().to_pylist()}
    for identity, row in rows.items():
        wanted = latents(identity, Bucket.parse(row["bucket"]), row["frames"])
        found = cache.read(identity)
        assert found.keys() == wanted.keys()
        for name, tensor in found.items():
            np.testing.assert_array_equal(tensor.numpy(), wanted[name])
    return rows


def indexed(folder: Path, windows: Mapping[str, int]) -> Builder:
    """A published cache in ``folder``, with its index: sources by name, with so many windows."""
    cache = Builder(folder)
    works = {(stable_hash(name), 1): count for name, count in windows.items()}
    cache.encode(works, buckets=(SMALL, WIDE))
    cache.publish()
    publish_index(cache.manifest, cache.manifest.snapshot())
    return cache
