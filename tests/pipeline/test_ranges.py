import contextlib
import gc
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.ranges import RANGES, RangedRows, spans

SCHEMA = pa.schema([("source_id", pa.string()), ("value", pa.int64())])
IDS = st.text("0123456789abcdef", min_size=2, max_size=4)
TOLD = st.sampled_from([1, 10**5, 10**6])
ROWS = st.lists(st.tuples(IDS, st.none() | st.integers(0, 9)), max_size=40)


def table_of(rows):
    ids, values = [row[0] for row in rows], [row[1] for row in rows]
    return pa.table([pa.array(ids, pa.string()), pa.array(values, pa.int64())], schema=SCHEMA)


def gathered(rows, pieces, piece_bytes):
    """``rows``, added in some pieces."""
    ranged = RangedRows(SCHEMA, piece_bytes)
    for at in range(pieces):
        ranged.add(table_of(rows[at::pieces]))
    return ranged


def rows_of(table):
    return [(row["source_id"], row["value"]) for row in table.to_pylist()]


@settings(deadline=None, max_examples=20)
@given(ROWS, st.integers(1, 4), st.sampled_from([1, 200, 1 << 20]), TOLD)
def test_every_row_comes_back_once_in_the_span_of_its_hash(rows, pieces, piece_bytes, told):
    with gathered(rows, pieces, piece_bytes) as ranged:
        assert ranged.num_rows == len(rows)
        found = []
        for span in spans(told):
            part = ranged.read(span)
            assert part.schema == SCHEMA
            assert all(int(row[0][:2], 16) in span for row in rows_of(part))
            found += rows_of(part)
    assert Counter(found) == Counter(rows)


def joined(left, right):
    return Counter((*a, *b) for a in left for b in right if a[0] == b[0])


@settings(deadline=None, max_examples=20)
@given(ROWS, ROWS, st.sampled_from([1, 1 << 20]), TOLD)
def test_joining_by_ranges_is_joining(left, right, piece_bytes, told):
    found = Counter()
    with gathered(left, 2, piece_bytes) as a, gathered(right, 3, piece_bytes) as b:
        for span in spans(told):
            found += joined(rows_of(a.read(span)), rows_of(b.read(span)))
    assert found == joined(left, right)


@given(st.integers(0, 10**10))
def test_spans_are_all_ranges_in_order(rows):
    found = spans(rows)
    assert [number for span in found for number in span] == list(range(RANGES))
    assert len({len(span) for span in found[:-1]}) <= 1


def test_few_rows_are_one_span_and_many_are_all_ranges():
    assert len(spans(0)) == len(spans(10_000)) == 1
    assert len(spans(10**8)) == RANGES


def test_rows_may_be_added_after_reading():
    with RangedRows(SCHEMA) as ranged:
        ranged.add(table_of([("0a", 1)]))
        assert ranged.read(range(RANGES)).num_rows == 1
        ranged.add(table_of([("ff", 2)]).to_batches()[0])
        assert rows_of(ranged.read(range(255, 256))) == [("ff", 2)]


def test_other_columns_are_left_out_and_missing_ones_told():
    with RangedRows(SCHEMA) as ranged:
        ranged.add(table_of([("0a", 1)]).append_column("more", pa.array(["x"])))
        assert ranged.read(range(RANGES)).schema == SCHEMA
        with pytest.raises(KeyError, match="value"):
            ranged.add(pa.table({"source_id": ["0a"]}))


def test_a_folder_that_cannot_be_used_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"/missing/.*Set TMPDIR"):
        RangedRows(SCHEMA)


def test_no_file_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.suppress(RuntimeError), gathered([("0a", 1), ("0b", 2)], 2, 1) as ranged:
        assert list(tmp_path.iterdir()) == []  # a file without a name
        assert ranged.read(range(RANGES)).num_rows == 2
        raise RuntimeError
    with pytest.raises(ValueError, match="closed"):
        ranged.read(range(RANGES))
    gc.collect()
    assert list(tmp_path.iterdir()) == []
