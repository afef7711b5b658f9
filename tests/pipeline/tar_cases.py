"""Listings of tar files, as the tests look at them."""

from helpers import LOCAL

from pipeline.config import DatasetConfig
from pipeline.listing import read_listing
from pipeline.spans import name_of

TEXT = {"caption"}


def listing(path, shelf=None, **settings):
    return read_listing(DatasetConfig(uri=str(path), **settings), LOCAL, TEXT, shelf)


def samples(found):
    """Rows by the member's name, with ``failed`` where a row has a reason."""
    rows = {}
    for number, row in enumerate(found.table.to_pylist()):
        row = {name: value for name, value in row.items() if value is not None}
        if number in found.failures:
            failure = found.failures[number]
            row["failed"] = f"{failure.reason}: {failure.message}"
        rows[name_of(row.pop("video"))] = row
    return rows


MEMBERS = [("0.mp4", b"0" * 700), ("0.txt", "zero"), ("1.mp4", b"1" * 600)]
