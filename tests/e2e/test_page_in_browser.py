"""The page in headless Chromium: no complaint, no overflow, readable, numbers as in the tables."""

import functools
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import encode_dataset, report_cache
from pipeline import LatentCache
from tests import clips
from tests.e2e.support import config_tree, write_config, write_list

pytestmark = pytest.mark.slow

WIDTHS = [360, 768, 1280]

OVERFLOW = """
return [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('nav') && !e.closest('.skip-link'))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.tagName + '.' + e.getAttribute('class'));
"""

# Of every element with text of its own: the ratio of WCAG 2 against the nearest background.
CONTRAST = r"""
const parse = c => c.match(/[\d.]+/g).map(Number);
const light = c => { const [r, g, b] = parse(c).slice(0, 3).map(v => {
  v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) {
  const c = getComputedStyle(e).backgroundColor, p = parse(c);
  if (c.startsWith('rgb') && (p.length === 3 || p[3] === 1)) return c; }
  return getComputedStyle(document.body).backgroundColor; };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
  if (e.closest('title') || e.closest('style')) continue;
  const style = getComputedStyle(e);
  const svg = e.namespaceURI.endsWith('svg');
  const a = light(svg ? style.fill : style.color), b = light(behind(svg ? e.ownerSVGElement : e));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.push([e.tagName, e.textContent.trim().slice(0, 40), ratio]);
}
return found;
"""

FIGURES = """
return Object.fromEntries([...document.querySelectorAll('[data-figure]')]
  .map(e => [e.dataset.figure, [Number(e.value), e.textContent]]));
"""

OUTLINE = """
return {
  lang: document.documentElement.lang, title: document.title,
  landmarks: ['header', 'nav', 'main', 'footer'].map(n => document.querySelectorAll(n).length),
  levels: [...document.querySelectorAll('h1,h2,h3')].map(e => Number(e.tagName[1])),
  unnamed: document.querySelectorAll(
    'img:not([alt]), svg:not([aria-label]):not([aria-hidden])').length,
  sections: [...document.querySelectorAll('nav a')].map(a => !!document.querySelector(a.hash)),
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length,
  images: document.images.length,
  fetched: performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length,
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[object]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def cache(tmp_path_factory, clip_folder) -> Path:
    """Two snapshots of clips and an image, with failures, hostile names and padded windows."""
    folder = tmp_path_factory.mktemp("page")
    make = functools.partial(clips.make, folder=clip_folder)
    rows = [{"video": str(make(name))} for name in ("h264_open", "seventeen", "png", "vp9")]
    evil = "<script>console.error('evil')</script>" + "w" * 300
    rows += [{"video": str(folder / evil), "id": evil}, {"video": str(folder / "gone.mp4")}]
    dataset = write_list(folder / "clips.jsonl", rows[1:])
    tree = config_tree(
        dataset, folder / "cache", windows__tail="pad", report__contact_sheet_windows=4
    )
    config = write_config(folder / "c.yaml", tree)
    for _ in range(2):
        assert encode_dataset.main(["--config", str(config)]) == 0
        write_list(dataset, rows)
    return folder / "cache"


@pytest.fixture(scope="module")
def page(cache, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("out")
    arguments = [str(cache), "--out", str(out), "--windows", "4"]
    assert report_cache.main(arguments) == 0
    return (out / "report.html").as_uri()


def show(browser, page, width, scheme="light"):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page)
    assert [e for e in browser.get_log("browser") if e["level"] != "INFO"] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(browser, page, width, scheme):
    show(browser, page, width, scheme)
    for details in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(OVERFLOW) == []
    assert browser.execute_script(CONTRAST) == []


def test_schemes_differ(browser, page):
    colours = set()
    for scheme in ("light", "dark"):
        show(browser, page, 1280, scheme)
        colours.add(
            browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        )
    assert len(colours) == 2


def test_its_numbers_are_the_manifests(browser, page, cache):
    show(browser, page, 1280)
    found = browser.execute_script(FIGURES)
    opened = LatentCache.open(str(cache))
    statuses = opened.sources()["status"].to_pylist()
    samples = opened.samples().to_pylist()
    want = {
        "sources": len(statuses),
        **{status: statuses.count(status) for status in ("ok", "skipped", "failed")},
        "windows": len(samples),
        "padded": sum(row["valid_frames"] < row["frames"] for row in samples),
    }
    assert want["failed"] == 2
    assert want["padded"] > 0
    assert {name: found[name][0] for name in want} == want
    assert all(found[name][1] == f"{number:,}" for name, number in want.items())
    rows = browser.find_elements("css selector", "#history tbody tr")
    assert len(rows) == opened.snapshot.number == 2


def test_it_has_landmarks_an_outline_and_words_for_pictures(browser, page):
    show(browser, page, 1280)
    found = browser.execute_script(OUTLINE)
    assert found["lang"] == "en"
    assert "snapshot 2" in found["title"]
    assert found["landmarks"] == [1, 1, 1, 1]
    levels = found["levels"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert found["unnamed"] == 0
    assert all(found["sections"])
    assert found["images"] == 12
    assert found["broken"] == 0
    assert found["fetched"] == 0


def test_the_checks_see_what_is_wrong(browser, page):
    show(browser, page, 360)
    browser.execute_script(
        "const e = document.createElement('p'); e.className = 'wrong'; e.textContent = 'faint';"
        "e.style.cssText = 'width: 500px; color: #999'; document.querySelector('main').append(e);"
    )
    assert browser.execute_script(OVERFLOW) == ["P.wrong"]
    assert [found[1] for found in browser.execute_script(CONTRAST)] == ["faint"]
