import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import (
    SMALL,
    WIDE,
    make_contract,
    make_segment,
    make_shard,
    make_store,
    make_tensors,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from pipeline.shards import SUFFIXES, Shard, ShardError, checksum, read_sample

FORMATS = pytest.mark.parametrize("suffix", list(SUFFIXES.values()))
CONTRACT = make_contract()


def put(folder, shard, suffix):
    store, path = make_store(folder), shard.path(suffix)
    store.write(path, shard.encode(suffix))
    return store, path


@FORMATS
@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_row_reads_back_to_the_same_bits(tmp_path, suffix, statistic, dtype):
    contract = make_contract(statistic=statistic, dtype=dtype)
    shard = make_shard(contract, make_segment(windows=12), make_segment("t", 5, 7, fps=29.97))
    store, path = put(tmp_path, shard, suffix)
    for row in range(19):
        found = read_sample(store, path, row, contract)
        assert list(found) == list(contract.tensors)
        for name, tensor in found.items():
            assert tensor.dtype == np.dtype(dtype)
            assert tensor.tobytes() == shard.tensors[name][row].tobytes()
            assert tensor.shape == (3, 2, 2, 2)
        assert checksum(list(found.values())) == shard.checksums[row]


@FORMATS
def test_images_have_one_latent_frame(tmp_path, suffix):
    shard = make_shard(CONTRACT, make_segment(windows=3, frames=1, bucket=WIDE))
    store, path = put(tmp_path, shard, suffix)
    assert read_sample(store, path, 2, CONTRACT)["mean"].shape == (1, 2, 2, 4)


@FORMATS
def test_odd_numbers_keep_their_bits(tmp_path, suffix):
    shard = make_shard(CONTRACT, make_segment(windows=1))
    values = np.array([-0.0, 6e-8, 65504, -65504, 6.1e-5, 0, 1, -1], np.float16)
    shard.tensors["mean"].reshape(-1)[:8] = values
    store, path = put(tmp_path, shard, suffix)
    found = read_sample(store, path, 0, CONTRACT)["mean"]
    assert found.reshape(-1)[:8].tobytes() == values.tobytes()


@settings(max_examples=20)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 9))
def test_both_formats_hold_the_same_samples(tmp_path_factory, sizes, seed):
    firsts = np.cumsum([0, *sizes])
    segments = [make_segment(first=int(f), windows=n) for f, n in zip(firsts, sizes, strict=False)]
    shard = make_shard(CONTRACT, *segments, seed=seed)
    folder = tmp_path_factory.mktemp("cache")
    places = [put(folder, shard, suffix) for suffix in SUFFIXES.values()]
    for row in range(sum(sizes)):
        one, other = (read_sample(store, path, row, CONTRACT) for store, path in places)
        assert {n: t.tobytes() for n, t in one.items()} == {
            n: t.tobytes() for n, t in other.items()
        }


# ---- what stands in a file


def test_safetensors_name_the_contract_and_the_samples(tmp_path):
    shard = make_shard(CONTRACT, make_segment(windows=2), make_segment("t", windows=1))
    store, path = put(tmp_path, shard, ".safetensors")
    file = f"{store.uri}/{path}"
    assert {n: t.shape for n, t in load_file(file).items()} == {
        "mean": (3, 3, 2, 2, 2),
        "logvar": (3, 3, 2, 2, 2),
    }
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["contract"]) == json.loads(CONTRACT.to_json())
    assert metadata["contract_id"] == CONTRACT.contract_id
    assert metadata["bucket"] == "h32w32"
    assert json.loads(metadata["sample_ids"]) == [i for s in shard.segments for i in s.sample_ids]


def test_parquet_has_a_row_a_sample(tmp_path):
    segments = make_segment(windows=2), make_segment("t", 4, 9, valid_frames=[17] * 8 + [3])
    shard = make_shard(CONTRACT, *segments)
    store, path = put(tmp_path, shard, ".parquet")
    file = pq.ParquetFile(f"{store.uri}/{path}")
    rows = file.read().to_pylist()
    assert [row["id"] for row in rows] == [i for s in segments for i in s.sample_ids]
    assert [row["source_id"] for row in rows] == ["s"] * 2 + ["t"] * 9
    assert [row["window"] for row in rows] == [0, 1, *range(4, 13)]
    assert [row["valid_frames"] for row in rows] == [17] * 10 + [3]
    assert {row["num_frames"] for row in rows} == {17}
    assert {(row["bucket"], row["height"], row["width"]) for row in rows} == {("h32w32", 32, 32)}
    assert rows[5]["vae_latent_shape"] == [3, 2, 2, 2]
    assert rows[5]["vae_latent_dtype"] == "float16"
    assert rows[5]["vae_latent_bytes"] == shard.tensors["mean"][5].tobytes()
    assert rows[5]["vae_logvar_bytes"] == shard.tensors["logvar"][5].tobytes()
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [2, 9]
    metadata = file.schema_arrow.metadata
    assert metadata[b"contract"].decode() == CONTRACT.to_json()
    assert metadata[b"contract_id"].decode() == CONTRACT.contract_id


# ---- names and checksums


