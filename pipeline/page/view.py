"""What the page says: texts and rows that are made of the figures."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.contract import Contract
from pipeline.errors import Reason
from pipeline.page import charts, wording
from pipeline.page.holdings import Ended, Holdings
from pipeline.page.latents import FAR, LatentStatistics
from pipeline.page.pace import Run

_BARS = 9
"""Rows of a table of bars; what is rarer is summed up."""

_PHASES = {
    "list, probe, plan": "phase1",
    "start-up to the first pack": "phase2",
    "encode": "phase3",
    "last writes, commit, publish": "phase4",
    "commit, publish": "phase4",
}

_ADVICE: Mapping[str, str] = {
    Reason.TOO_SHORT: "Shorter than a window: windows.tail: pad completes it, windows.min_frames "
    "may ask for less.",
    Reason.MISSING: "The file was not there. The next runs look again, up to max_attempts times.",
    Reason.UNREADABLE: "The store refused. Check permissions and credentials; the next runs try "
    "again.",
    Reason.SOURCE_CHANGED: "It was written to while it was read. The next run takes the new bytes.",
    Reason.HINT_MISMATCH: "The list's width and height, or the file's header, are not what frames "
    "have. The next run goes by the frames; correct or remove the columns.",
    Reason.INCOMPLETE: "A run ended before all of its windows came. The next run goes on there.",
    Reason.TIMEOUT: "Decoding took longer than decode.seconds_per_second allows. The next runs try "
    "again.",
    Reason.CRASHED: "The decoder died of it. The next runs try again.",
    Reason.TOO_LARGE: "Beyond the limits of the section decode. Raise them, or leave it out.",
    Reason.OVERFLOW: "Beyond float16. latents.dtype: float32 holds it, in a cache of its own.",
    Reason.NOT_FINITE: "The encoder gave NaN or infinity. Try vae.compute_dtype: float32.",
}
_OTHERWISE = (
    "The same bytes fail again, so it is left alone until its version changes. Replace the file, "
    "or ask for another attempt."
)


@dataclass(frozen=True)
class Reasoned:
    """Sources that ended for one reason, as the page tells of them."""

    status: str
    reason: str
    count: int
    examples: list[tuple[str, str]]
    more: int
    advice: str


@dataclass(frozen=True)
class Compared:
    """One line of the forecast's table."""

    name: str
    forecast: str
    actual: str
    ratio: str


@dataclass(frozen=True)
class Stage:
    """One line of the table of rates."""

    name: str
    rate: str
    what: str


def chips(contract: Contract) -> list[tuple[str, str]]:
    """The contract in short."""
    return [
        ("VAE", f"version {contract.vae_version}"),
        ("weights", contract.encoder_sha256[:12]),
        ("latent channels", str(contract.z_channels)),
        ("statistic", contract.statistic),
        ("dtype", contract.dtype),
        ("window", f"{contract.window_frames} → {contract.latent_frames} frames"),
        ("layout", contract.layout),
    ]


def reasons(ended: Mapping[tuple[str, str], Ended]) -> list[Reasoned]:
    """All reasons, the most frequent first, with what to do about each."""
    found = []
    for (status, reason), each in sorted(ended.items(), key=lambda item: -item[1].count):
        examples = [(wording.shown(r["uri"]), _message(r)) for r in each.examples]
        found.append(
            Reasoned(
                status=status,
                reason=reason,
                count=each.count,
                examples=examples,
                more=each.count - len(examples),
                advice=_ADVICE.get(reason, _OTHERWISE),
            )
        )
    return found


def _message(row: Mapping[str, Any]) -> str:
    """Why it ended, without its URI once more."""
    text = row["message"] or ""
    return wording.shown(text.removeprefix(row["uri"]).removeprefix(":").strip())


def retry(run: Run | None) -> str:
    """The command that tries failed sources again, whatever failed and how often."""
    dataset, output = (
        None if run is None else run.config.get(section, {}).get("uri")
        for section in ("dataset", "output")
    )
    told = [
        f"{option} {shlex.quote(wording.shown(uri))}"
        for option, uri in (("--dataset", dataset), ("--output", output))
        if uri
    ]
    return " ".join(["python jobs/refresh_cache.py --config CONFIG.yaml", *told, "--retry-failed"])


def phases(run: Run) -> list[tuple[str, Any]]:
    """Phases with the class of their colour."""
    return [(_PHASES[phase.name], phase) for phase in run.phases()]


def forecast(run: Run, statistic: str) -> list[Compared]:
    """Forecast against actual: windows, bytes, and the time of encoding."""
    told, report = run.forecast, run.report
    if not told or not report:
        return []
    stored = (told.get("bytes") or {}).get(statistic)
    pairs: list[tuple[str, Any, Any, Callable[[Any], str]]] = [
        ("windows", told.get("windows"), run.windows, wording.count),
        ("latents", stored, report.get("bytes"), wording.size),
        ("time of encoding", told.get("seconds"), run.encode_seconds, wording.span),
    ]
    return [
        Compared(
            name,
            wording.NONE if expected is None else say(expected),
            wording.NONE if actual is None else say(actual),
            f"{actual / expected:.2f}" if actual is not None and expected else wording.NONE,
        )
        for name, expected, actual, say in pairs
    ]


def forecast_note(run: Run) -> str:
    """Where the forecast's rate came from."""
    origin = run.forecast.get("origin")
    rate = run.forecast.get("tflops_per_encoder")
    text = "Made from the headers before anything was decoded"
    return f"{text}, at {rate:.3g} TFLOP/s an encoder ({origin})." if rate else f"{text}."


