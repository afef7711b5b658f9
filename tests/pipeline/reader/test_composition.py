"""Clips of the index and the selections, against a model that looks at windows one by one."""

import tempfile
from collections import Counter
from math import ceil, floor
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.identity import stable_hash
from pipeline.manifest import Manifest, Snapshot
from pipeline.ranges import RangedRows
from pipeline.reader.batches import BatchMaker, Making
from pipeline.reader.build import build_index
from pipeline.reader.clips import UNIT
from pipeline.reader.index import SegmentIndex
from pipeline.reader.local import LocalFolder
from pipeline.reader.view import Choice, open_view
from pipeline.schema import TABLES
from pipeline.storage import Store
from tests.pipeline.helpers import LOCAL, SMALL, WIDE, make_contract

CONTRACT = make_contract()
SNAPSHOT = Snapshot(1, "run", "2026-01-01T00:00:00+00:00", CONTRACT, {"samples": 0, "sources": 0})
MAKING = Making("mean", 0, None, None, False, ())


class Tables(Manifest):
    """A manifest whose tables are in memory."""

    def __init__(self, folder: Path, samples: list[dict], sources: list[dict]) -> None:
        super().__init__(Store(str(folder), LOCAL))
        self._rows = {"samples": samples, "sources": sources}

    def by_range(self, table, columns, version=None, where=None) -> RangedRows:
        rows = RangedRows(self.empty(table).select(list(columns)).schema)
        rows.add(pa.Table.from_pylist(self._rows[table], TABLES[table]))
        return rows


def shard(bucket, number: int) -> str:
    return f"data/{bucket.name}/{stable_hash(['shard', number])}.safetensors"


@st.composite
def windows_of_a_source(draw):
    """Windows of a source at a bucket, in order: (number, first frame, real frames)."""
    found, number, frame = [], 0, draw(st.integers(0, 3))
    for _ in range(draw(st.integers(0, 9))):
        valid = draw(st.sampled_from([17] * 6 + [1, 9, 16]))
        found.append((number, frame, valid))
        number += draw(st.sampled_from([1] * 6 + [2]))
        frame += draw(st.sampled_from([17] * 6 + [5, 18, 34]))
    return found


@st.composite
def caches(draw):
    """Rows of ``samples``; for each (source, bucket, frames) its windows with all their places."""
    rows, held, free = [], {}, {}
    for name in range(draw(st.integers(1, 4))):
        source = stable_hash(name)
        fps = draw(st.sampled_from([8.0, 23.976]))
        for bucket in (SMALL, WIDE):
            for frames in (17, 1):
                windows = draw(windows_of_a_source())
                if frames == 1:
                    windows = [(0, 0, 1)] * draw(st.integers(0, 1))
                places: dict[int, list[tuple[str, int]]] = {n: [] for n, _, _ in windows}
                for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):  # once, or twice
                    at = 0
                    while at < len(windows):
                        count = draw(st.integers(1, 5))
                        part = windows[at : at + count]
                        while part[-1][0] - part[0][0] >= len(part):  # over a missing window
                            part = part[:-1]
                        where = draw(st.integers(0, 2)), bucket
                        row = free.get(where, 0)
                        free[where] = row + len(part)
                        path = shard(bucket, where[0])
                        for n, (number, _, _) in enumerate(part):
                            places[number].append((path, row + n))
                        rows.append(segment(source, bucket, frames, fps, part, path, row))
                        at += len(part)
                held[source, bucket, frames] = [
                    (first, valid, min(places[number])) for number, first, valid in windows
                ]
    order = draw(st.permutations(range(len(rows))))
    return [rows[n] for n in order], held


def segment(source, bucket, frames, fps, part, path, row) -> dict:
    return {
        "source_id": source,
        "generation": f"{source}-g",
        "bucket": bucket.name,
        "height": bucket.height,
        "width": bucket.width,
        "first_window": part[0][0],
        "windows": len(part),
        "frames": frames,
        "shard": path,
        "first_row": row,
        "first_frames": [first for _, first, _ in part],
        "valid_frames": [valid for _, _, valid in part],
        "fps": fps,
    }


def expected(windows, frames: int, k: int, stride: int, padded: bool) -> list[tuple]:
    """The clips of the windows of one source at one bucket: (first frame, real frames, places)."""
    runs: list[list] = [[]]
    for window in windows:
        before = runs[-1][-1] if runs[-1] else None
        follows = before and before[1] == frames and before[0] + 17 == window[0]
        if not follows:
            runs.append([])
        if window[1] == frames or padded:
            runs[-1].append(window)
        else:
            runs.append([])
    return [
        (
            clip[0][0],
            frames * k - (frames - clip[-1][1]),
            tuple(place for _, _, place in clip),
        )
        for run in runs
        for at in range(0, len(run) - k + 1, stride)
        for clip in [run[at : at + k]]
    ]


