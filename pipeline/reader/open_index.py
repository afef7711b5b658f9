"""Opening the index of a snapshot: mapped where it lies, fetched once a machine, or built here."""

import warnings
from pathlib import Path

from pipeline.explain import explained
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest, Snapshot
from pipeline.reader.build import build_index
from pipeline.reader.index import INDEX_FORMAT, SegmentIndex, index_paths
from pipeline.reader.local import LocalFolder

_NAMES = ("segments", "sources")


def snapshot_key(manifest: Manifest, snapshot: Snapshot) -> str:
    """A hash that names this snapshot of this cache among all."""
    return stable_hash([INDEX_FORMAT, manifest.store.uri, snapshot.to_json()])


def open_index(manifest: Manifest, snapshot: Snapshot, local: LocalFolder) -> SegmentIndex:
    """The index of a snapshot.

    That of a local cache is mapped where it lies; from S3 it is downloaded once a machine. A
    snapshot without one (older, or its run was killed) gets one in the local folder, from the
    tables. Raises ``UserError``.
    """
    paths = index_paths(snapshot.number)
    if manifest.store.local:
        found = [Path(manifest.store.uri) / path for path in paths]
        if all(path.exists() for path in found):
            return SegmentIndex.open(*found)

    def make(folder: Path) -> None:
        if manifest.store.local or not _download(manifest, paths, folder):
            warnings.warn(
                f"{manifest.store.uri}: snapshot {snapshot.number} has no index, and one is built "
                "on this machine; jobs/maintain_cache.py index puts one beside it",
                stacklevel=2,
            )
            build_index(manifest, snapshot, folder)

    entry = local.entry(f"index-{snapshot_key(manifest, snapshot)}", make)
    return SegmentIndex.open(*(entry / name for name in _NAMES))


def _download(manifest: Manifest, paths: tuple[str, str], folder: Path) -> bool:
    with explained(manifest.store.uri, "read"):
        try:
            for path, name in zip(paths, _NAMES, strict=True):
                manifest.store.get(path, folder / name)
        except FileNotFoundError:
            return False
    return True
