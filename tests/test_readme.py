"""What the README and the format's description promise is what the code has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.config import BucketConfig, Config, load_config
from pipeline.errors import Reason
from pipeline.schema import TABLES

ROOT = Path(__file__).parents[1]


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BucketConfig:
            yield from _keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default


def _documented() -> set[str]:
    text = (ROOT / "README.md").read_text()
    table = text.split("## Configuration")[1].split("## ")[0]
    keys: set[str] = set()
    for line in table.splitlines():
        if not line.startswith("| `"):
            continue
        section = ""
        for name in re.findall(r"`([a-z_.]+)`", line.split("|")[1]):
            section = name.rpartition(".")[0] if not name.startswith(".") else section
            keys.add(section + name if name.startswith(".") else name)
    return keys


def test_every_configuration_key_is_in_the_reference_and_no_other():
    assert _documented() == {name for name, _ in _keys(Config)}


CONFIGS = [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "tests" / "benchmarks").glob("*.yaml")]


@pytest.mark.parametrize("path", sorted(CONFIGS), ids=lambda p: p.name)
def test_shipped_configurations_load(path):
    config = load_config(str(path))
    assert config.buckets


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described(table):
    text = (ROOT / "docs" / "cache-format.md").read_text()
    section = text.split(f"### `{table}`")[1].split("\n## ")[0].split("\n### ")[0]
    described = set(re.findall(r"`([a-z_]+)`", section))
    assert set(TABLES[table].names) <= described


def test_every_reason_is_described():
    text = (ROOT / "docs" / "cache-format.md").read_text()
    assert all(f"`{reason}`" in text for reason in Reason)


PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "vae")
    for path in folder.glob("*.md")
    if path.name != "CHANGELOG.md"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, target