def stages(run: Run) -> list[Stage]:
    """Rates that the run measured, by stage."""
    report, found = run.report, []
    phase = {each.name: each.seconds for each in run.phases()}
    planned, total = phase.get("list, probe, plan"), (report.get("sources") or {}).get("total")
    if planned and total:
        found.append(
            Stage("plan", wording.figure(total / planned, "sources/s"), "listed, probed, compared")
        )
    moved = report.get("frame_bytes_per_second")
    if moved:
        found.append(
            Stage(
                "decode → encode",
                f"{wording.size(moved)}/s",
                "frames into encoders, at the pipeline's pace",
            )
        )
    if run.rate:
        found.append(
            Stage(
                "pipeline",
                wording.figure(run.rate, "windows/s"),
                "without each encoder's first pack",
            )
        )
    if run.encoder_rate:
        found.append(
            Stage(
                "encoders at work",
                wording.figure(run.encoder_rate, "windows/s"),
                "of all encoders together while they had frames",
            )
        )
    if report.get("encoder_flops") and report.get("encoder_flops_run") == run.run_id:
        rate = wording.figure(report["encoder_flops"] / 1e12, "TFLOP/s")
        found.append(Stage("each encoder", rate, "over the whole execution, waiting included"))
    if run.encode_seconds and report.get("bytes"):
        rate = f"{wording.size(report['bytes'] / run.encode_seconds)}/s"
        shards = _so_many(report.get("shards") or 0, "shard")
        found.append(Stage("write", rate, f"{shards}, over the whole time of encoding"))
    if report.get("driver_seconds_per_pack"):
        rate = wording.figure(report["driver_seconds_per_pack"] * 1000, "ms a pack")
        found.append(
            Stage("driver", rate, f"of CPU, over {_so_many(report.get('packs') or 0, 'pack')}")
        )
    return found


def _so_many(number: int, what: str) -> str:
    return f"{wording.count(number)} {what}{'' if number == 1 else 's'}"


def light(run: Run | None) -> str:
    """What the ratio of the pipeline's rate to the bare VAE's is of, or why there is none."""
    if run is None or run.light is None:
        return "Not known: every encoder's first pack is left out, and the run had few others."
    bare = wording.figure(run.report["bare_windows_per_second"])
    return (
        f"The pipeline's {wording.figure(run.rate)} windows/s, of the {bare} that its encoders "
        "would reach if they never left the VAE's calls. Measured in this run, on its own machines "
        "and packs, every encoder's first left out."
    )


def rows(counter: Counter[str], name: str = "other") -> list[tuple[str, int]]:
    """The most frequent kinds; the others as one row."""
    common = counter.most_common()
    if len(common) <= _BARS:
        return common
    shown, rest = common[: _BARS - 1], common[_BARS - 1 :]
    return [*shown, (f"{len(rest)} {name}", sum(amount for _, amount in rest))]


def buckets(held: Holdings) -> list[tuple[str, int]]:
    """Windows by bucket."""
    named = {wording.bucket_size(name): bucket.windows for name, bucket in held.buckets.items()}
    return rows(Counter(named), "others")


def tails(held: Holdings) -> list[tuple[str, int]]:
    """Padded windows by the number of their real frames, from 1 to 16."""
    return [(str(real), held.tails[real]) for real in range(1, 17)]


def latents_about(found: LatentStatistics, held: Holdings, contract: Contract) -> str:
    """Of what the statistics are."""
    what = {"sample": "the stored sample"}.get(contract.statistic, "the posterior's mean")
    return (
        f"Statistics of {what} over {wording.count(found.windows)} of {wording.count(held.windows)}"
        f" windows, drawn from all buckets: {wording.count(found.values)} values a channel."
    )


def outliers(found: LatentStatistics) -> str:
    """Which channels have values far from their mean, and which have none that differ."""
    worst = sorted(range(len(found.mean)), key=lambda k: -int(found.outliers[k]))[:4]
    told = [
        f"channel {k} ({wording.share(int(found.outliers[k]), found.values)})"
        for k in worst
        if found.outliers[k]
    ]
    dead = [str(k) for k in range(len(found.std)) if found.std[k] == 0]
    text = (
        f"Further than {FAR:g} standard deviations from the mean: most often {', '.join(told)}."
        if told
        else f"No value is further than {FAR:g} standard deviations from its channel's mean."
    )
    return f"{text} Constant: channels {', '.join(dead)}." if dead else text


def channel_rows(found: LatentStatistics) -> list[list[str]]:
    """Figures of each channel."""
    columns: Sequence[Any] = (found.mean, found.std, found.least, found.most)
    listed = [
        [*(wording.figure(float(c[k])) for c in columns), wording.count(int(found.outliers[k]))]
        for k in range(len(found.mean))
    ]
    if found.posterior_std is not None:
        for k, row in enumerate(listed):
            row.append(wording.figure(float(found.posterior_std[k])))
    return listed


def channel_chart(found: LatentStatistics) -> Any:
    """The chart of all channels."""
    name = (
        f"Latent values by channel, of {len(found.mean)} channels: means from "
        f"{wording.figure(float(found.mean.min()))} to {wording.figure(float(found.mean.max()))}, "
        f"standard deviations from {wording.figure(float(found.std.min()))} to "
        f"{wording.figure(float(found.std.max()))}."
    )
    return charts.channels(
        found.mean.tolist(), found.std.tolist(), found.least.tolist(), found.most.tolist(), name
    )