def test_equal_content_has_one_name_and_other_content_another():
    base = make_shard(CONTRACT, make_segment())
    assert base.path(".x") == make_shard(CONTRACT, make_segment()).path(".x")
    assert base.path(".x").startswith("data/h32w32/")
    others = [
        make_shard(CONTRACT, make_segment(first=2)),
        make_shard(CONTRACT, make_segment(generation="new")),
        make_shard(CONTRACT, make_segment(), seed=1),
        make_shard(make_contract(scale=2.0), make_segment()),
        make_shard(CONTRACT, make_segment(), make_segment("t")),
        make_shard(CONTRACT, make_segment(bucket=WIDE)),
    ]
    assert len({shard.path(".x") for shard in [base, *others]}) == 7


@pytest.mark.parametrize("tensor", [0, 1])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (2, 1, 1, 1)])
def test_a_checksum_sees_every_bit(tensor, place):
    sample = [t[0] for t in make_tensors(CONTRACT, 1).values()]
    before = checksum(sample)
    assert before == checksum([np.asfortranarray(t) for t in sample])
    assert len(before) == 16
    sample[tensor] = sample[tensor].copy()
    sample[tensor].view(np.uint16)[place] ^= 1
    assert checksum(sample) != before


def test_a_checksum_depends_on_the_order_of_tensors():
    mean, logvar = (t[0] for t in make_tensors(CONTRACT, 1).values())
    assert checksum([mean, logvar]) != checksum([logvar, mean])


# ---- damage


@FORMATS
def test_what_is_not_there(tmp_path, suffix):
    store, path = put(tmp_path, make_shard(CONTRACT, make_segment(windows=10)), suffix)
    with pytest.raises(ShardError, match=r"none\..* is missing; encode again"):
        read_sample(store, f"data/none{suffix}", 0, CONTRACT)
    for row in (10, 15, 16, 1000, -1):
        with pytest.raises(ShardError, match=f"row {row}"):
            read_sample(store, path, row, CONTRACT)


@FORMATS
def test_a_shard_of_another_statistic(tmp_path, suffix):
    store, path = put(tmp_path, make_shard(make_contract(statistic="mean"), make_segment()), suffix)
    with pytest.raises(ShardError):
        read_sample(store, path, 0, CONTRACT)


@FORMATS
def test_a_shard_cut_off_anywhere(tmp_path, suffix):
    shard = make_shard(CONTRACT, make_segment(windows=9))
    store, path = put(tmp_path, shard, suffix)
    data = store.read(path)
    last = shard.tensors["logvar"][8].tobytes()
    for length in [0, 1, 7, 8, 9, *range(16, len(data), len(data) // 40), len(data) - 1]:
        store.write(path, data[:length])
        with pytest.raises(ShardError):
            assert read_sample(store, path, 8, CONTRACT)["logvar"].tobytes() == last


@FORMATS
@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    row=st.integers(0, 8),
)
def test_a_damaged_shard_is_never_read_in_silence(tmp_path_factory, suffix, changes, row):
    """Whatever stands in the file: an error of the one kind, or bytes that the checksum judges."""
    shard = make_shard(CONTRACT, make_segment(windows=9))
    data = bytearray(shard.encode(suffix))
    for place, value in changes:
        data[int(place * len(data))] = value
    store = make_store(tmp_path_factory.getbasetemp() / "damaged")
    path = f"data/x{suffix}"
    store.write(path, bytes(data))
    try:
        found = read_sample(store, path, row, CONTRACT)
    except ShardError:
        return
    good = all(t.tobytes() == shard.tensors[n][row].tobytes() for n, t in found.items())
    assert (checksum(list(found.values())) == shard.checksums[row]) == good


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"3",
        b"{",
        b"\xff\xff",
        b'{"mean": 3, "logvar": 3}',
        b'{"mean": {}, "logvar": {}}',
        b'{"mean": {"dtype": "I64", "shape": [1, 1], "data_offsets": [0, 8]}}',
        b'{"mean": {"dtype": "F16", "shape": [], "data_offsets": [0, 8]}}',
        b'{"mean": {"dtype": "F16", "shape": "ab", "data_offsets": [0, 8]}}',
        b'{"mean": {"dtype": "F16", "shape": [2, 1], "data_offsets": [-99, -95]}}',
        b'{"mean": {"dtype": "F16", "shape": [2, 1], "data_offsets": [0]}}',
    ],
)
def test_an_odd_header(tmp_path, header):
    store = make_store(tmp_path)
    store.write("a.safetensors", len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(ShardError, match=r"a\.safetensors, row 0"):
        read_sample(store, "a.safetensors", 0, CONTRACT)


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path):
    store = make_store(tmp_path)
    store.write("a.safetensors", (2**62).to_bytes(8, "little") + bytes(8))
    with pytest.raises(ShardError, match="header of"):
        read_sample(store, "a.safetensors", 0, CONTRACT)


def test_only_the_header_and_the_sample_are_read(tmp_path):
    contract = make_contract(statistic="mean", z_channels=64)
    segment = make_segment(windows=64)
    tensors = make_tensors(contract, 64)
    shard = Shard(SMALL.name, (segment,), tensors, contract)
    store, path = put(tmp_path, shard, ".safetensors")
    read = []

    class Counted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, place):
            return self.file.seek(place)

        def read(self, size):
            read.append(size)
            return self.file.read(size)

    class Watched:
        uri = store.uri

        def open(self, path):
            return Counted(store.open(path))

    found = read_sample(Watched(), path, 40, contract)["mean"]
    assert found.tobytes() == tensors["mean"][40].tobytes()
    header = int.from_bytes(store.read(path, 0, 8), "little")
    assert sum(read) == 8 + header + found.nbytes
