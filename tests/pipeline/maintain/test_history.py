"""History and tags, on caches made by the real write stage and committer."""

import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.maintain.history import history
from pipeline.maintain.restore import restore
from pipeline.maintain.tags import Tag, delete_tag, read_tags, set_tag
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import Builder


@pytest.fixture
def cache(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "cache")


def changes(entries):
    return [(entry.added, entry.changed, entry.removed) for entry in entries]


def test_history(cache):
    cache.encode({("aa", 1): 3, ("bb", 1): 5}, buckets=[SMALL, WIDE])
    cache.publish()
    cache.encode([("bb", 2), ("cc", 1)])
    cache.encode({("ee", 1): 0})  # too short: skipped
    cache.publish()
    cache.remove("aa")
    cache.encode({("bb", 3): 0})
    cache.publish()
    cache.encode([("aa", 1)], buckets=[SMALL, WIDE])
    cache.publish()
    restore(cache.manifest, 2)
    set_tag(cache.manifest, "first", 1, force=False)
    set_tag(cache.manifest, "also", 1, force=False)
    entries = list(history(cache.manifest))
    assert [entry.snapshot for entry in entries] == [1, 2, 3, 4, 5]
    assert changes(entries) == [(2, 0, 0), (2, 1, 0), (0, 1, 1), (1, 0, 0), (0, 1, 0)]
    assert [entry.windows for entry in entries] == [
        cache.open(number).samples().num_rows for number in range(1, 6)
    ]
    assert [tuple(entry.sources.values()) for entry in entries] == [
        (2, 0, 0),
        (3, 1, 0),
        (1, 2, 0),
        (2, 2, 0),
        (3, 1, 0),
    ]
    assert entries[0].tags == ("also", "first")
    assert entries[4].run_id.startswith("restore-")
    assert json.loads(json.dumps(entries[0].to_json()))["tags"] == ["also", "first"]


def test_history_tells_of_the_newest_alone_and_ends_where_rows_do(cache):
    for number in range(1, 5):
        cache.encode([("aa", number), ("bb", number)])
        cache.publish()
    whole = history(cache.manifest)
    assert changes(whole) == [(2, 0, 0)] + 3 * [(0, 2, 0)]
    assert history(cache.manifest, 2) == whole[2:]
    assert history(cache.manifest, 9) == whole
    # 8 and 6 rows are read for the newest, 4 more for the one before.
    assert history(cache.manifest, rows=1) == history(cache.manifest, rows=14) == whole[3:]
    assert history(cache.manifest, rows=15) == whole[2:]


def test_no_snapshot(cache):
    with pytest.raises(UserError, match="no snapshot is published"):
        list(history(cache.manifest))


def test_tags(cache):
    cache.encode([("a", 1)])
    cache.publish()
    cache.encode([("a", 2)])
    cache.publish()
    assert set_tag(cache.manifest, "v1.0_x-y", None, force=False) == Tag("v1.0_x-y", 2)
    with pytest.raises(UserError, match=r"names snapshot 2; .*--force"):
        set_tag(cache.manifest, "v1.0_x-y", 1, force=False)
    set_tag(cache.manifest, "v1.0_x-y", 1, force=True)
    set_tag(cache.manifest, "b", 2, force=False)
    assert read_tags(cache.manifest) == [Tag("b", 2), Tag("v1.0_x-y", 1)]
    with pytest.raises(UserError, match="there is no snapshot 7"):
        set_tag(cache.manifest, "c", 7, force=False)
    assert delete_tag(cache.manifest, "b") == Tag("b", 2)
    with pytest.raises(UserError, match=r"no tag 'b'; there are: v1\.0_x-y"):
        delete_tag(cache.manifest, "b")
    assert read_tags(cache.manifest) == [Tag("v1.0_x-y", 1)]


@pytest.mark.parametrize("name", ["", "a/b", "../x", "ä", "a b", "x" * 65])
def test_names_that_are_no_tags(cache, name):
    cache.encode([("a", 1)])
    cache.publish()
    with pytest.raises(UserError, match="1 to 64"):
        set_tag(cache.manifest, name, None, force=False)


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 1}', '{"format_version": 2}'])
def test_a_file_that_is_no_tag_stops_all(cache, text):
    folder = Path(cache.uri) / "tags"
    folder.mkdir()
    (folder / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"tags/x\.json"):
        read_tags(cache.manifest)


def test_a_tag_of_a_snapshot_dropped_at_this_moment_is_taken_back(cache, monkeypatch):
    cache.encode([("a", 1)])
    cache.publish()
    cache.encode([("a", 2)])
    cache.publish()
    create = type(cache.manifest.store).create

    def dropping(store, path, data):
        store.delete("snapshots/1.json")
        return create(store, path, data)

    monkeypatch.setattr(type(cache.manifest.store), "create", dropping)
    with pytest.raises(UserError, match="dropped by a vacuum"):
        set_tag(cache.manifest, "late", 1, force=False)
    assert read_tags(cache.manifest) == []
