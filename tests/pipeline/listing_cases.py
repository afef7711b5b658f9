"""Listings, as the tests look at them."""

import pytest
from helpers import LOCAL

from pipeline.config import DatasetConfig
from pipeline.errors import UserError
from pipeline.listing import read_listing

TEXT = {"video", "caption", "id", "version"}


def listing(path, **settings):
    return read_listing(DatasetConfig(uri=str(path), **settings), LOCAL, TEXT)


def rows(path, **settings):
    return listing(path, **settings).table.to_pylist()


def complaint(path, **settings):
    with pytest.raises(UserError) as caught:
        listing(path, **settings)
    assert str(path) in str(caught.value)
    return str(caught.value)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
