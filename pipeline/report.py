"""What a run says of itself: the plan, the summary and the closing JSON object."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.commit import Tally
from pipeline.effort import Pace
from pipeline.forecast import Forecast, Rate
from pipeline.plan import Plan
from pipeline.progress import human_seconds


def human_bytes(count: float) -> str:
    """``1234567`` as ``1.23 MB``; decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:.0f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def plan_text(plan: Plan, forecast: Forecast) -> str:
    """The plan as people read it."""
    lines = [f"{plan.total} sources in the dataset:"]
    lines += [f"  {count:>9}  {kind}" for kind, count in plan.kinds.items()]
    lines.append(f"  {plan.removed.num_rows:>9}  removed (in the cache, not in the dataset)")
    if plan.quarantined.num_rows:
        lines.append(f"  {plan.quarantined.num_rows:>9}  of the failed are quarantined")
    lines.append(
        f"to do: {len(plan.sources)} sources ({plan.sources.refused} of them cannot be opened), "
        f"about {forecast.windows} windows in {len(plan.units)} tasks and {plan.packs} packs"
    )
    lines += [
        f"  {n:>9}  windows of {bucket.height}x{bucket.width}" for bucket, n in plan.windows.items()
    ]
    if plan.known:
        lines.append(
            f"held already: {plan.known} windows of these sources; those that decoding finds to be "
            "as before are not encoded again"
        )
    return "\n".join([*lines, *_prices(forecast)])


def _prices(forecast: Forecast) -> Iterator[str]:
    """What encoding and storing take, and cost where the prices are known."""
    month = forecast.storage_per_month
    stored = (
        f"{name} {human_bytes(size)}" + ("" if month is None else f" ({month[name]:,.2f} a month)")
        for name, size in forecast.bytes.items()
    )
    yield f"stored, by statistic: {', '.join(stored)}"
    yield (
        f"encoder time: about {human_seconds(forecast.seconds)} at "
        f"{forecast.rate.flops / 1e12:.3g} TFLOP/s an encoder ({forecast.rate.origin}); "
        f"{forecast.encoder_hours:,.2f} encoder hours, with {forecast.encoders} at once"
    )
    if forecast.cost is not None:
        yield (
            f"encoder cost: about {forecast.cost:,.2f} at {forecast.encoder_hour_price:g} an hour"
        )
    unknown = [
        key
        for key, value in (
            ("forecast.encoder_hour_price", forecast.cost),
            ("forecast.gb_month_price", month),
        )
        if value is None
    ]
    if unknown:
        yield f"cost: not known; set {' and '.join(unknown)}"


def plan_json(plan: Plan, forecast: Forecast) -> str:
    """The plan as one JSON object."""
    return json.dumps(
        {
            "sources": {"total": plan.total, **plan.kinds, "removed": plan.removed.num_rows},
            "windows": forecast.windows,
            "bytes": dict(forecast.bytes),
            "seconds": round(forecast.seconds, 1),
            "tflops_per_encoder": forecast.rate.flops / 1e12,
            "encoder_hours": forecast.encoder_hours,
            "cost": forecast.cost,
            "storage_per_month": forecast.storage_per_month,
        }
    )


@dataclass(frozen=True)
class RunReport:
    """The run's JSON object: the dataset's state after the run, and what this run wrote.

    Of ``pace`` it has the share of the time that encoders worked, start-up apart; None where
    nothing was encoded.
    """

    run_id: str
    sources: Mapping[str, int]
    windows: int
    shards: int
    bytes: int
    seconds: float
    snapshot: int | None
    pace: Pace

    def to_json(self) -> str:
        """One line."""
        busy = self.pace.encoder_busy
        return json.dumps(
            {
                "run_id": self.run_id,
                "sources": dict(self.sources),
                "windows": self.windows,
                "shards": self.shards,
                "bytes": self.bytes,
                "seconds": round(self.seconds, 2),
                "snapshot": self.snapshot,
                "encoder_busy": None if busy is None else round(busy, 3),
            }
        )


def source_counts(plan: Plan, tally: Tally) -> dict[str, int]:
    """State of the dataset's sources: total = ok + skipped + failed.

    Sources that an interrupted run did not get to count as failed here; the tables say nothing of
    them, and the next run goes on with them.
    """
    ok = plan.standing["ok"] + tally.statuses["ok"]
    skipped = plan.standing["skipped"] + tally.statuses["skipped"]
    return {"total": plan.total, "ok": ok, "skipped": skipped, "failed": plan.total - ok - skipped}


def summary_text(
    plan: Plan,
    tally: Tally,
    report: RunReport,
    output: str,
    unfinished: int,
    rate: Rate | None = None,
) -> str:
    """What was read, written and skipped, and why.

    ``unfinished`` sources were interrupted; ``rate`` is what an encoder achieved, where known.
    """
    counts = report.sources
    reused = plan.standing["ok"]
    lines = [
        f"read     {len(plan.sources)} sources; {reused} more were encoded already",
        f"written  {report.windows} windows in {report.shards} shards, "
        f"{human_bytes(report.bytes)}, to {output}",
        f"state    {counts['ok']} ok, {counts['skipped']} skipped, {counts['failed']} failed "
        f"of {counts['total']} sources; snapshot {report.snapshot or 'not published'}",
    ]
    if tally.kept:
        lines.insert(2, f"kept     {tally.kept} windows that are as before, in their shards")
    if rate is not None and rate.run == report.run_id:
        lines.append(f"encoded  at {rate.flops / 1e12:.3g} TFLOP/s an encoder, over the whole run")
    pace = report.pace
    if pace.encoder_busy is not None and pace.windows_per_second is not None:
        lines.append(
            f"busy     encoders worked {pace.encoder_busy:.0%} of the time since their first "
            f"pack, at {pace.windows_per_second:.3g} windows/s together"
        )
    if unfinished:
        lines.append(f"  {unfinished} of the failed are unfinished: run again to resume")
    for name, count in tally.reasons.most_common():
        lines.append(f"  {count} {name}, e.g. {tally.examples[name]}")
    return "\n".join(lines)
