"""The decode stage, with a fake decoder that yields what each test says."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import (
    SMALL,
    WIDE,
    make_config,
    make_facts,
    make_recipe,
    sample_row,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from meters import Remembering

from pipeline.buckets import fit
from pipeline.errors import Reason
from pipeline.identity import sample_id
from pipeline.known import KnownRun
from pipeline.metrics import SILENT
from pipeline.packs import FRAMES, Event, facts_to_json, rows
from pipeline.recipe import window_bytes
from pipeline.stages import decode as stage
from pipeline.stages.decode import UNIT, make_decode_fn
from pipeline.units import ClipTask, FileTask, Unit
from pipeline.video.clips import ClipEnd, ClipFailure, Segment

WINDOW = window_bytes(SMALL)


def clip(source="s", buckets=(SMALL,), **changes):
    fields = {
        "source_id": source,
        "generation": f"{source}-g",
        "version": "v1",
        "start": None,
        "end": None,
        "ranges": ((0, None),),
        "buckets": buckets,
        "expected_size": (64, 64),
        "windows": 4,
    }
    return ClipTask(**{**fields, **changes})


def decoded(key="s", first=0, windows=1, bucket=SMALL, last=False, length=17):
    """A segment whose pixels and timestamps tell its windows apart."""
    numbers = np.arange(first, first + windows)
    shape = (windows, length, bucket.height, bucket.width, 3)
    frames = np.broadcast_to(numbers[:, None, None, None, None], shape).astype(np.uint8)
    return Segment(
        key=key,
        bucket=bucket,
        first_window=first,
        frames=frames,
        pts=numbers[:, None] * 17 + np.arange(length),
        valid_frames=np.full(windows, length),
        first_frames=length * np.arange(first, first + windows),
        time_base=Fraction(1, 25),
        geometry=fit(64, 64, bucket, "cover"),
        fps=25.0,
        last=last,
    )


def ended(key="s", windows=4, frames=70):
    return ClipEnd(key, frames, windows, make_facts())


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the decode stage over a unit whose files yield what is given, by the file's name."""

    def decode(results, files=None, asked=None, meter=SILENT, **fields):
        files = files or [("a.mp4", [clip()])]
        for name in results:
            (tmp_path / name).write_bytes(name.encode())

        def fake(file, clips, recipe, limits):
            name = file.read().decode()
            if asked is not None:
                asked.append((clips, recipe, limits))
            yield from results[name]

        monkeypatch.setattr(stage, "decode_file", fake)
        config = make_config(**fields)
        unit = Unit(
            tuple(FileTask(str(tmp_path / name), None, tuple(clips)) for name, clips in files)
        )
        batch = {UNIT: np.array([unit.to_json()], dtype=object)}
        packs = list(make_decode_fn(config, make_recipe(config), meter)(batch))
        return [found for pack in packs for found in rows(pack)]

    return decode


def windows_of(packs):
    return [
        (segment.source_id, segment.bucket, segment.first_window, segment.windows)
        for meta, _ in packs
        for segment in meta.segments
    ]


def events_of(packs):
    return [event for meta, _ in packs for event in meta.events]


