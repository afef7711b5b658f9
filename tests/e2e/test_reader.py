"""From videos to batches: a run publishes the reader's index, and the reader gives its samples."""

import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from pipeline import Contract, LatentCache, LatentDataset
from pipeline.reader.index import index_paths
from tests.e2e.support import config_tree, run_here, write_config, write_list


def _read(cache: Path, tmp_path: Path, workers: int = 0, **options):
    """The datasets's batches; that an index is missing would be an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = LatentDataset(str(cache), local_dir=tmp_path / "local", **options)
        return dataset, list(DataLoader(dataset, batch_size=None, num_workers=workers))


def test_the_reader_gives_what_a_run_encoded(tmp_path, clip):
    names = ["bikes", "h264_open", "png", "text"]
    rows = [
        {"video": str(clip(name)), "id": name, "caption": f"a clip of {name}"} for name in names
    ]
    rows[0]["end"] = 3.0
    output = tmp_path / "cache"
    config = write_config(
        tmp_path / "config.yaml",
        config_tree(
            write_list(tmp_path / "clips.jsonl", rows),
            output,
            windows__fps="12",
            windows__tail="pad",
        ),
    )
    done = run_here(config)
    assert done.code == 0, done.stderr
    cache = LatentCache.open(str(output))
    samples = cache.samples().to_pylist()
    assert all((output / path).stat().st_size > 0 for path in index_paths(1))
    expect = Contract.matching(encoder_sha256=cache.contract.encoder_sha256)
    options = {"statistic": "mean", "columns": ["caption", "status"], "expect": expect}

    # Every window, and every image, by its first frame: with its caption, and the same numbers.
    _, batches = _read(
        output, tmp_path, 2, clip_frames=[17, 1], allow_padded=True, batch_size=2, **options
    )
    assert not list((tmp_path / "local").glob("index-*"))  # that of the run was mapped
    by_place = {(s["source_id"], s["bucket"], s["first_frame"]): s for s in samples}
    captions = {r["source_id"]: r["caption"] for r in cache.sources().to_pylist()}
    seen = set()
    for batch in batches:
        for n, identity in enumerate(batch["ids"]):
            source, bucket, first = identity.split(":")
            sample = by_place[source, bucket, int(first)]
            seen.add(sample["sample_id"])
            assert torch.equal(batch["latents"][n], cache.read(sample["sample_id"])["mean"])
            assert batch["caption"][n] == captions[source]
            assert batch["status"][n] == "ok"
            assert batch["valid_frames"][n] == sample["valid_frames"]
    assert seen == {sample["sample_id"] for sample in samples}
    assert any(sample["valid_frames"] < 17 and sample["frames"] == 17 for sample in samples)

    # Joined clips are consecutive full windows.
    dataset, joined = _read(output, tmp_path, clip_frames=34, **options)
    assert len(joined) == sum(dataset.clips.values()) > 0
    for batch in joined:
        source, bucket, first = batch["ids"][0].split(":")
        parts = [by_place[source, bucket, int(first) + 17 * n] for n in range(2)]
        assert [part["valid_frames"] for part in parts] == [17, 17]
        whole = torch.cat([cache.read(part["sample_id"])["mean"] for part in parts])
        assert torch.equal(batch["latents"][0], whole)

    # A second run finds nothing to do: no further snapshot, no further index.
    assert run_here(config).code == 0
    assert sorted(p.name for p in (output / "index").iterdir()) == ["1.segments", "1.sources"]
