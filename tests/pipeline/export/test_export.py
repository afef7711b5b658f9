"""Exports, read back by each format's own means: same ids, captions and numbers, bit for bit."""

import io
import itertools
import json
import os
import secrets
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from jobs import export_cache
from pipeline.identity import stable_hash
from pipeline.storage import Store
from tests.pipeline.helpers import SMALL, WIDE
from tests.pipeline.maintain.builder import Builder
from tests.s3 import REGION

pytestmark = pytest.mark.filterwarnings("ignore:.*has no index:UserWarning")

WINDOWS = {"a": 3, "b": 5, "c": 1, "d": 2}


def caption(source: str) -> str:
    return f"Ein Hund — {source[:4]}, “quoted”\n"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Builder:
    cache = Builder(tmp_path_factory.mktemp("export") / "cache")
    cache.encode({(stable_hash(n), 1): w for n, w in WINDOWS.items()}, buckets=(SMALL, WIDE))
    cache.encode({(stable_hash("image"), 1): 1}, frames=1)
    rows = [
        {
            "source_id": stable_hash(name),
            "revision": 1,
            "digest": "d",
            "caption": caption(stable_hash(name)),
            "score": float(len(name)),
        }
        for name in WINDOWS
    ]
    cache.manifest.append_columns("run-0001", pa.Table.from_pylist(rows))
    cache.publish()
    return cache


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """What readers of a machine share goes with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def export(cache, tmp_path, capsys):
    """Run the job; gives its folder and the last line of what it printed."""

    def run(form: str, *arguments: object, code: int = 0):
        out = tmp_path / "out"
        given = [cache.uri, "--format", form, "--out", out, *arguments]
        assert export_cache.main([str(a) for a in given]) == code
        captured = capsys.readouterr()
        return out, json.loads(captured.out.splitlines()[-1]) if code == 0 else captured.err

    return run


def expected(cache: Builder, statistic: str, frames: int = 17) -> dict[str, np.ndarray]:
    """Latents of clips by id, as the other reader gives them."""
    opened = cache.open()
    rows = opened.samples().to_pylist()
    by_place = {(r["source_id"], r["bucket"], r["first_frame"]): r for r in rows}
    found = {}
    for (source, bucket, first), row in by_place.items():
        if row["frames"] == 1 or first % frames:
            continue
        ids = [by_place.get((source, bucket, first + n)) for n in range(0, frames, 17)]
        if None not in ids:
            parts = [opened.read(i["sample_id"])[statistic].numpy() for i in ids]
            found[f"{source}:{bucket}:{first}"] = np.concatenate(parts)
    return found


def check(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for identity, tensor in wanted.items():
        assert found[identity].dtype == tensor.dtype
        assert found[identity].tobytes() == tensor.tobytes()
        assert found[identity].shape == tensor.shape


def test_webdataset_reads_it(cache, export):
    out, told = export("webdataset", "--shard-bytes", 12000)
    tars = sorted(str(p) for p in out.glob("*x17/*.tar"))
    assert told["shards"] == len(list(out.rglob("*.tar"))) > 3
    assert all(Path(p).stat().st_size <= 12000 + 1024 for p in tars)
    dataset = webdataset.WebDataset(tars, shardshuffle=False).decode()
    samples = list(dataset.to_tuple("mean.npy", "logvar.npy", "txt", "json"))
    ids = [fields["id"] for *_, fields in samples]
    assert len(set(ids)) == len(ids) == told["clips"]["h32w32x17"] + told["clips"]["h32w64x17"]
    for name, position in (("mean", 0), ("logvar", 1)):
        found = {i: s[position] for i, s in zip(ids, samples, strict=True)}
        check(found, expected(cache, name))
    assert all(text == caption(fields["source_id"]) for *_, text, fields in samples)
    assert all(fields["uri"] == f"/videos/{fields['source_id']}.mp4" for *_, fields in samples)
    (image,) = webdataset.WebDataset(str(out / "h32w32x1" / "000000.tar"), shardshuffle=False)
    assert json.loads(image["json"])["frames"] == 1


def mds_samples(folder: Path) -> list[dict[str, object]]:
    """An MDS folder, read after the format's description."""
    found = []
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        count = int.from_bytes(data[:4], "little")
        assert count == shard["samples"]
        offsets = np.frombuffer(data, "<u4", count + 1, 4)
        for begin, end in itertools.pairwise(offsets.tolist()):
            sizes = list(shard["column_sizes"])
            open_ends = [n for n, size in enumerate(sizes) if size is None]
            for n, size in zip(
                open_ends, np.frombuffer(data, "<u4", len(open_ends), begin), strict=True
            ):
                sizes[n] = int(size)
            at, sample = begin + 4 * len(open_ends), {}
            columns = zip(shard["column_names"], shard["column_encodings"], sizes, strict=True)
            for name, encoding, size in columns:
                sample[name] = _mds_value(encoding, data[at : at + size])
                at += size
            assert at == end
            found.append(sample)
    return found


