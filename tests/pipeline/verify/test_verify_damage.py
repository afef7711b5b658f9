"""Every kind of damage is found, in both formats, and what is sound is not accused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import WIDE, make_contract, make_segment, make_shard, make_store
from safetensors.numpy import load_file, save_file

from pipeline.buckets import Bucket
from pipeline.identity import stable_hash
from pipeline.row_statistics import from_text, row_statistics, same, to_text
from pipeline.shards import SUFFIXES, Shard, checksum
from pipeline.verify.check import CHUNK_BYTES, Named, check_shard
from pipeline.verify.run import Asked, verify
from tests.pipeline.maintain.builder import Builder

A, B, C = (stable_hash(name) for name in "abc")
FORMATS = pytest.mark.parametrize("form", ["safetensors", "parquet"])


def quiet(_: int) -> None:
    """No progress is told."""


@pytest.fixture
def cache(tmp_path: Path) -> Builder:
    """Three sources of three windows each, in segments of two; one is unfinished."""
    cache = Builder(tmp_path / "cache")
    cache.encode([(A, 1), (B, 1)])
    cache.publish()
    cache.encode([(C, 1)], stop=2)
    return cache


def look(cache: Builder, **asked):
    return verify(cache.manifest, Asked(**asked), quiet)


def kinds(cache: Builder, **asked) -> set[str]:
    return {str(finding.kind) for finding in look(cache, **asked).findings}


def segment_of(cache: Builder, source: str, first: int = 0) -> dict:
    [row] = [
        row
        for row in cache.manifest.read("samples").to_pylist()
        if row["source_id"] == source and row["first_window"] == first
    ]
    return row


def damage(path: Path, needle: bytes) -> None:
    """Flip a bit in the middle of the one place where ``needle`` stands."""
    data = bytearray(path.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle) + len(needle) // 2] ^= 4
    path.write_bytes(data)


def tensor_bytes(cache: Builder, sample: str, name: str) -> bytes:
    return cache.open().read(sample)[name].numpy().tobytes()


def test_what_is_sound(cache):
    found = look(cache)
    assert found.sound, found.findings
    assert found.sources == {"ok": 2}
    assert (found.windows, found.segments, found.shards) == (6, 4, 2)
    assert (found.read_windows, found.read_shards) == (8, 2)  # the unfinished source's too
    assert found.orphaned == found.foreign == found.temporary == found.lost == []


def test_nothing_is_changed(cache):
    before = cache.files()
    look(cache)
    assert cache.files() == before


@pytest.mark.parametrize("name", ["mean", "logvar"])
def test_one_bit_costs_one_segment(cache, name):
    row = segment_of(cache, A)
    damage(Path(cache.uri) / row["shard"], tensor_bytes(cache, row["sample_ids"][1], name))
    [finding] = look(cache).findings
    assert finding.kind == "checksum"
    assert finding.shard == row["shard"]
    assert finding.rows == (row["first_row"] + 1,)
    assert finding.segments == (row["segment_id"],)
    assert finding.sources == (A,)
    told = json.loads(json.dumps(finding.to_json()))
    assert told["rows"] == [[row["first_row"] + 1, row["first_row"] + 2]]
    assert told["repairable"] is True


def test_what_is_committed_and_not_published_counts_too(cache):
    row = segment_of(cache, C)
    path = Path(cache.uri) / row["shard"]
    path.unlink()
    assert [f.kind for f in look(cache).findings] == ["missing"]
    assert look(cache, snapshot=1).sound


def test_missing(cache):
    row = segment_of(cache, A)
    (Path(cache.uri) / row["shard"]).unlink()
    [finding] = look(cache).findings
    assert finding.kind == "missing"
    assert set(finding.sources) == {A, B}
    assert len(finding.rows) == 6


def test_misplaced(cache):
    path = Path(cache.uri) / segment_of(cache, A)["shard"]
    other = path.parents[1] / "h64w32" / path.name
    other.parent.mkdir()
    path.rename(other)
    found = look(cache)
    [finding] = found.findings
    assert finding.kind == "misplaced"
    assert f"data/h64w32/{path.name}" in finding.message
    assert found.orphaned == []  # nobody shall delete what may be the only copy


@pytest.mark.parametrize("cut", ["empty", "header", "half", "tail", "longer", "noise"])
def test_files_that_are_cut_or_overwritten(cache, cut):
    path = Path(cache.uri) / segment_of(cache, A)["shard"]
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "header": data[:6],
            "half": data[: len(data) // 2],
            "tail": data[:-1],
            "longer": data + b"\0",
            "noise": np.random.default_rng(0).bytes(len(data)),
        }[cut]
    )
    [finding] = look(cache).findings
    assert finding.kind == "unreadable"
    assert len(finding.rows) == 6


def test_orphans_and_foreign_files_are_no_damage(cache):
    root = Path(cache.uri)
    (root / "data/h32w32/notes.txt").write_text("mine")
    (root / "data/h32w32/.x.safetensors.0123456789ab.tmp").write_bytes(b"half")
    [orphan] = cache.encode([(stable_hash("d"), 1)], commit=False)
    found = look(cache)
    assert found.sound
    assert found.orphaned == [orphan]
    assert found.foreign == ["data/h32w32/notes.txt"]
    assert found.temporary == ["data/h32w32/.x.safetensors.0123456789ab.tmp"]


def test_shards_of_earlier_snapshots_are_no_orphans(tmp_path):
    cache = Builder(tmp_path / "cache")
    [first] = cache.encode([(A, 1)])
    cache.publish()
    rows = cache.manifest.read("samples")
    cache.encode([(A, 2)])
    cache.publish()
    from pipeline.maintain.rewrite import replace_rows

    replace_rows(
        cache.manifest.store,
        "samples",
        {first},
        lambda: (
            lambda table: table.filter(pa.array([s != first for s in table["shard"].to_pylist()]))
        ),
        lambda: None,
    )
    assert cache.manifest.read("samples").num_rows < rows.num_rows * 2
    assert look(cache).orphaned == []


def test_counts_that_do_not_close(cache):
    from pipeline.maintain.rewrite import replace_rows

    row = segment_of(cache, B, 2)
    replace_rows(
        cache.manifest.store,
        "samples",
        {row["shard"]},
        lambda: (
            lambda table: table.filter(
                pa.array([s != row["segment_id"] for s in table["segment_id"].to_pylist()])
            )
        ),
        lambda: None,
    )
    found = look(cache)
    assert [(f.kind, f.sources) for f in found.findings] == [("incomplete", (B,))]
    assert "h32w32: windows 0 to 1 of 3" in found.findings[0].message
    assert look(cache, snapshot=1).sound  # it pins the table as it was


def edited(cache: Builder, **changes) -> None:
    """Append a live segment again with some fields changed, under a generation of its own."""
    row = segment_of(cache, A) | changes
    cache.manifest.append("samples", [row])


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"shard": "data/h64w32/" + "0" * 32 + ".safetensors"}, "misplaced"),
        ({"shard": "../../etc/passwd"}, "misplaced"),
        ({"shard": "/etc/passwd"}, "misplaced"),
        ({"shard": "file:///etc/passwd"}, "misplaced"),
        ({"shard": "s3://bucket/key.safetensors"}, "misplaced"),
        ({"first_row": 400}, "shape"),
        ({"first_row": 1}, "sample_ids"),
        ({"frames": 1}, "shape"),
        ({"checksums": ["0" * 16, "1" * 16]}, "checksum"),
        ({"sample_ids": ["0" * 32]}, "bad_row"),
    ],
)
def test_rows_that_do_not_fit_their_shard(cache, changes, kind):
    edited(cache, **changes)
    assert kinds(cache) == {kind}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_is_seeded_and_finds_what_it_draws(cache, seed):
    whole = look(cache, sample=100, seed=seed)
    assert whole.read_windows == 8
    for row in cache.manifest.read("samples").to_pylist():
        (Path(cache.uri) / row["shard"]).unlink(missing_ok=True)
    [one] = look(cache, sample=1, seed=seed).findings
    assert [one] == look(cache, sample=1, seed=seed).findings
    assert len(one.segments) == 1
    drawn = {look(cache, sample=1, seed=n).findings[0].segments for n in range(20)}
    assert len(drawn) > 2


# ---- one shard


def named(shard: Shard, path: str) -> list[Named]:
    found, row = [], 0
    for n, segment in enumerate(shard.segments):
        sums = shard.checksums[row : row + segment.windows]
        ids = tuple(segment.sample_ids)
        fields = (f"segment-{n}", segment.source_id, segment.bucket, segment.frames, row)
        found.append(Named(*fields, segment.windows, ids, sums, shard.contract.contract_id))
        row += segment.windows
    return found


def put(folder: Path, shard: Shard, form: str):
    store, path = make_store(folder), shard.path(SUFFIXES[form])
    store.write(path, shard.encode(SUFFIXES[form]))
    return store, path, Path(store.uri) / path


def found_in(store, path, shard) -> list[tuple[str, tuple[int, ...]]]:
    size = (Path(store.uri) / path).stat().st_size
    return [(str(f.kind), f.rows) for f in check_shard(store, path, size, named(shard, path))]


@FORMATS
@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_shards_of_every_contract_are_sound(tmp_path, form, statistic, dtype):
    contract = make_contract(statistic=statistic, dtype=dtype)
    shard = make_shard(
        contract, make_segment(windows=12, bucket=WIDE), make_segment("t", 5, 7, WIDE)
    )
    store, path, _ = put(tmp_path, shard, form)
    assert found_in(store, path, shard) == []


@FORMATS
def test_numbers_that_are_not_finite(tmp_path, form):
    shard = make_shard(make_contract(), make_segment(windows=3))
    shard.tensors["logvar"][1, 0, 0, 0, 0] = np.nan
    shard.tensors["mean"][2, 0, 0, 0, 0] = np.inf
    store, path, _ = put(tmp_path, shard, form)
    assert found_in(store, path, shard) == [("not_finite", (1, 2))]


@FORMATS
def test_statistics_of_other_numbers(tmp_path, form, monkeypatch):
    shard = make_shard(make_contract(), make_segment(windows=3))
    wrong = {name: tensor.copy() for name, tensor in shard.tensors.items()}
    wrong["logvar"][1] *= 1.01
    text = to_text(wrong)
    monkeypatch.setattr("pipeline.shards.to_text", lambda _: text)
    store, path, _ = put(tmp_path, shard, form)
    assert found_in(store, path, shard) == [("statistics", (1,))]


def test_another_dtype_and_shards_without_statistics(tmp_path):
    shard = make_shard(make_contract(), make_segment(windows=3))
    store, path, file = put(tmp_path, shard, "safetensors")
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        metadata = dict(opened.metadata())
    tensors = load_file(file)
    del metadata["statistics"]
    save_file(tensors, file, metadata)
    assert found_in(store, path, shard) == []
    save_file({n: t.astype(np.float32) for n, t in tensors.items()}, file, metadata)
    assert found_in(store, path, shard) == [("dtype", (0, 1, 2))]
    save_file(tensors, file, metadata | {"contract_id": "0" * 32})
    assert found_in(store, path, shard) == [("contract", (0, 1, 2))]
    save_file({**tensors, "noise": tensors["mean"]}, file, metadata)
    assert found_in(store, path, shard) == [("shape", (0, 1, 2))]
    save_file({n: t.reshape(3, 3, 2, 1, 4) for n, t in tensors.items()}, file, metadata)
    assert found_in(store, path, shard) == [("shape", (0, 1, 2))]


def test_another_dtype_in_parquet(tmp_path):
    shard = make_shard(make_contract(), make_segment(windows=3))
    store, path, file = put(tmp_path, shard, "parquet")
    table = pq.read_table(file)
    at = table.column_names.index("vae_latent_dtype")
    wrong = table.set_column(at, "vae_latent_dtype", pa.array(["float16", "float32", "float16"]))
    pq.write_table(wrong, file, row_group_size=8, compression="none")
    assert found_in(store, path, shard) == [("dtype", (1,))]


def test_a_broken_row_group_costs_its_rows(tmp_path):
    parts = ((0, 8), (8, 8), (16, 4))
    segments = [make_segment(first=first, windows=count) for first, count in parts]
    shard = make_shard(make_contract(), *segments)
    store, path, file = put(tmp_path, shard, "parquet")
    chunk = pq.read_metadata(file).row_group(1).column(0)
    data = bytearray(file.read_bytes())
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    data[at : at + 8] = b"\xff" * 8
    file.write_bytes(data)
    assert [rows for _, rows in found_in(store, path, shard)] == [tuple(range(8, 16))]


@FORMATS
def test_long_shards_are_read_in_pieces(tmp_path, form, monkeypatch):
    segments = [make_segment(first=4 * n, windows=4, bucket=Bucket(256, 256)) for n in range(10)]
    shard = make_shard(make_contract(), *segments)
    store, path, _ = put(tmp_path, shard, form)
    size = sum(t[0].nbytes for t in shard.tensors.values())
    monkeypatch.setattr("pipeline.verify.check.CHUNK_BYTES", 3 * size)
    longest = 0
    read = type(store).read

    def watched(self, path, start=None, end=None):
        nonlocal longest
        found = read(self, path, start, end)
        longest = max(longest, len(found))
        return found

    monkeypatch.setattr("pipeline.verify.shard_files._FOOTER_GUESS", 64)
    monkeypatch.setattr("pipeline.shards._HEADER_GUESS", 8)
    monkeypatch.setattr(type(store), "read", watched)
    assert found_in(store, path, shard) == []
    assert longest < (size * 40) // 2
    assert CHUNK_BYTES == 32 * 2**20


def test_a_store_that_refuses_is_no_damage(tmp_path, monkeypatch):
    shard = make_shard(make_contract(), make_segment(windows=3))
    store, path, _ = put(tmp_path, shard, "safetensors")

    def refuse(*_, **__):
        raise PermissionError(13, "no")

    monkeypatch.setattr(type(store), "read", refuse)
    with pytest.raises(PermissionError):
        check_shard(store, path, 100, named(shard, path))


def test_statistics_of_rows():
    tensor = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
    found = row_statistics(tensor)
    np.testing.assert_allclose(found[1], [8.5, np.std(np.arange(6, 12)), 6, 11], rtol=1e-6)
    again = from_text(to_text({"mean": tensor}))["mean"]
    assert again.tobytes() == found.tobytes()
    assert same(again, found).all()
    assert not same(again * np.float32(1.001), found).any()
    assert checksum([tensor]) == checksum([tensor.copy()])
