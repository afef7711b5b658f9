"""Fixtures of several modules' tests."""

import secrets

import fsspec
import pytest
from helpers import make_config
from plan_cases import Dataset
from tar_files import RangedStore, make_tar

from pipeline.weights import load_vae


@pytest.fixture(scope="module")
def vae():
    """The encoder and decoder of the usual configuration."""
    config = make_config()
    return load_vae(config.vae, config.storage)


@pytest.fixture
def data(tmp_path):
    """A dataset without sources, and no cache yet."""
    return Dataset(tmp_path)


@pytest.fixture
def memory():
    """URI of a folder in fsspec's process-wide memory, emptied afterwards."""
    folder = f"/{secrets.token_hex(6)}"
    yield f"memory:/{folder}"
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(folder):
        filesystem.rm(folder, recursive=True)


@pytest.fixture
def tar(tmp_path):
    """Writes a tar file of members and returns its path."""

    def make(members, name="a.tar", **settings):
        (tmp_path / name).write_bytes(make_tar(members, **settings))
        return tmp_path / name

    return make


@pytest.fixture
def ranged():
    """A store whose files come by range; ``fetched`` tells which ranges."""
    fsspec.register_implementation("ranged", RangedStore, clobber=True)
    RangedStore.fetched = []
    yield RangedStore
    RangedStore.store.clear()