def _mds_value(encoding: str, data: bytes) -> object:
    kind, _, rest = encoding.partition(":")
    if kind == "ndarray":
        dtype, _, shape = rest.partition(":")
        return np.frombuffer(data, dtype).reshape([int(n) for n in shape.split(",")])
    if kind in ("int64", "float64"):
        return np.frombuffer(data, kind)[0]
    return json.loads(data) if kind == "json" else data.decode()


@pytest.mark.parametrize("frames", [17, 34])
def test_mds(cache, export, frames):
    out, told = export(
        "mds",
        "--statistic",
        "mean",
        "--clip-frames",
        frames,
        "--columns",
        "score",
        "--shard-bytes",
        "1kB",
    )
    folders = sorted(out.glob("h*"))
    assert [f.name for f in folders] == [f"h32w32x{frames}", f"h32w64x{frames}"]
    samples = [sample for folder in folders for sample in mds_samples(folder)]
    check({s["id"]: s["latents"] for s in samples}, expected(cache, "mean", frames))
    assert {s["frames"] for s in samples} == {frames}
    assert all(s["caption"] == caption(s["source_id"]) for s in samples)
    assert all(s["columns"] == {"score": 1.0} for s in samples)
    assert told["shards"] == len(list(out.rglob("*.mds"))) > 2


