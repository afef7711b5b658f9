import json

import pytest

from pipeline.bench.listing import benchmark_listing


def test_a_prefix_is_filled_and_listed(s3, s3_prefix, capsys):
    uri = f"s3://{s3_prefix}"
    benchmark_listing(uri, 1200, s3.storage)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["objects"] == 1200
    assert {name: len(times) for name, times in printed["seconds"].items()} == {
        "raw": 3,
        "listing": 3,
        "catalog": 3,
    }
    with pytest.raises(RuntimeError, match="holds 1200 objects, not 7"):
        benchmark_listing(uri, 7, s3.storage)
