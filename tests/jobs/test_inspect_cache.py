"""The job that tells all of one sample or source, and shows it."""

import json
from pathlib import Path

import av
import pytest
from PIL import Image

from jobs import encode_dataset, inspect_cache
from pipeline import LatentCache
from tests.e2e.support import config_tree, write_config, write_list

CLIP = "h264_open"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = inspect_cache.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def cache(tmp_path_factory, clip_folder) -> Path:
    """Snapshot 1 with a clip and one that is gone; snapshot 2 with an image too."""
    from tests import clips

    folder = tmp_path_factory.mktemp("inspect")
    rows = [
        {"video": str(clips.make(CLIP, clip_folder)), "id": "clip-1", "caption": "a caption"},
        {"video": str(folder / "gone.mp4"), "id": "gone"},
    ]
    dataset = write_list(folder / "clips.jsonl", rows)
    config = write_config(
        folder / "c.yaml", config_tree(dataset, folder / "cache", windows__tail="pad")
    )
    assert encode_dataset.main(["--config", str(config)]) == 0
    write_list(dataset, [*rows, {"video": str(clips.make("png", clip_folder)), "id": "image"}])
    assert encode_dataset.main(["--config", str(config)]) == 0
    return folder / "cache"


def last(out):
    return json.loads(out.rstrip("\n").rsplit("\n", 1)[-1])


def test_a_source_by_each_of_its_names(cache, capsys, clip):
    opened = LatentCache.open(str(cache))
    [source] = [r for r in opened.sources().to_pylist() if r["id"] == "clip-1"]
    rows = [r for r in opened.samples().to_pylist() if r["source_id"] == source["source_id"]]
    for name in ("clip-1", source["source_id"], clip(CLIP)):
        code, out, err = run(capsys, cache, name)
        assert code == 0, err
        told = last(out)
        assert told["source_id"] == source["source_id"]
        assert [w["sample_id"] for w in told["windows"]] == [r["sample_id"] for r in rows]
        assert told["brought_by_snapshot"] == 1
        assert told["snapshot"] == 2
        assert told["caption"]["caption"] == "a caption"
        assert told["contract"]["encoder_sha256"] == opened.contract.encoder_sha256
        assert [c["problem"] for c in told["checked"]] == [None] * len(told["checked"])
        mean = opened.read(rows[0]["sample_id"])["mean"].double()
        assert told["checked"][0]["statistics"]["mean"]["mean"] == pytest.approx(float(mean.mean()))
        assert "a caption" in out
        assert "brought by       snapshot 1" in out


def test_how_many_windows_were_read_is_told(cache, capsys):
    _, out, _ = run(capsys, cache, "clip-1")
    count = len(last(out)["windows"])
    assert count > len(last(out)["checked"]) == 4
    assert f"{count} windows, the stored bytes of 4 were read" in out
    _, out, _ = run(capsys, cache, "clip-1", "--max-windows", str(count))
    assert len(last(out)["checked"]) == count
    assert "were read" not in out


def test_a_sample_is_shown_as_pictures_and_a_video(cache, capsys, tmp_path):
    opened = LatentCache.open(str(cache))
    rows = [r for r in opened.samples().to_pylist() if r["frames"] == 17]
    sample = rows[-1]  # padded
    assert sample["valid_frames"] < 17
    code, out, err = run(capsys, cache, sample["sample_id"], "--out", tmp_path / "look")
    assert code == 0, err
    told = last(out)
    assert told["sample_id"] == sample["sample_id"]
    assert len(told["windows"]) == len(told["psnr"]) == 1
    assert told["not_shown"] == []
    names = {Path(path).suffix: path for path in told["files"]}
    assert set(names) == {".png", ".mp4"}
    with Image.open(names[".png"]) as picture:
        assert picture.width >= 3 * sample["width"]
    with av.open(names[".mp4"]) as video:
        frames = list(video.decode(video=0))
    assert (frames[0].width, frames[0].height) == (3 * sample["width"], sample["height"])
    assert len(frames) == 17
    left = frames[0].to_ndarray(format="rgb24")[:, : sample["width"]]
    assert left.std() > 5  # a picture, not a blank


def test_an_image_and_what_has_no_windows(cache, capsys, tmp_path):
    code, out, _ = run(capsys, cache, "image", "--out", tmp_path)
    told = last(out)
    assert code == 0
    assert told["brought_by_snapshot"] == 2
    assert [Path(path).suffix for path in told["files"]] == [".png"]
    code, out, _ = run(capsys, cache, "gone", "--out", tmp_path)
    told = last(out)
    assert code == 0
    assert told["windows"] == told["files"] == []
    assert told["source"]["reason"] == "missing"
    assert "failed (missing" in out


def test_damage_is_found(cache, capsys, tmp_path):
    import shutil

    shutil.copytree(cache, tmp_path / "cache")
    [image] = [r for r in LatentCache.open(str(cache)).samples().to_pylist() if r["frames"] == 1]
    shard = tmp_path / "cache" / image["shard"]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    code, out, _ = run(capsys, tmp_path / "cache", "image")
    assert code == 0
    assert "DAMAGED" in out
    assert "not those that were written" in last(out)["checked"][0]["problem"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["CACHE", "nobody"], ["nobody", "knows no sample", "source_id"]),
        (["CACHE", "0" * 32], ["0" * 32, "knows no sample"]),
        (["CACHE", "image", "--snapshot", "1"], ["image", "snapshot 1"]),
        (["/no/such/cache", "x"], ["/no/such/cache"]),
        (["CACHE", "clip-1", "--out", "s3://b/x"], ["s3://b/x", "local folder"]),
        (["/no/such/cache", "x", "--out", "/dev/null/x"], ["/dev/null/x", "written"]),
    ],
)
def test_mistakes_are_one_message(cache, capsys, arguments, parts):
    code, _, err = run(capsys, *(str(cache) if a == "CACHE" else a for a in arguments))
    assert code == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert all(part in err for part in parts), err


def test_a_uri_of_several_clips_asks_which(tmp_path, clip, capsys):
    rows = [{"video": str(clip(CLIP)), "start": start} for start in (0.0, 0.5)]
    dataset = write_list(tmp_path / "clips.jsonl", rows)
    config = write_config(tmp_path / "c.yaml", config_tree(dataset, tmp_path / "cache"))
    assert encode_dataset.main(["--config", str(config)]) == 0
    code, _, err = run(capsys, tmp_path / "cache", clip(CLIP))
    assert code == 1
    assert "names 2 sources" in err
    assert "0.5 s" in err