_STREAMING = """
import importlib.util, json, sys, types
# The package's top level loads models of all kinds; the reader does without.
spec = importlib.util.find_spec("streaming")
package = types.ModuleType("streaming")
package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
sys.modules["streaming"] = package
from streaming.base import StreamingDataset
from streaming.base.util import clean_stale_shared_memory
rows = [
    (s["id"], s["caption"], x.tobytes().hex(), str(x.dtype), x.shape)
    for s in StreamingDataset(local=sys.argv[1], batch_size=1, validate_hash="sha1")
    for x in [s["latents"]]
]
clean_stale_shared_memory()
print(json.dumps(rows))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_streaming_reads_it(cache, export):
    """With T2V_STREAMING=folder of: pip install --target folder mosaicml-streaming==0.10.0."""
    folder = os.environ.get("T2V_STREAMING")
    if folder is None:
        pytest.skip("set T2V_STREAMING to a folder with mosaicml-streaming (see the docstring)")
    out, _ = export("mds", "--statistic", "mean", "--clip-frames", 34, "--shard-bytes", "1kB")
    found = {}
    for bucket in ("h32w32x34", "h32w64x34"):
        done = subprocess.run(
            [sys.executable, "-c", _STREAMING, out / bucket],
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        for identity, text, data, dtype, shape in json.loads(done.stdout.splitlines()[-1]):
            assert text == caption(identity.split(":")[0])
            found[identity] = np.frombuffer(bytes.fromhex(data), dtype).reshape(shape)
    check(found, expected(cache, "mean", 34))


def test_fastvideo(cache, export):
    out, told = export("fastvideo", "--clip-frames", 17, "--workers", 2)
    assert told["statistic"] == "mean"
    rows = pq.read_table(out).to_pylist()
    found = {}
    for row in rows:
        # As its loader does it: float32, whatever the row says.
        latents = np.frombuffer(row["vae_latent_bytes"], np.float32)
        latents = latents.reshape(row["vae_latent_shape"])
        assert latents.shape[:2] == (2, 3)  # channels, latent frames
        found[row["id"]] = np.moveaxis(latents, 0, 1).astype(np.float16)
        assert (latents == latents.astype(np.float16)).all()
        assert row["caption"] == caption(row["id"].split(":")[0])
        assert row["file_name"].startswith("/videos/")
        assert (row["num_frames"], row["fps"], row["duration_sec"]) == (17, 25.0, 17 / 25)
        assert (row["media_type"], row["height"]) == ("video", 32)
    check(found, expected(cache, "mean"))


def test_a_condition_and_its_record(cache, export):
    one = stable_hash("b")
    condition = f"contains(caption, '{one[:4]}') and bucket == '{WIDE.name}'"
    out, told = export("fastvideo", "--where", condition, "--statistic", "sample", "--seed", 3)
    assert told["clips"] == {f"{WIDE.name}x17": 5}
    record = json.loads((out / "_export.json").read_text())
    assert record["complete"] is True
    assert record["where"] == condition
    assert (record["snapshot"], record["statistic"], record["seed"]) == (1, "sample", 3)
    assert record["contract"]["encoder_sha256"] == "ab" * 32
    (shards,) = record["shards"].values()
    assert sum(shard["samples"] for shard in shards) == 5
    assert all((out / f"{WIDE.name}x17" / s["name"]).stat().st_size == s["bytes"] for s in shards)


def test_plan_writes_nothing(export, cache, tmp_path, capsys):
    given = [cache.uri, "--format", "mds", "--out", str(tmp_path / "out"), "--plan"]
    assert export_cache.main(given) == 0
    assert "11 clips of h32w32x17" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_an_interrupted_export_is_seen(export, monkeypatch):
    """Whatever ends it, the marker says that it is not complete, and MDS folders have no index."""

    def end(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.export.mds.MDS.index", end)
        out, err = export("mds", code=130)
    assert "is not complete; delete it" in err
    assert json.loads((out / "_export.json").read_text())["complete"] is False
    assert list(out.rglob("*.mds"))
    assert not list(out.rglob("index.json"))
    _, err = export("mds", code=1)
    assert "an export was interrupted here" in err


def test_nothing_is_overwritten(export, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    out, err = export("webdataset", code=1)
    assert "there are files here (notes.txt, …), and nothing is overwritten" in err
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_any_filesystem(cache, capsys):
    uri = f"memory://{secrets.token_hex(6)}/out"
    arguments = [cache.uri, "--format", "webdataset", "--out", uri]
    assert export_cache.main(arguments) == 0
    filesystem, path = fsspec.url_to_fs(uri)
    assert filesystem.exists(f"{path}/h32w32x17/000000.tar")
    assert json.loads(filesystem.cat_file(f"{path}/_export.json"))["complete"] is True
    assert export_cache.main(arguments) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    filesystem.rm(path, recursive=True)


def test_from_s3_to_s3(s3, s3_prefix, capsys, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_REGION", REGION)
    cache = Builder(f"s3://{s3_prefix}/cache", storage=s3.storage)
    cache.encode([(stable_hash("a"), 1)])
    cache.publish()
    uri = f"s3://{s3_prefix}/out"
    arguments = [cache.uri, "--format", "webdataset", "--statistic", "mean", "--out", uri]
    assert export_cache.main(arguments) == 0
    store = Store(uri, s3.storage)
    assert store.names("h32w32x17") == ["000000.tar"]
    assert json.loads(store.read("_export.json"))["complete"] is True
    with tarfile.open(fileobj=io.BytesIO(store.read("h32w32x17/000000.tar"))) as tar:
        names = [name for name in tar.getnames() if name.endswith(".latents.npy")]
        found = {
            n.removesuffix(".latents.npy").replace("-", ":"): np.load(
                io.BytesIO(tar.extractfile(n).read())
            )
            for n in names
        }
    check(found, expected(cache, "mean"))
    assert export_cache.main(arguments) == 1
    assert "nothing is overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--where", "title == 'x'"], "No match for FieldRef.Name(title)"),
        (["--where", "caption =="], "the condition 'caption ==': invalid syntax"),
        (["--where", "fps > 1000"], "has no clip of (1, 17) frames that fits"),
        (["--columns", "title"], "--columns 'title': there is no such column"),
        (["--snapshot", "7"], "snapshot 7"),
        (["--clip-frames", "18"], "clip_frames 18"),
        (["--format", "fastvideo", "--statistic", "moments"], "a row of FastVideo holds one"),
        (["--shard-bytes", "3GB"], "--shard-bytes 3000000000"),
    ],
)
def test_mistakes(export, arguments, told):
    out, err = export("mds", *arguments, code=1)
    assert err.startswith("error: ")
    assert told in err
    assert len(err) < 1500
    assert not out.exists()