def test_segments_and_the_end_of_a_clip(run):
    packs = run({"a.mp4": [decoded(windows=3), decoded(first=3, last=True), ended()]})
    [(meta, tensors)] = packs
    first, last = meta.segments
    assert (first.first_window, first.windows, first.last, first.frames_actual) == (
        0,
        3,
        False,
        None,
    )
    assert (last.first_window, last.windows, last.last, last.frames_actual) == (3, 1, True, 70)
    assert tensors[FRAMES].shape == (4, 17, 32, 32, 3)
    assert tensors[FRAMES][:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert meta.events == (Event("end", "s", "s-g", 4, 70, facts_to_json(make_facts())),)


def test_a_sample_is_named_by_what_was_resolved(run):
    [(meta, _)] = run({"a.mp4": [decoded(windows=2)]}, [("a.mp4", [clip(version="v9")])])
    [segment] = meta.segments
    recipe = make_recipe()
    geometry = fit(64, 64, SMALL, "cover").to_dict()
    assert segment.sample_ids == [
        sample_id("s", "v9", 17 * n, segment.pts[n], (1, 25), geometry, recipe.encoding())
        for n in range(2)
    ]
    assert segment.first_frames == [0, 17]
    assert segment.pts == [list(range(17)), list(range(17, 34))]
    assert segment.geometry == fit(64, 64, SMALL, "cover").to_dict()
    assert segment.valid_frames == [17, 17]


def test_a_sample_id_does_not_depend_on_how_windows_are_cut(run):
    whole = run({"a.mp4": [decoded(windows=4)]})
    parts = run({"a.mp4": [decoded(first=n) for n in range(4)]}, run__pack_bytes=WINDOW)
    ids = [i for meta, _ in whole for i in meta.sample_ids]
    assert len(set(ids)) == 4
    assert [i for meta, _ in parts for i in meta.sample_ids] == ids


def test_what_is_asked_of_the_decoder(run):
    asked = []
    clips = [clip("s", (SMALL, WIDE), start=1.0, end=9.5, ranges=((2, 5), (7, None))), clip("t")]
    run(
        {"a.mp4": []},
        [("a.mp4", clips)],
        asked,
        windows__fps=24,
        windows__stride=9,
        windows__segment_windows=4,
        run__pack_bytes=3 * WINDOW,
        resize__policy="contain",
        resize__filter="area",
    )
    [(requests, frames, _)] = asked
    first, second = requests
    assert (first.key, first.start, first.end) == ("s", 1.0, 9.5)
    assert first.ranges == ((2, 5), (7, None))
    assert first.expected_size == (64, 64)
    # a segment of the small bucket fits three times into a pack, of the wide one once
    assert [(t.bucket, t.segment_windows) for t in first.targets] == [(SMALL, 3), (WIDE, 1)]
    assert second.key == "t"
    assert (frames.fps, frames.grid.stride, frames.resize, frames.filter) == (
        24,
        9,
        "contain",
        "area",
    )


def test_a_failed_clip_leaves_the_others(run):
    results = [
        decoded("s"),
        ClipFailure("s", Reason.DECODE_ERROR, "m"),
        decoded("t"),
        ended("t", 1),
    ]
    packs = run({"a.mp4": results}, [("a.mp4", [clip("s"), clip("t")])])
    assert [w[0] for w in windows_of(packs)] == ["s", "t"]
    failed, end = events_of(packs)
    assert (failed.kind, failed.source_id, failed.generation) == ("failed", "s", "s-g")
    assert (failed.reason, failed.message) == ("decode_error", "m")
    assert (end.kind, end.source_id) == ("end", "t")


def test_a_last_segment_is_not_given_away_before_the_end_is_known(run):
    results = [decoded(last=True), ClipFailure("s", Reason.DECODE_ERROR, "m")]
    packs = run({"a.mp4": results})
    assert windows_of(packs) == []
    assert [event.kind for event in events_of(packs)] == ["failed"]


def test_a_file_that_cannot_be_opened_fails_all_of_its_clips(run, tmp_path):
    (tmp_path / "empty.mp4").touch()
    files = [
        ("none.mp4", [clip("s"), clip("t")]),
        ("empty.mp4", [clip("u")]),
        ("a.mp4", [clip("v")]),
    ]
    packs = run({"a.mp4": [decoded("v"), ended("v", 1)]}, files)
    found = {event.source_id: (event.kind, event.reason) for event in events_of(packs)}
    assert found == {
        "s": ("failed", "missing"),
        "t": ("failed", "missing"),
        "u": ("failed", "empty_file"),
        "v": ("end", ""),
    }
    assert [w[0] for w in windows_of(packs)] == ["v"]


def test_a_file_that_changed_since_the_plan_is_not_decoded(run, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"x")
    unit = Unit((FileTask(str(tmp_path / "a.mp4"), "another version", (clip(),)),))
    monkeypatch.setattr(stage, "decode_file", None)
    config = make_config()
    decode = make_decode_fn(config, make_recipe(config))
    [pack] = decode({UNIT: np.array([unit.to_json()], dtype=object)})
    [(meta, _)] = rows(pack)
    assert [event.reason for event in meta.events] == ["source_changed"]


def test_nothing_found_is_said_by_events_alone(run):
    [(meta, tensors)] = run({"a.mp4": [ended(windows=0, frames=3)]})
    assert meta.segments == ()
    assert [(e.windows, e.frames_actual) for e in meta.events] == [(0, 3)]
    assert len(tensors[FRAMES]) == 0


def test_images_and_videos_do_not_share_a_pack(run):
    results = {
        "a.mp4": [decoded("s"), ended("s", 1)],
        "b.png": [decoded("t", length=1, last=True), ended("t", 1, 1)],
    }
    packs = run(results, [("a.mp4", [clip("s")]), ("b.png", [clip("t")])])
    assert sorted(tensors[FRAMES].shape[1] for _, tensors in packs) == [1, 17]


PIECES = st.lists(
    st.tuples(st.sampled_from([SMALL, WIDE]), st.integers(1, 3), st.sampled_from(["s", "t"])),
    max_size=12,
)


@settings(max_examples=40)
@given(pieces=PIECES, sizes=st.tuples(st.integers(1, 6), st.none() | st.integers(1, 9)))
def test_packs_are_full_and_hold_every_window_once(pieces, sizes):
    small, wide = sizes
    planned = {SMALL.name: small} | ({} if wide is None else {WIDE.name: wide})
    packer = stage._Packer(planned, 8 * WINDOW, SILENT)
    firsts, batches, wanted = {}, [], []
    for number, (bucket, windows, source) in enumerate(pieces):
        first = firsts.get((source, bucket), 0)
        firsts[source, bucket] = first + windows
        segment = decoded(source, first, windows, bucket)
        info = stage._describe(segment, clip(source), make_recipe(), None)
        packer.events.append(Event("end", str(number), "g"))
        batches += list(packer.add(segment.frames, info))
        wanted += [(source, bucket.name, first + n) for n in range(windows)]
    batches += list(packer.finish())
    packs = [found for batch in batches for found in rows(batch)]
    parts = windows_of(packs)
    found = [(source, bucket, first + n) for source, bucket, first, m in parts for n in range(m)]
    assert sorted(found) == sorted(wanted)
    assert [e.source_id for e in events_of(packs)] == [str(n) for n in range(len(pieces))]
    assert len({meta.pack_id for meta, _ in packs}) == len(packs)
    limits = {SMALL.name: small, WIDE.name: min(4, wide or 4)}  # 8 windows' bytes at the most
    held = {SMALL.name: [], WIDE.name: []}
    for meta, tensors in packs:
        assert len({s.bucket for s in meta.segments}) <= 1
        values = [s.first_window + n for s in meta.segments for n in range(s.windows)]
        assert tensors[FRAMES][:, 0, 0, 0, 0].tolist() == values
        if meta.segments:
            held[meta.segments[0].bucket].append(len(values))
    for bucket, counts in held.items():
        assert all(count == limits[bucket] for count in counts[:-1])
        assert not counts or counts[-1] <= limits[bucket]


def test_images_fill_a_pack_as_windows_of_one_frame():
    packer = stage._Packer({}, 2 * WINDOW, SILENT)
    made = []
    for number in range(40):
        segment = decoded(str(number), 0, 1, length=1, last=True)
        info = stage._describe(segment, clip(str(number)), make_recipe(), 1)
        made += list(packer.add(segment.frames, info))
    made += list(packer.finish())
    assert [len(meta.segments) for batch in made for meta, _ in rows(batch)] == [34, 6]


def test_decoding_again_gives_the_same_packs(run):
    results = [decoded(windows=2), decoded(first=2, windows=2), ended()]
    one, two = (run({"a.mp4": results}, run__pack_bytes=2 * WINDOW) for _ in range(2))
    assert [meta for meta, _ in one] == [meta for meta, _ in two]


def known_run(first, windows, row=0):
    """What the cache holds of the windows that ``decoded`` resolves to."""
    info = stage._describe(decoded(first=first, windows=windows), clip(), make_recipe(), None)
    return KnownRun.of_row(sample_row(info, shard="data/h32w32/old", first_row=row))


def references_of(packs):
    return [
        (r.segment.first_window, r.segment.windows, r.shard, r.first_row, len(r.checksums))
        for meta, _ in packs
        for r in meta.references
    ]


def test_known_windows_go_on_as_references_without_frames(run):
    results = [decoded(windows=4), decoded(first=4, windows=2, last=True), ended(windows=6)]
    known = (known_run(0, 1), known_run(2, 4, row=8))
    packs = run({"a.mp4": results}, [("a.mp4", [clip(known=known)])])
    old = "data/h32w32/old"
    assert references_of(packs) == [(0, 1, old, 0, 1), (2, 2, old, 8, 2), (4, 2, old, 10, 2)]
    assert windows_of(packs) == [("s", SMALL.name, 1, 1)]
    [(meta, tensors)] = packs
    assert tensors[FRAMES].shape[0] == 1
    assert tensors[FRAMES][0, 0, 0, 0, 0] == 1
    last = meta.references[-1].segment
    assert (last.last, last.frames_actual) == (True, 70)


def test_a_source_of_known_windows_alone_sends_no_frames(run):
    results = [decoded(windows=4, last=True), ended()]
    packs = run({"a.mp4": results}, [("a.mp4", [clip(known=(known_run(0, 4),))])])
    [(meta, tensors)] = packs
    assert meta.segments == ()
    assert len(tensors[FRAMES]) == 0
    assert [event.kind for event in meta.events] == ["end"]
    assert [r.segment.windows for r in meta.references] == [4]


def test_frames_bytes_and_kept_windows_are_measured(run):
    meter = Remembering()
    known = (known_run(0, 1), known_run(2, 4, row=8))
    results = {
        "a.mp4": [decoded(windows=3), decoded(first=3, windows=2, last=True), ended(windows=5)],
        "b.mp4": [decoded("t", length=1, last=True), ClipFailure("t", Reason.CRASHED, "it died")],
    }
    run(results, [("a.mp4", [clip(known=known)]), ("b.mp4", [clip("t")])], meter=meter)
    assert meter.totals == {
        ("t2v_frames_decoded_total",): 5 * 17 + 1,
        ("t2v_bytes_read_total",): 2 * len("a.mp4"),
        ("t2v_windows_total", "kept", "none"): 4,
    }


def test_windows_of_other_ids_are_not_known(run):
    other = clip(version="v2", known=(known_run(0, 4),))
    [(meta, _)] = run({"a.mp4": [decoded(windows=4)]}, [("a.mp4", [other])])
    assert meta.references == ()
    assert meta.segments[0].windows == 4
