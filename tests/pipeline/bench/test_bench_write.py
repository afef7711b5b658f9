"""The write benchmark writes what the stage writes, measures this run, and leaves nothing."""

import json

import pytest

from jobs.benchmark import main
from pipeline.bench.write import latents, removed, write_plainly, write_shard
from pipeline.buckets import Bucket
from pipeline.packs import rows
from tests.pipeline.helpers import make_config


@pytest.mark.slow
def test_a_configuration(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"dataset: {{uri: clips}}\noutput: {{uri: {tmp_path}/cache}}\n"
        "buckets: [{height: 64, width: 32}, {height: 32, width: 64}]\n"
        "latents: {statistic: mean, dtype: float32}\nvae: {random_seed: 0, z_channels: 8}\n"
    )
    arguments = ["write", "--config", str(config), "--turns", "2", "--shard-bytes", "200kB"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["bucket"], found["statistic"], found["dtype"]) == ("h64w32", "mean", "float32")
    assert set(found["ways"]) == {"safetensors", "parquet", "plain"}
    for way in found["ways"].values():
        assert 160_000 < way["units"] < 300_000
        assert len(way["turns"]) == 2
        for turn in way["turns"]:
            assert turn["units"] == way["units"]
            assert turn["cpu_seconds"] > 0
            assert turn["wall_seconds"] > 0
    assert set(found["share_of_plain"]) == {"safetensors", "parquet"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "config.yaml"]


def test_the_latents_make_the_shard_asked_for(tmp_path):
    config = make_config(output__uri=str(tmp_path), output__shard_bytes="1MB")
    bucket = Bucket(32, 48)
    wanted = write_plainly(config, bucket)
    assert (tmp_path / "plain").stat().st_size == wanted
    for format_name in ("safetensors", "parquet"):
        size = write_shard(format_name, config, bucket)
        [shard] = tmp_path.rglob(f"*.{format_name}")
        assert shard.stat().st_size == size
        assert wanted < size
        assert len(list(rows(latents(config, bucket)))) > 1


def test_s3(s3, s3_prefix):
    uri = f"s3://{s3_prefix}"
    fields = {"output__shard_bytes": "400kB", "storage__endpoint_url": s3.endpoint}
    config, bucket = make_config(output__uri=uri, **fields), Bucket(32, 48)
    with removed(config):
        sizes = {write_plainly(config, bucket), write_shard("parquet", config, bucket)}
        found = s3.filesystem().find(s3_prefix, detail=True).values()
        assert sizes <= {entry["size"] for entry in found}
    assert not [path for path in s3.filesystem().find(s3_prefix) if path.count("/") > 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "either a URI to write to, or --config"),
        (("folder", "--height", "20"), "bucket height 20"),
        (("http://host/x",), "a cache lies on a local path or on s3://"),
    ],
)
def test_mistakes_are_told(arguments, words, capsys):
    assert main(["write", *arguments]) == 1
    assert words in capsys.readouterr().err
