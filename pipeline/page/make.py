"""Making the page of a cache: gather, look, render; for a job, and at the end of a run."""

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.config import Config, StorageConfig, VAESection
from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.logs import warn
from pipeline.maintain.history import history
from pipeline.manifest import Manifest, Snapshot
from pipeline.page.holdings import Holdings, sum_up
from pipeline.page.latents import LatentStatistics, measure_latents
from pipeline.page.look import Decoder, Looked, look
from pipeline.page.pace import Run, read_runs
from pipeline.page.pick import Pick
from pipeline.page.pictures import Shown, show
from pipeline.page.render import Findings, render
from pipeline.page.wording import last_part, shown
from pipeline.shards import ShardError
from pipeline.sheet import contact_sheet
from pipeline.weights import load_vae, weights_sha256

PAGE = "report.html"
SHEET = "contact_sheet.png"

_RUNS = 12
_MEASURED = 64
_PICTURE_BYTES = 6_000_000
"""Of all pictures of a page: with the rest it stays below 10 MB."""


@dataclass(frozen=True)
class Asked:
    """What a page shall show.

    Attributes:
        windows: windows shown, 0 for none.
        decoder: of their latents; the recorded VAE is that of the newest run.
        storage: of the store and the sources.
        history: the newest snapshots told of; fewer where ``history_rows`` rows of ``sources`` do
            not suffice for them.
    """

    windows: int
    decoder: Decoder
    storage: StorageConfig
    history: int = 30
    history_rows: int | None = 4_000_000


@dataclass(frozen=True)
class Made:
    """A page, its figures, and the windows that it shows."""

    html: str
    findings: Findings
    looked: list[Looked]


def make_page(manifest: Manifest, snapshot: Snapshot, asked: Asked) -> Made:
    """The page of one snapshot. Raises ``UserError`` where the tables cannot be read.

    Shards and sources that cannot be read are told of in the page.
    """
    held = sum_up(manifest, snapshot, max(_MEASURED, asked.windows))
    runs = read_runs(manifest, _RUNS)
    latents, latents_note = _measure(manifest, snapshot.contract, held)
    picks = held.picks.to_show(asked.windows)
    looked, left_out, windows_note = _look(manifest, snapshot.contract, picks, runs, asked)
    pictures = _within(looked)
    findings = Findings(
        uri=manifest.store.uri,
        snapshot=snapshot,
        held=held,
        runs=runs,
        run=_told_of(runs, snapshot),
        history=history(manifest, asked.history, asked.history_rows),
        snapshots=len(manifest.snapshot_numbers()),
        latents=latents,
        latents_note=latents_note,
        looked=pictures,
        windows_note=windows_note,
        left_out=left_out,
    )
    return Made(render(findings), findings, looked)


def write_reports(config: Config, manifest: Manifest, snapshot: int, run_id: str) -> None:
    """Write the page, and the contact sheet, of a run that published ``snapshot``; says where.

    What goes wrong here fails no run: a word on stderr tells of it.
    """
    published = manifest.snapshot(snapshot)
    windows = config.report.contact_sheet_windows
    if published.run_id != run_id or not (config.report.page or windows):
        return
    # The driver may be on a machine without the encoders' devices.
    decoder = Decoder(device="cpu" if config.vae.device == "cpu" else "auto")
    asked = Asked(windows, decoder, config.storage, history=config.report.history)
    try:
        with explained(manifest.store.uri, "used"):
            made = make_page(manifest, published, asked)
            files: dict[str, bytes] = {}
            if config.report.page:
                files[PAGE] = made.html.encode("utf-8")
            if made.looked:
                files[SHEET] = contact_sheet(_note(config, published.contract), made.looked)
            for name, data in files.items():
                manifest.store.write(f"reports/{run_id}/{name}", data)
    except UserError as error:
        warn(f"report: not written: {error}")
        return
    for name, why in made.findings.left_out:
        warn(f"report: left out {name}: {why}")
    for name in files:
        print(f"look at  {manifest.store.uri}/reports/{run_id}/{name}")


