"""What is asked of the S3 server, counted there: nothing in vain, and never two versions mixed."""

from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from pipeline import LatentCache
from pipeline.config import Config, load_config
from pipeline.job import EXIT_DONE, JobOptions, run_job
from pipeline.runner import probe_file
from pipeline.video.facts import Header
from tests import clips
from tests.e2e.support import config_tree, write_config, write_list
from tests.faults import FaultProxy, Rule, fault_proxy

BLOCK = 4 * 2**20
BIG = {"front": "front.mp4", "end": "end.mp4", "matroska": "big.mkv"}
START, END = 7.0, 8.0
SIZE = (1280, 544)
NAMES = ["h264_open", "vp9", "png"]


@pytest.fixture
def proxy(s3) -> Iterator[FaultProxy]:
    with fault_proxy(s3) as running:
        yield running


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """A folder with a real clip of 10 s at a very high bitrate: index in front, at the end, MKV."""
    folder = tmp_path_factory.mktemp("big")
    rich = {"preset": "ultrafast", "qp": "2", "g": "25", "bf": "0"}
    end = clips.encode(folder / BIG["end"], "libx264", count=250, size=SIZE, options=rich)
    _remux(end, folder / BIG["front"], {"movflags": "faststart"})
    _remux(end, folder / BIG["matroska"], {})
    for name in BIG.values():
        assert (folder / name).stat().st_size > 24 * 10**6
    assert (folder / BIG["front"]).read_bytes()[:4096].count(b"moov") == 1
    return folder


def _remux(source: Path, destination: Path, options: dict[str, str]) -> None:
    with av.open(str(source)) as given, av.open(str(destination), "w", options=options) as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)


def _config(tmp_path: Path, proxy: FaultProxy, dataset: str, output: str, **changes) -> Config:
    tree = config_tree(dataset, output, windows__fps="12", windows__tail="pad", **changes)
    tree["run"]["commit_seconds"] = 60
    tree["storage"] = {"endpoint_url": proxy.endpoint, "region": proxy.storage.region}
    return load_config(str(write_config(tmp_path / "config.yaml", tree)))


def _states(cache: str, proxy: FaultProxy) -> dict[str, str]:
    rows = LatentCache.open(cache, storage=proxy.storage).sources().to_pylist()
    return {Path(row["uri"]).name: row["reason"] or row["status"] for row in rows}


def _sampled(cache: str, proxy: FaultProxy) -> set[str]:
    """Names of the sources that the newest snapshot has samples of."""
    opened = LatentCache.open(cache, storage=proxy.storage)
    names = {row["source_id"]: Path(row["uri"]).name for row in opened.sources().to_pylist()}
    return {names[identity] for identity in opened.samples()["source_id"].to_pylist()}


@pytest.mark.parametrize("kind", ["prefix", "list"])
def test_a_refresh_without_changes_asks_no_source(tmp_path, clip, s3, s3_prefix, proxy, kind):
    files = s3.filesystem()
    for name in NAMES:
        files.put_file(str(clip(name)), f"{s3_prefix}/in/{clip(name).name}")
    dataset = f"s3://{s3_prefix}/in"
    if kind == "list":
        rows = [{"video": f"in/{clip(name).name}", "version": "v1"} for name in NAMES]
        files.put_file(str(write_list(tmp_path / "l.jsonl", rows)), f"{s3_prefix}/l.jsonl")
        dataset = f"s3://{s3_prefix}/l.jsonl"
    config = _config(tmp_path, proxy, dataset, f"s3://{s3_prefix}/cache")
    assert run_job(config, JobOptions()) == EXIT_DONE
    assert proxy.of(f"{s3_prefix}/in/")
    proxy.clear()
    assert run_job(config, JobOptions()) == EXIT_DONE
    below = f"{s3_prefix.partition('/')[2]}%2Fin"
    assert proxy.of(f"{s3_prefix}/in/.") == []
    listings = [r for r in proxy.requests if f"prefix={below}" in r.query]
    assert len(listings) == (1 if kind == "prefix" else 0)
    assert len(proxy.requests) > 10  # of the cache: they do pass through here
    cache = LatentCache.open(f"s3://{s3_prefix}/cache", storage=proxy.storage)
    assert cache.snapshot.number == 1


@pytest.mark.parametrize("name", BIG)
def test_probing_reads_at_most_a_megabyte(tmp_path, s3, s3_prefix, proxy, big, name):
    key = f"{s3_prefix}/{BIG[name]}"
    s3.filesystem().put_file(str(big / BIG[name]), key)
    config = _config(tmp_path, proxy, f"s3://{s3_prefix}", str(tmp_path / "cache"))
    facts = probe_file(f"s3://{key}", None, config)
    assert isinstance(facts, Header)
    assert (facts.width, facts.height) == SIZE
    assert sum(r.sent for r in proxy.of(key)) <= 10**6
    assert len(proxy.of(key)) <= 9


