"""The whole page: figures that equal the tables', hostile names, and its size."""

import html.parser
import os
import re

import pytest

from pipeline.bench.apart import apart
from pipeline.bench.build import bench_config, build
from pipeline.bench.measure import cpu_seconds, resident_bytes
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.manifest import Manifest
from pipeline.page.look import Decoder
from pipeline.page.make import Asked, make_page
from pipeline.storage import Store
from tests.e2e.test_hostile_names import TEXTS
from tests.pipeline.helpers import (
    LOCAL,
    make_contract,
    make_manifest,
    make_segment,
    sample_row,
    source_row,
)
from tests.pipeline.maintain.builder import Builder

NONE = Asked(0, Decoder(), LOCAL)


class Reader(html.parser.HTMLParser):
    """Figures, tags, and addresses of a page; complains of tags that are not closed."""

    EMPTY = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.figures, self.tags, self.addresses, self.open = {}, set(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if "data-figure" in found:
            self.figures[found["data-figure"]] = int(found["value"])
        assert not any(name.startswith("on") for name in found)
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(manifest):
    return make_page(manifest, manifest.snapshot(), NONE).html


def test_figures_are_those_of_the_manifest(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode({(stable_hash(n), 1): n for n in range(6)})
    cache.publish()
    cache.remove(stable_hash(5))
    cache.publish()
    read = Reader(page_of(cache.manifest))
    opened = cache.open()
    statuses = opened.sources()["status"].to_pylist()
    assert read.figures["sources"] == len(statuses) == 5
    for status in ("ok", "skipped", "failed"):
        assert read.figures[status] == statuses.count(status)
    assert read.figures["windows"] == opened.samples().num_rows == 10
    assert read.figures["padded"] == 0
    assert read.figures["ok"] + read.figures["skipped"] + read.figures["failed"] == 5


def test_the_page_asks_no_network_and_runs_no_script(tmp_path):
    cache = Builder(tmp_path / "cache")
    cache.encode([(stable_hash("a"), 1)])
    cache.publish()
    text = page_of(cache.manifest)
    read = Reader(text)
    assert not read.tags & {"script", "iframe", "object", "embed", "form", "base"}
    assert all(address.startswith(("#", "data:")) for address in read.addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert {"header", "nav", "main", "footer", "section", "h1", "h2"} <= read.tags


def test_hostile_names_stay_text(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    texts = [*TEXTS.values(), "https://h/a.mp4?X-Amz-Signature=s3cret", "https://u:s3cret@h/b"]
    rows = []
    for text in texts:
        for reason in (text, "missing"):
            rows.append(
                source_row(
                    stable_hash([text, reason]),
                    uri=text,
                    id=text,
                    status="failed",
                    reason=reason,
                    message=f"{text}: <img src=x onerror=alert(1)> {text}",
                )
            )
    evil = '{"codec": "</style><script>alert(2)</script>", "fps": 25.0, "duration": 1.0}'
    segment = make_segment(stable_hash("x"), 0, 1)
    manifest.append("samples", [sample_row(segment)])
    rows.append(source_row(stable_hash("x"), facts=evil))
    manifest.append("sources", rows)
    manifest.publish("<b>run</b>", make_contract())
    text = page_of(manifest)
    read = Reader(text)
    assert "script" not in read.tags
    assert "b" in read.tags  # ours
    assert "<b>run" not in text
    assert "<img" not in text
    assert "s3cret" not in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert read.figures["failed"] == 2 * len(texts)


def test_a_cache_without_windows_has_a_page(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.write_contract(make_contract())
    manifest.append("sources", [source_row(stable_hash("a"), status="failed", reason="missing")])
    manifest.publish("run", make_contract())
    assert Reader(page_of(manifest)).figures["windows"] == 0
    with pytest.raises(UserError, match="no snapshot"):
        make_manifest(tmp_path / "none").snapshot()


def synthetic(folder, sources):
    folder.mkdir(exist_ok=True)
    build(folder, sources, windows=2)
    config = bench_config(folder)
    return Manifest(Store(config.output.uri, config.storage))


def test_the_page_does_not_grow_with_the_cache(tmp_path):
    sizes = []
    for sources in (500, 5000):
        text = page_of(synthetic(tmp_path / str(sources), sources))
        assert Reader(text).figures["windows"] == 2 * sources
        sizes.append(len(text.encode()))
    assert abs(sizes[1] - sizes[0]) < 1000


def page_and_cost(folder):
    """The page of a synthetic cache, its CPU seconds, and this process's peak of memory."""
    config = bench_config(folder)
    manifest = Manifest(Store(config.output.uri, config.storage))
    before = cpu_seconds()
    text = page_of(manifest)
    return text, cpu_seconds() - before, resident_bytes(os.getpid())


@pytest.mark.slow
def test_a_million_segments_make_a_page_below_10_megabytes(tmp_path):
    synthetic(tmp_path, 1_000_000)
    text, seconds, peak = apart(page_and_cost, tmp_path)
    assert Reader(text).figures["segments"] == 1_000_000
    assert len(text.encode()) < 10_000_000
    assert seconds < 60
    assert peak < 1.5e9