def _measure(
    manifest: Manifest, contract: Contract, held: Holdings
) -> tuple[LatentStatistics | None, str]:
    weights = {name: bucket.windows for name, bucket in held.buckets.items()}
    picks = held.picks.to_measure(_MEASURED, weights)
    try:
        return measure_latents(picks, manifest.store, contract), "No latent is stored."
    except ShardError as error:
        return None, f"A shard cannot be read, so nothing is told of latents: {shown(str(error))}."


def _look(
    manifest: Manifest, contract: Contract, picks: list[Pick], runs: list[Run], asked: Asked
) -> tuple[list[Looked], list[tuple[str, str]], str]:
    """Windows to show; those left out, and why; and what is to be said."""
    left_out: list[tuple[str, str]] = []
    if not asked.windows:
        return (
            [],
            [],
            (
                "None are shown. jobs/report_cache.py --windows 8 shows some (it needs the VAE's "
                "checkpoint and the sources); a run does with report.contact_sheet_windows: 8."
            ),
        )
    configs = recorded_configs(manifest, {pick.source["run_id"] for pick in picks}, asked.storage)
    known = [pick for pick in picks if pick.source["run_id"] in configs]
    for pick in picks:
        if pick not in known:
            left_out.append((last_part(pick.source["uri"]), "its run's configuration is unknown"))
    section = asked.decoder.section(recorded_vae(runs))
    if section is None or not known:
        return [], left_out, "No window can be shown: no run recorded which VAE encoded it."
    check_weights(section, asked.storage, contract)

    def leave_out(pick: Pick, why: str) -> None:
        left_out.append((last_part(pick.source["uri"]), shown(why)))

    found = look(
        known,
        lambda pick: configs[pick.source["run_id"]],
        manifest.store,
        contract,
        load_vae(section, asked.storage),
        leave_out,
    )
    looked = list(found)
    note = ""
    if section.checkpoint is None:
        note = "The weights are random, so what is decoded is noise, and its PSNR tells nothing."
    return looked, left_out, note


def recorded_configs(
    manifest: Manifest, run_ids: set[str], storage: StorageConfig
) -> dict[str, Config]:
    """Configurations that runs recorded, by run, with this storage; those that can be read."""
    wanted = pc.field("run_id").isin(pa.array(sorted(run_ids), pa.string()))
    found = {}
    for row in manifest.read("runs", None, ["run_id", "config"], wanted).to_pylist():
        try:
            tree = json.loads(row["config"])
            tree.pop("report", None)  # of no matter here, and other versions had other keys
            config = Config.model_validate(tree)
        except ValidationError:  # of another version of this program
            continue
        found[row["run_id"]] = config.model_copy(update={"storage": storage})
    return found


def check_weights(section: VAESection, storage: StorageConfig, contract: Contract) -> None:
    """Refuse a VAE that is not the one that encoded the cache. Raises ``UserError``."""
    found = weights_sha256(section, storage)
    if found != contract.encoder_sha256:
        raise UserError(
            f"--checkpoint {section.checkpoint or 'is not given, and the recorded VAE is random'}: "
            f"its encoder has the SHA-256 {found}, but the cache was encoded by "
            f"{contract.encoder_sha256}; name the file that encoded it"
        )


def recorded_vae(runs: list[Run]) -> VAESection | None:
    """The VAE of the first run that recorded one."""
    for run in runs:
        if run.config.get("vae"):
            return VAESection.model_validate(run.config["vae"])
    return None


def _told_of(runs: list[Run], snapshot: Snapshot) -> Run | None:
    """The run that published the snapshot where that encoded, else the newest that did."""
    ended = [run for run in runs if run.report]
    mine = [run for run in ended if run.run_id == snapshot.run_id]
    encoded = [run for run in mine + ended if run.windows]
    return next(iter(encoded + mine + ended), None)


def _within(looked: list[Looked]) -> list[Shown]:
    """Windows as pictures, as far as a page holds them."""
    found: list[Shown] = []
    size = 0
    for window in looked:
        picture = show(window)
        size += sum(len(data) for _, data in picture.strips)
        if size > _PICTURE_BYTES:
            break
        found.append(picture)
    return found


def _note(config: Config, contract: Contract) -> str:
    if config.vae.checkpoint is None:
        return "RANDOM WEIGHTS: the decoded rows are noise by nature; set vae.checkpoint"
    return f"weights {contract.encoder_sha256[:12]}"
