"""The digest tells whether a row of the dataset's own columns changed: its values are identity."""

import json
import math

import pyarrow as pa
import pytest
from helpers import make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalog import read_catalog
from pipeline.columns import changed_columns, user_columns
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest


@pytest.fixture
def listed(tmp_path):
    """Makes the catalog of rows, as JSONL."""

    def make(rows):
        path = tmp_path / "list.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_catalog(make_config(dataset__uri=str(path)))

    return make


def digests(listed, rows):
    return listed(rows).columns["digest"].to_pylist()


def test_a_digest_changes_with_what_it_stands_for(listed):
    base = {"video": "a.mp4", "version": "v", "caption": "x", "n": 1}
    before = digests(listed, [base])
    assert digests(listed, [{**base, "version": "w", "start": 1}]) == before
    for change in ({"caption": "y"}, {"caption": None}, {"n": 2}, {"n": "1"}, {"m": 0}):
        assert digests(listed, [{**base, **change}]) != before
    assert digests(listed, [{**base, "unused": None}]) == before


def test_values_of_all_kinds_pass_through(listed):
    values = [math.nan, math.inf, -math.inf, 1.5, None]
    rows = [
        {"video": f"{n}.mp4", "version": "v", "x": value, "tags": ["a", str(n)], "d": {"k": n}}
        for n, value in enumerate(values)
    ]
    columns = listed(rows).columns
    assert [repr(x) for x in columns["x"].to_pylist()] == [repr(x) for x in values]
    assert columns["tags"].to_pylist()[3] == ["a", "3"]
    assert len(set(columns["digest"].to_pylist())) == 5


def test_changed_columns_are_those_of_another_digest(listed):
    catalog = listed(
        [{"video": f"{n}.mp4", "version": "v", "caption": str(n), "n": n} for n in range(3)]
    )
    first = changed_columns(catalog.columns, Manifest.empty("captions"))
    assert first["revision"].to_pylist() == [1, 1, 1]
    ids = first["source_id"].to_pylist()
    known = first.select(["source_id", "revision", "digest"])
    assert changed_columns(catalog.columns, known).num_rows == 0
    newer = pa.table({"source_id": ids[1:2], "revision": [4], "digest": ["other"]})
    again = changed_columns(catalog.columns, pa.concat_tables([newer, known.slice(0, 2)]))
    assert again["source_id"].to_pylist() == ids[1:]
    assert again["revision"].to_pylist() == [5, 1]
    assert again["caption"].to_pylist() == ["1", "2"]


def columns_of(caption, **extra):
    table = pa.table(extra)
    ids = pa.chunked_array([[str(n) for n in range(len(caption))]], pa.string())
    return user_columns(table, ids, pa.chunked_array([caption], pa.string()), list(extra))


GOLDEN = ["cdc4c8605f14b26a4ddb8e8ccb5e1492", "0c9e089bd70468b440b634012d40adec"]


def test_digests_are_what_they_always_were():
    found = columns_of(
        ['caf\u00e9 "x"', None],
        score=[0.1, math.inf],
        n=[7, -1],
        good=[True, None],
        tags=[["a", "b"], None],
        raw=[b"z", None],
    )
    assert found["digest"].to_pylist() == GOLDEN


VALUES = st.fixed_dictionaries(
    {
        "a": st.none() | st.text(),
        "Z": st.none() | st.floats(),
        "b c\u00e9": st.none() | st.booleans(),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "l": st.none() | st.lists(st.integers(0, 5), max_size=2),
    }
)
TYPES = {
    "a": pa.string(),
    "Z": pa.float64(),
    "b c\u00e9": pa.bool_(),
    "n": pa.int64(),
    "l": pa.list_(pa.int64()),
}


@settings(max_examples=25)
@given(st.lists(st.tuples(st.none() | st.text(), VALUES), min_size=1, max_size=5))
def test_a_digest_is_the_stable_hash_of_the_row(rows):
    extra = {n: pa.array([row[n] for _, row in rows], kind) for n, kind in TYPES.items()}
    found = columns_of([caption for caption, _ in rows], **extra)["digest"].to_pylist()
    for digest, (caption, row) in zip(found, rows, strict=True):
        kept = {k: v for k, v in {"caption": caption, **row}.items() if v is not None}
        shown = {
            name: repr(value)
            if isinstance(value, list) or (name == "Z" and not math.isfinite(value))
            else value
            for name, value in kept.items()
        }
        assert digest == stable_hash(["columns", shown])