def _bytes_between(path: Path, start: float, end: float) -> int:
    """Bytes of the packets shown from ``start`` to ``end``, with those back to the key frame."""
    with av.open(str(path)) as container:
        packets = [
            (float(p.pts * p.time_base), p.size, p.is_keyframe)
            for p in container.demux(video=0)
            if p.pts is not None
        ]
    first = max(time for time, _, key in packets if key and time <= start)
    return sum(size for time, size, _ in packets if first <= time < end)


@pytest.mark.parametrize("name", BIG)
def test_a_segment_of_a_long_video_transfers_about_itself(
    tmp_path, s3, s3_prefix, proxy, big, name
):
    key = f"{s3_prefix}/{BIG[name]}"
    s3.filesystem().put_file(str(big / BIG[name]), key)
    row = {"video": f"s3://{key}", "start": START, "end": END, "width": SIZE[0], "height": SIZE[1]}
    dataset = write_list(tmp_path / "l.jsonl", [{**row, "duration": 10.0}])
    config = _config(tmp_path, proxy, str(dataset), str(tmp_path / "cache"))
    assert run_job(config, JobOptions()) == EXIT_DONE
    assert LatentCache.open(str(tmp_path / "cache")).samples().num_rows == 1
    segment = _bytes_between(big / BIG[name], START, END)
    assert sum(r.sent for r in proxy.of(key)) <= segment + 3 * BLOCK
    assert segment + 3 * BLOCK < 0.7 * (big / BIG[name]).stat().st_size


def _replacing(s3, key: str, path: Path):
    return lambda: s3.filesystem().put_file(str(path), key)


def test_a_source_replaced_before_it_is_decoded(tmp_path, clip, s3, s3_prefix, proxy):
    files = s3.filesystem()
    for name in NAMES:
        files.put_file(str(clip(name)), f"{s3_prefix}/in/{clip(name).name}")
    key = f"{s3_prefix}/in/{clip('vp9').name}"
    config = _config(tmp_path, proxy, f"s3://{s3_prefix}/in", f"s3://{s3_prefix}/cache")
    # The run's first row is written when its plan stands.
    proxy.add(Rule("call", "PUT", "/runs/", times=1, action=_replacing(s3, key, clip("h264_long"))))
    assert run_job(config, JobOptions()) == EXIT_DONE
    cache = f"s3://{s3_prefix}/cache"
    assert _states(cache, proxy) == {
        **{clip(name).name: "ok" for name in NAMES},
        clip("vp9").name: "source_changed",
    }
    assert clip("vp9").name not in _sampled(cache, proxy)

    assert run_job(config, JobOptions()) == EXIT_DONE
    assert set(_states(cache, proxy).values()) == {"ok"}
    sources = LatentCache.open(cache, storage=proxy.storage).sources().to_pylist()
    versions = {row["uri"]: row["version"] for row in sources}
    assert versions[f"s3://{key}"] == files.info(key)["ETag"].strip('"')


def test_a_source_replaced_in_the_middle_of_its_decoding(tmp_path, clip, s3, s3_prefix, proxy, big):
    files = s3.filesystem()
    other = f"{s3_prefix}/in/{clip('png').name}"
    key = f"{s3_prefix}/in/{BIG['front']}"
    files.put_file(str(clip("png")), other)
    files.put_file(str(big / BIG["front"]), key)
    before = files.info(key)["ETag"]
    replace = Rule(
        "call", "GET", key, skip=2, times=1, action=_replacing(s3, key, clip("h264_long"))
    )
    proxy.add(Rule("call", "PUT", "/runs/", times=1, action=lambda: proxy.add(replace)))
    config = _config(
        tmp_path,
        proxy,
        f"s3://{s3_prefix}/in",
        f"s3://{s3_prefix}/cache",
        windows__segment_windows=1,
        output__shard_bytes=1,
        run__pack_bytes=1,
    )
    assert run_job(config, JobOptions()) == EXIT_DONE
    assert replace.hits == 1
    blocks = [r for r in proxy.of(key, "GET") if r.status == 206 and r.sent == BLOCK]
    assert len(blocks) == 2
    assert {r.if_match for r in blocks} == {before}
    assert all(r.if_match for r in proxy.of(key, "GET"))
    assert [r.status for r in proxy.of(key, "GET")].count(412) == 1
    cache = f"s3://{s3_prefix}/cache"
    assert _states(cache, proxy) == {BIG["front"]: "source_changed", Path(other).name: "ok"}
    assert _sampled(cache, proxy) == {Path(other).name}
    # Windows were written before the change was met; they stay out of every snapshot.
    assert len(files.find(f"{s3_prefix}/cache/data")) > 1

    assert run_job(config, JobOptions()) == EXIT_DONE
    assert _states(cache, proxy) == {BIG["front"]: "ok", Path(other).name: "ok"}
    assert _sampled(cache, proxy) == {BIG["front"], Path(other).name}
    opened = LatentCache.open(cache, storage=proxy.storage)
    facts = {row["uri"]: (row["version"], row["width"]) for row in opened.sources().to_pylist()}
    assert facts[f"s3://{key}"] == (files.info(key)["ETag"].strip('"'), 160)