def opened(folder: Path, rows: list[dict], choice: Choice):
    """A view over rows; the view's own index is that which a publication would write."""
    sources = [
        {
            "source_id": source,
            "generation": f"{source}-g",
            "revision": 1,
            "run_id": "run",
            "contract_id": CONTRACT.contract_id,
            "status": "ok",
        }
        for source in sorted({row["source_id"] for row in rows})
    ]
    manifest = Tables(folder, rows, sources)
    (folder / "index").mkdir(parents=True)
    segments, ids = build_index(manifest, SNAPSHOT, folder / "index")
    segments.rename(folder / "index" / "1.segments")
    ids.rename(folder / "index" / "1.sources")
    return open_view(manifest, SNAPSHOT, LocalFolder(folder / "local"), choice)


def found_clips(view, phase: int):
    """Every clip of each group by the reader, as (source, bucket, frames, clip of the model)."""
    maker, found = BatchMaker(view, MAKING), Counter()
    for number, chosen in enumerate(view.groups):
        clips = maker.find(number, np.arange(len(view.selections[number])), phase)
        for clip in clips:
            places = tuple((path, row + n) for path, row, count in clip.rows for n in range(count))
            key = view.index.source_id(clip.source), chosen.group.bucket, chosen.group.frames
            found[(*key, (clip.first_frame, clip.valid_frames, places))] += 1
    return found


@settings(max_examples=80)
@given(
    caches(),
    st.integers(1, 4),
    st.sampled_from([None, 1, 2, 3]),
    st.booleans(),
    st.integers(0, UNIT - 1),
)
def test_clips_are_those_of_the_model(cache, k, stride, padded, phase):
    rows, held = cache
    with tempfile.TemporaryDirectory() as name:
        frames = (17 * k, 1)
        view = opened(Path(name) / "c", rows, Choice(frames, stride, padded))
        wanted = Counter(
            (*key, clip)
            for key, windows in held.items()
            for clip in expected(
                windows, key[2], *((k, stride or k) if key[2] == 17 else (1, stride or 1)), padded
            )
        )
        assert found_clips(view, phase) == wanted
        assert all(count == 1 for count in wanted.values())


@settings(max_examples=40)
@given(caches(), st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.75, 3.0]), st.integers(0, UNIT - 1))
def test_weights_say_how_often_a_clip_stands(cache, weight, phase):
    rows, held = cache
    with tempfile.TemporaryDirectory() as name:
        small = {SMALL.name: weight} if any(key[1] == SMALL for key, w in held.items() if w) else {}
        choice = Choice((17,), None, False, weights=small)
        found = found_clips(opened(Path(name) / "c", rows, choice), phase)
        for bucket, times in ((SMALL, weight), (WIDE, 1.0)):
            clips = [
                (*key, clip)
                for key, windows in held.items()
                if key[1:] == (bucket, 17)
                for clip in expected(windows, 17, 1, 1, False)
            ]
            counts = [found[clip] for clip in clips]
            assert sum(counts) == floor(len(clips) * times)
            assert all(count <= ceil(times) for count in counts)
            # The sum is rounded down: that may cost one clip one time.
            assert sum(count < floor(times) for count in counts) <= 1
            assert all(count >= floor(times) - 1 for count in counts)


@settings(max_examples=40)
@given(caches())
def test_the_index_holds_every_window_once(cache):
    """What records say of their windows, one by one, is what was written."""
    rows, held = cache
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "c"
        opened(folder, rows, Choice((17,)))
        index = SegmentIndex.open(folder / "index" / "1.segments", folder / "index" / "1.sources")
        found: dict = {}
        for group in index.groups:
            for record in index.records[group.begin : group.stop]:
                source = index.source_id(int(record["source"]))
                path = index.shard_path(group, int(record["shard"]))
                frame = int(record["first_frame"])
                for n in range(int(record["windows"])):
                    last = n == int(record["windows"]) - 1
                    if n:
                        frame += int(record["last_step" if last else "step"])
                    valid = int(record["last_valid"]) if last else group.frames
                    place = path, int(record["first_row"]) + n
                    key = source, group.bucket, group.frames
                    found.setdefault(key, []).append((frame, valid, place))
        assert found == {key: windows for key, windows in held.items() if windows}
