"""Ranges by signed URLs: they arrive, or it is told that they did not."""

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.reader.pieces import Piece, memory
from pipeline.reader.signed import SignedRanges
from pipeline.storage import Store
from tests.faults import Rule, fault_proxy

DATA = np.arange(200_000, dtype="<u4").tobytes()


def fill(ranges: SignedRanges, begin: int = 1000, size: int = 500_000) -> bool:
    """Whether a range was read; it is compared."""
    arrays = np.zeros(4, np.uint8), np.zeros(size - 4, np.uint8)
    done = ranges.fill("a/é b+c", Piece(begin, tuple(memory(array) for array in arrays)))
    assert not done or b"".join(map(bytes, arrays)) == DATA[begin : begin + size]
    return done


@pytest.fixture
def store(s3, s3_prefix):
    found = Store(f"s3://{s3_prefix}", s3.storage)
    found.write("a/é b+c", DATA)
    return found


def test_bytes_arrive(s3, store, s3_prefix):
    with fault_proxy(s3) as proxy:
        ranges = SignedRanges(Store(store.uri, proxy.storage), 2)
        assert fill(ranges)
        assert fill(ranges, 0, 5)
        assert not fill(ranges, len(DATA) - 10, 20)
        assert not fill(ranges, len(DATA) + 10, 20)
        assert fill(ranges)
        assert [request.method for request in proxy.of(f"{s3_prefix}/a/")] == ["GET"] * 5


@pytest.mark.parametrize(
    ("rule", "again"),
    [
        ({"kind": "reset"}, True),
        ({"kind": "truncate"}, True),
        ({"kind": "status", "status": 503}, True),
        ({"kind": "status", "status": 404}, True),
        ({"kind": "status", "status": 403}, False),
    ],
    ids=["reset", "cut-body", "503", "404", "403"],
)
def test_what_fails_is_told(s3, store, rule, again):
    """And tried again, unless it was refused."""
    with fault_proxy(s3) as proxy:
        ranges = SignedRanges(Store(store.uri, proxy.storage), 1)
        hurt = proxy.add(Rule(times=1, **rule))
        assert not fill(ranges)
        assert hurt.hits == 1
        assert fill(ranges) == again


def test_nobody_is_there(s3, store):
    storage = s3.storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    assert not fill(SignedRanges(Store(store.uri, storage), 1))


def test_a_path_that_leads_out(store):
    with pytest.raises(UserError, match="lies outside"):
        SignedRanges(store, 1).fill("../a", Piece(0, (memory(np.zeros(1, np.uint8)),)))
