"""The table of metrics, and what the stages tell of their work."""

import re
import time

import pytest
from commit_cases import committer, end, segment, written
from encode_cases import FakeVAE, numbered_frames
from helpers import make_config, make_recipe, make_segment, make_source
from meters import Remembering

from pipeline.encode import WindowEncoder
from pipeline.metrics import BUSY, METRICS, NO_REASON, QUEUE, SILENT, SOURCES, WINDOWS
from pipeline.packs import FRAMES, PackMeta, to_batch
from pipeline.stages.encode import Encoder


def test_the_table_keeps_prometheus_conventions():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"t2v_[a-z_]+[a-z]", metric.name)
        assert metric.exported == f"ray_{metric.name}"
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert metric.help
        assert metric.unit in metric.name or metric.unit in ("frames", "bytes", "times", "sources")


def test_the_labels_of_all_metrics_have_few_values():
    """But for the name of the cache, of which a cluster serves as many as its users have."""
    for metric in METRICS:
        combinations = 1
        for label, values in metric.labels.items():
            assert values is not None or label == "cache"
            combinations *= len(values or (1,))
        assert combinations <= 64


@pytest.mark.parametrize(
    ("metric", "how", "labels", "wrong"),
    [
        (WINDOWS, "set", {"status": "kept", "reason": NO_REASON}, "is a counter"),
        (BUSY, "observe", {}, "is a counter"),
        (QUEUE, "add", {"queue": "commit"}, "is a gauge"),
        (WINDOWS, "add", {"status": "kept"}, "has the labels"),
        (BUSY, "add", {"worker": "w"}, "has the labels"),
        (SOURCES, "set", {"status": "ok", "reason": "file.mp4: broken"}, "reason may be one of"),
    ],
)
def test_what_the_table_does_not_have_is_refused(metric, how, labels, wrong):
    with pytest.raises(ValueError, match=wrong):
        getattr(SILENT, how)(metric, 1, **labels)


def test_an_encoder_tells_of_its_time_its_calls_and_its_windows():
    recipe, meter = make_recipe(), Remembering()
    model = FakeVAE([0.0, float("nan"), 2.0, 3.0, 1e6], memory=6 + 54 * 2)
    encode = Encoder(
        make_config(), recipe, lambda *_: WindowEncoder(model, recipe.contract, 0, 4), meter
    )
    pack = to_batch(PackMeta("p", (make_segment(windows=5),), ()), {FRAMES: numbered_frames(5)})
    encode(pack)
    assert meter.totals["t2v_encoder_idle_seconds_total",] == 0  # nothing was to be had before
    busy = meter.totals["t2v_encoder_busy_seconds_total",]
    assert busy > 0
    time.sleep(0.1)
    encode(pack)
    assert meter.totals["t2v_encoder_idle_seconds_total",] == pytest.approx(0.1, abs=0.05)
    assert meter.totals["t2v_encoder_busy_seconds_total",] > busy
    assert meter.totals["t2v_windows_total", "encoded", "none"] == 6
    assert meter.totals["t2v_windows_total", "refused", "not_finite"] == 2
    assert meter.totals["t2v_windows_total", "refused", "overflow"] == 2
    assert meter.totals["t2v_memory_backoffs_total",] == 1
    assert meter.observed["t2v_micro_batch_windows"] == [2, 2, 1, 2, 2, 1]


def test_a_committer_tells_of_bytes_commits_and_what_waits():
    meter = Remembering()
    chosen = committer(make_source("s"), meter=meter)
    chosen.add(written(segment("s", 0, 2), shards={"a": 100, "b": 11}))
    chosen.add(written(segment("s", 2, 2), end("s")))
    chosen.commit()
    chosen.commit()  # nothing to do, and nothing to tell
    assert meter.totals["t2v_bytes_written_total",] == 111
    assert meter.seen["t2v_queue_windows", "commit"] == [2, 4, 0, 0]
    [seconds] = meter.observed["t2v_commit_seconds"]
    assert 0 <= seconds < 1
