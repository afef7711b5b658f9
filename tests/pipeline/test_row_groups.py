"""Row groups hold whole segments, and rows are found in files of any grouping."""

import io
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.row_groups import ROW_GROUP_ROWS, group_begins, group_rows, groups_of
from pipeline.shards import Shard
from tests.pipeline.helpers import SMALL, make_contract, make_segment
from tests.pipeline.test_shards import make_tensors


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_no_segment_is_divided(segments):
    groups = group_rows(segments)
    begins = set(accumulate(segments, initial=0))
    assert set(accumulate(groups, initial=0)) <= begins
    assert sum(groups) == sum(segments)
    assert all(rows <= ROW_GROUP_ROWS or rows in segments for rows in groups)


def test_short_segments_share_a_group():
    assert group_rows([1] * 17) == [8, 8, 1]
    assert group_rows([3, 3, 3, 12, 1]) == [6, 3, 12, 1]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_rows_are_found_whatever_the_groups(groups, data):
    sink = io.BytesIO()
    table = pa.table({"row": list(range(sum(groups)))})
    with pq.ParquetWriter(sink, table.schema) as writer:
        for begin, rows in zip(accumulate(groups, initial=0), groups, strict=False):
            writer.write_table(table.slice(begin, rows))
    file = pq.ParquetFile(sink)
    begins = group_begins(file.metadata)
    assert begins == list(accumulate(groups, initial=0))
    first = data.draw(st.integers(0, sum(groups) - 1))
    count = data.draw(st.integers(1, sum(groups) - first))
    chosen = groups_of(begins, first, count)
    held = file.read_row_groups(list(chosen))["row"].to_pylist()
    at = first - begins[chosen[0]]
    assert held[at : at + count] == list(range(first, first + count))
    if len(chosen) > 1:  # none too many
        assert begins[chosen[0] + 1] > first
        assert begins[chosen[-1]] < first + count


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 6), (5, 1), (0, 0)])
def test_rows_that_are_not_there(first, count):
    with pytest.raises(ValueError, match="of 5"):
        groups_of([0, 3, 5], first, count)


def test_a_shard_has_them():
    contract = make_contract()
    segments = (make_segment("a", 0, 10), make_segment("b", 0, 2), make_segment("c", 0, 3))
    shard = Shard(SMALL.name, segments, make_tensors(contract, 15), contract)
    footer = pq.read_metadata(io.BytesIO(shard.encode(".parquet")))
    assert group_begins(footer) == [0, 10, 15]
