"""The plan's units at the size of datasets: full packs and shards, and a short end of the run."""

import heapq
import random
from collections import defaultdict
from itertools import count

import pytest
from helpers import make_config, make_facts, make_recipe, make_segment, make_source

from pipeline.buckets import Bucket
from pipeline.config import load_config
from pipeline.metrics import SILENT
from pipeline.planned import PlannedSources
from pipeline.stages.decode import _Packer
from pipeline.tasks import make_units, pack_windows

TWENTY = tuple(Bucket(64 + 16 * (n % 5), 48 + 16 * n) for n in range(20))
PACK = 20 * 17 * 96 * 160 * 3
"""Bytes that make packs of 8 to 64 windows at these."""


def source(name, windows, bucket):
    facts = make_facts(frames=17 * windows, duration=17 * windows / 25)
    return make_source(name, facts=facts, buckets=(bucket,))


def config_of(**fields):
    buckets = [{"height": b.height, "width": b.width} for b in TWENTY]
    given = {"windows__fps": "25", "run__pack_bytes": PACK, "run__decode_tasks": 4, **fields}
    return make_config(buckets=buckets, **given)


def packs_of(unit, cap):
    """Bucket and windows of the packs that the decode stage makes of a unit, in order."""
    packer, made = _Packer(dict(unit.packs), PACK, SILENT), []

    def pack(key):
        parts = packer.open.pop(key)
        made.append((key[0].name, sum(part.windows for _, part in parts)))

    packer._pack = pack
    for file in unit.files:
        for clip in file.clips:
            for bucket in clip.buckets:
                left = clip.windows // len(clip.buckets)
                while left:
                    taken = min(cap, left)
                    info = make_segment(clip.source_id, 0, taken, bucket)
                    list(packer.add(range(taken), info))
                    left -= taken
    for key in sorted(packer.open):
        pack(key)
    return made


@pytest.fixture(scope="module")
def mixed():
    """Some 4,000 clips of 1 to 40 windows, and a few of many, at 20 buckets in any order."""
    rng, numbers = random.Random(0), count()
    sources = []
    for bucket in TWENTY:
        lengths = [rng.randint(1, 40) for _ in range(200)] + [rng.randint(200, 900)]
        sources += [source(f"{next(numbers):05}", n, bucket) for n in lengths]
    rng.shuffle(sources)
    return sources


@pytest.mark.parametrize("fps", ["25", None])
def test_twenty_mixed_buckets_still_give_full_packs_and_shards(mixed, fps):
    config = config_of(windows__fps=fps)
    units = make_units(config, make_recipe(config), PlannedSources.of(mixed))
    by_bucket, asked = defaultdict(list), {}
    arrived = []
    for unit in units:
        asked.update(unit.packs)
        for bucket, windows in packs_of(unit, 12):
            by_bucket[bucket].append(windows)
            arrived.append((bucket, windows))
    total = sum(sum(packs) for packs in by_bucket.values())
    assert total == sum(s.estimated_windows(make_recipe(config)) for s in mixed)
    short = 0
    for bucket in TWENTY:
        packs = by_bucket[bucket.name]
        wanted = asked[bucket.name]
        assert 0.75 * pack_windows(config, bucket) <= wanted <= pack_windows(config, bucket)
        assert max(packs) == wanted
        short += sum(windows < 0.95 * wanted for windows in packs)
    # But for each bucket's last, and where a long video cannot be cut, its last.
    assert short <= len(TWENTY) * (1 if fps else 2)
    whole, each = 0, 10  # packs of a shard, as the write stage takes them while they arrive
    for first in range(0, len(arrived), each):
        batch = arrived[first : first + each]
        for bucket in {name for name, _ in batch}:
            windows = sum(n for name, n in batch if name == bucket)
            whole += windows if windows >= each * asked[bucket] / 2 else 0
    assert whole >= 0.95 * total


def test_nothing_is_shuffled(mixed):
    """Of a bucket, sources come in the order of their names, but for a few drawn forward."""
    config = config_of()
    units = make_units(config, make_recipe(config), PlannedSources.of(mixed))
    for bucket in TWENTY[:3]:
        order = [
            file.uri for unit in units for file in unit.files if file.clips[0].buckets == (bucket,)
        ]
        places = {name: n for n, name in enumerate(sorted(set(order)))}
        moved = [abs(places[name] - n) for n, name in enumerate(dict.fromkeys(order))]
        assert max(moved) <= 70


def test_a_pack_is_seconds_of_work_within_its_bytes():
    config = config_of(run__pack_seconds=4)
    bucket = TWENTY[0]
    by_bytes = PACK // (17 * bucket.height * bucket.width * 3)
    assert pack_windows(config, bucket) == by_bytes > 24
    assert pack_windows(config, bucket, 4 / 24) == 24
    assert pack_windows(config, bucket, 60.0) == 12  # a segment
    one = PlannedSources([source("a", 11, bucket)])
    [unit] = make_units(config, make_recipe(config), one, {bucket: 4 / 24})
    assert unit.packs == ((bucket.name, 12),)


def test_the_longest_units_come_first():
    config = config_of(windows__fps=None, run__decode_tasks=1)
    film = source("z", 5000, TWENTY[0])
    sources = [source(f"{n:03}", 10, TWENTY[n % 2]) for n in range(400)]
    units = make_units(config, make_recipe(config), PlannedSources.of([*sources, film]))
    assert "z" in [clip.source_id for file in units[0].files for clip in file.clips]
    assert units[0].windows >= 5000
    assert max(unit.windows for unit in units[1:]) <= 200


def finished(units, cap, decoders, encoders, decode_s, encode_s):
    """When a run ends that gives units to decoders and packs to encoders, each as they are free."""
    free, ready = [0.0] * decoders, []
    for unit in units:
        at = heapq.heappop(free)
        for _, windows in packs_of(unit, cap):
            at += windows * decode_s
            ready.append((at, windows))
        heapq.heappush(free, at)
    busy = [0.0] * encoders
    for at, windows in sorted(ready):
        heapq.heappush(busy, max(heapq.heappop(busy), at) + windows * encode_s)
    return max(busy)


@pytest.mark.parametrize("fps", ["25", None])
@pytest.mark.parametrize(("decoders", "decode_s"), [(8, 0.02), (4, 0.2)])
def test_a_long_video_and_short_clips_end_near_the_ideal(fps, decoders, decode_s):
    """One hour and 200 clips of ten seconds, on 4 encoders."""
    config = config_of(windows__fps=fps, run__encoders=4, run__decode_tasks=decoders)
    hour, clips = 3600 * 25 // 17, [10 * 25 // 17] * 200
    bucket, encode_s = TWENTY[3], 0.2
    sources = [source("hour", hour, bucket)]
    sources += [source(f"{n:04}", windows, bucket) for n, windows in enumerate(clips)]
    units = make_units(config, make_recipe(config), PlannedSources.of(sources))
    total = hour + sum(clips)
    ideal = max(total * encode_s / 4, total * decode_s / decoders)
    if fps is None:  # one decoder has to decode the hour from its start
        ideal = max(ideal, hour * decode_s)
    assert finished(units, 12, decoders, 4, decode_s, encode_s) <= 1.15 * ideal


def test_the_defaults_of_the_shipped_configurations_give_packs(monkeypatch):
    config = load_config("configs/t2v_540p.yaml")
    assert pack_windows(config, Bucket(544, 992), 0.22) == 9
