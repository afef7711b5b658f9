"""What a plan holds, against plain dictionaries and lists."""

import pickle
import random
from collections import Counter

from helpers import SMALL, WIDE, make_config, make_facts, make_recipe, make_source

from pipeline import planned, tasks
from pipeline.coverage import Coverage
from pipeline.errors import Reason, SourceError
from pipeline.planned import PlannedSources, PlannedUnits, place
from pipeline.tasks import make_units

FAILURE = SourceError(Reason.MISSING, "gone")
HELD = Coverage({SMALL: ((0, 3),)}, 3, 51)


def some(count=500):
    """Sources in any order, a few of them settled and some clips of one file."""
    sources = []
    for n in range(count):
        end = {0: {"failure": FAILURE}, 1: {"coverage": HELD}}.get(n % 50, {})
        name, start = f"{n * 7919 % 10**6:06}", n % 3 * 2.0
        uri = f"/{n // 3:04}.mp4" if n % 2 else f"/alone/{name}.mp4"
        facts = make_facts(frames=17 * (1 + n % 9), duration=17 * (1 + n % 9) / 25)
        sources.append(make_source(name, uri=uri, start=start or None, facts=facts, **end))
    random.Random(0).shuffle(sources)
    return sources


def test_sources_are_found_by_id_and_come_in_order():
    given = some()
    found = PlannedSources.of(given)
    order = sorted(given, key=place)
    assert list(found) == [source.source_id for source in order]
    assert [s.source_id for s in found.values()] == list(found)
    assert len(found) == len(given)
    for number, source in enumerate(order):
        assert found.find(source.source_id) == number
        assert found[source.source_id].generation == source.generation
        assert found.at(number).uri == source.uri
    for absent in ("", "0", "0000001", "zzz"):
        assert found.find(absent) is None
        assert absent not in found
    assert PlannedSources().find("a") is None
    settled = [(n, s.source_id) for n, s in enumerate(order) if s.settled]
    assert [(n, s.source_id) for n, s in found.settled()] == settled
    assert (found.refused, found.buckets) == (10, {SMALL})
    assert list(pickle.loads(pickle.dumps(found))) == list(found)


def test_units_are_the_same_in_whatever_order_sources_come():
    config = make_config(windows__fps="25", run__pack_bytes=10 * 17 * 32 * 32 * 3)
    given = some()
    units = make_units(config, make_recipe(config), PlannedSources.of(given))
    again = make_units(config, make_recipe(config), PlannedSources.of(reversed(given)))
    plain = list(units)
    assert plain == list(again)
    assert units[3:9] == plain[3:9]
    assert units.packs == sum(unit.pack_count() for unit in plain) > 10
    windows = Counter()
    for unit in plain:
        windows[SMALL] += unit.windows
    assert units.windows == windows
    left = {s.source_id for s in given if not s.settled}
    assert {c.source_id for u in plain for f in u.files for c in f.clips} == left


def test_units_are_those_of_plain_lists(monkeypatch):
    config = make_config(windows__fps="25", run__pack_bytes=10 * 17 * 32 * 32 * 3)
    units = make_units(config, make_recipe(config), PlannedSources.of(some()))
    for module in (planned, tasks):
        monkeypatch.setattr(module, "Packed", list)
    plain = make_units(config, make_recipe(config), PlannedSources.of(some()))
    assert isinstance(plain._units, list)
    assert list(units) == plain._units


def test_units_count_windows_of_each_bucket():
    config = make_config(windows__fps="25")
    sources = [make_source("a", buckets=(SMALL,)), make_source("b", buckets=(SMALL, WIDE))]
    units = make_units(config, make_recipe(config), PlannedSources.of(sources))
    each = sources[0].estimated_windows(make_recipe(config))
    assert units.windows == {SMALL: 2 * each, WIDE: each}
    both = PlannedUnits(units)
    both.extend(units)
    assert (both.windows[WIDE], both.packs) == (2 * each, 2 * units.packs)
