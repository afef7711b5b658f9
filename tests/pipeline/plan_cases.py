"""A dataset and its cache, planned as a run would."""

import json
from dataclasses import replace

from helpers import (
    SMALL,
    TALL,
    WIDE,
    make_config,
    make_contract,
    make_facts,
    make_manifest,
    make_segment,
    sample_row,
    source_row,
)

from pipeline.catalog import read_catalog
from pipeline.packs import facts_to_json
from pipeline.plan import make_plan
from pipeline.recipe import Recipe

CONTRACT = make_contract()


BUCKETS = [{"height": b.height, "width": b.width} for b in (SMALL, WIDE, TALL)]


class Prober:
    """Answers with the facts given by URI; notes what it was asked."""

    def __init__(self, answers=None, default=None):
        self.answers = answers or {}
        self.default = default or make_facts()
        self.asked = []

    def __call__(self, files):
        self.asked.extend(files)
        return [self.answers.get(uri, self.default) for uri, _ in files]


class Dataset:
    """A dataset and its cache; ``plan`` looks at them as a run would."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = []
        self.prober = Prober()
        self.manifest = make_manifest(folder / "cache")
        self.fields = {}

    def plan(self, run_id="run", prober=None, overwrite=False, retry_failed=False, **fields):
        path = self.folder / "list.jsonl"
        path.write_text("".join(json.dumps({"version": "v1", **row}) + "\n" for row in self.rows))
        config = make_config(dataset__uri=str(path), **{**self.fields, **fields})
        return make_plan(
            config,
            read_catalog(config),
            self.manifest,
            Recipe.from_config(config, CONTRACT),
            run_id,
            prober or self.prober,
            overwrite=overwrite,
            retry_failed=retry_failed,
        )

    def finish(self, plan, status="ok", **changes):
        """Append what a run that brought all sources of the plan to an end would append."""
        self.manifest.append(
            "sources",
            [
                source_row(
                    source.source_id,
                    revision=source.revision,
                    uri=source.uri,
                    version=source.version,
                    recipe=source.recipe,
                    generation=source.generation,
                    attempts=source.attempts + 1,
                    status=status,
                    buckets=[bucket.name for bucket in source.buckets],
                    width=source.display_size[0] if source.buckets else None,
                    height=source.display_size[1] if source.buckets else None,
                    is_image=source.is_image if source.buckets else None,
                    facts=None if source.facts is None else facts_to_json(source.facts),
                    **changes,
                )
                for source in plan.sources.values()
            ],
        )

    def hold(self, source, first, windows, bucket=SMALL, **changes):
        """Append windows of a source, as an interrupted run leaves them."""
        segment = make_segment(source.source_id, first, windows, bucket, **changes)
        self.manifest.append(
            "samples", [sample_row(replace(segment, generation=source.generation))]
        )


def clips(plan):
    return [clip for unit in plan.units for file in unit.files for clip in file.clips]


def only(plan):
    [source] = plan.sources.values()
    return source


def kinds(plan):
    return {name: count for name, count in plan.kinds.items() if count}
