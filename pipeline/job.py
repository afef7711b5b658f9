"""The main job: list, probe, plan, run, commit, publish."""

import contextlib
import datetime
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipeline.canary import check_fidelity
from pipeline.catalog import Catalog, read_catalog
from pipeline.cells import Cell, CellWork, count_cells, make_cells
from pipeline.commit import Committer
from pipeline.config import Config
from pipeline.contract import Contract, ContractError
from pipeline.forecast import Forecast, Rate, make_forecast, packs_per_shard
from pipeline.installed import installed_versions
from pipeline.leases import Fence, LeaseLostError, Leases, tell_of_waiting
from pipeline.logs import LogFormat, fail, logging_to_stderr, tell, warn
from pipeline.manifest import Guard, Manifest, now, unguarded
from pipeline.measured import Measured, measured_before
from pipeline.metrics import Command, RunState
from pipeline.plan import Plan, Prober, make_plan, recalling
from pipeline.planned import PlannedSources
from pipeline.progress import ProgressLine
from pipeline.quarantine import TooManyFailuresError, check_failures, tell_quarantine
from pipeline.reader.build import publish_with_index
from pipeline.recipe import Recipe
from pipeline.report import (
    RunReport,
    plan_json,
    plan_text,
    source_counts,
    summary_text,
)
from pipeline.resolving import resolve
from pipeline.runner import LocalRunner, Runner
from pipeline.signals import Terminated, sigterm_interrupts
from pipeline.stages.encode import MakeEncoder, make_vae_encoder
from pipeline.storage import Store

EXIT_DONE = 0
EXIT_USAGE = 1
EXIT_FAILURES = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


@dataclass(frozen=True)
class JobOptions:
    """What a single run is asked to do beyond its configuration."""

    plan_only: bool = False
    overwrite: bool = False
    retry_failed: bool = False
    log_format: LogFormat = "text"
    command: Command = "encode_dataset"


def run_job(
    config: Config, options: JobOptions, make_encoder: MakeEncoder = make_vae_encoder
) -> int:
    """Bring the cache up to the dataset; returns the process's exit code.

    Prints the plan and a summary, last the run's JSON object, to stdout; progress goes to stderr.
    ``make_encoder`` is for benchmarks. Raises ``UserError`` when the run cannot start.
    """
    try:
        with logging_to_stderr(options.log_format):
            with sigterm_interrupts():
                config, contract = resolve(config)
            with _runner(config, make_encoder) as runner, sigterm_interrupts():
                return _Job(config, contract, options, runner).run()
    except Terminated:
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


@contextlib.contextmanager
def _runner(config: Config, make_encoder: MakeEncoder) -> Iterator[Runner]:
    if config.run.runner == "local":
        yield LocalRunner(config, make_encoder)
        return
    from pipeline.ray_runner import RayRunner

    with RayRunner(config, make_encoder) as runner:
        yield runner


def new_run_id() -> str:
    """UTC time and some random digits: sorts by start, and is unique."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class _Job:
    """One run. Each step is a method; ``run`` reads as the list of them."""

    def __init__(
        self, config: Config, contract: Contract, options: JobOptions, runner: Runner
    ) -> None:
        self.config = config
        self.contract = contract
        self.options = options
        self.runner = runner
        self.run_id = new_run_id()
        self.started = self.published = time.monotonic()
        self.manifest = Manifest(Store(config.output.uri, config.storage))
        self.guard: Guard = unguarded
        self.fence = Fence(self.manifest.store, {})

    def run(self) -> int:
        contract = self.check_contract()
        recipe = Recipe.from_config(self.config, contract)
        seen = self.manifest.versions()
        plan = self.plan(recipe)
        forecast = make_forecast(self.config, contract, self.manifest, plan.windows)
        print(plan_text(plan, forecast), flush=True)
        if self.options.plan_only:
            print(plan_json(plan, forecast), flush=True)
            return EXIT_DONE
        with Leases(self.manifest.store, self.run_id) as leases:
            self.guard = leases.check
            while not plan.ranges <= leases.held:
                leases.take(plan.ranges, tell_of_waiting)
                if self.manifest.versions() == seen:
                    break
                # Another run was at work: what it and the dataset look like now decides.
                seen = self.manifest.versions()
                plan = self.plan(recipe, plan)
                forecast = make_forecast(self.config, contract, self.manifest, plan.windows)
            self.fence = leases.fence()
            tell(check_fidelity(self.config, plan.units, recipe, self.runner))
            self.begin(contract, plan, forecast)
            plan = replace(plan, columns=plan.columns.schema.empty_table())  # they are durable
            return self.work(contract, recipe, plan, forecast)

    def work(self, contract: Contract, recipe: Recipe, plan: Plan, forecast: Forecast) -> int:
        """Encode what is planned, commit and publish; returns the exit code."""
        measured = measured_before(self.manifest)
        cells = self.divide(plan, recipe, forecast, measured)
        ours = PlannedSources(s for _, s in plan.sources.settled()) if cells else plan.sources
        committer = Committer(
            self.manifest,
            self.run_id,
            contract.contract_id,
            ours,
            self.config.run.commit_seconds,
            plan.carried,
            self.guard,
            self.runner.meter,
        )
        try:
            committer.settle()
            rate = self.execute(plan, recipe, forecast, committer, cells, measured)
        except KeyboardInterrupt:
            committer.commit()
            self.finish("stopped", plan, committer, contract, snapshot=None, rate=None)
            raise
        except TooManyFailuresError as stop:
            committer.commit()
            self.finish("stopped", plan, committer, contract, snapshot=None, rate=None)
            fail(str(stop))
            return EXIT_FAILURES
        except LeaseLostError:
            raise
        except BaseException:
            committer.commit()
            raise
        committer.give_up()
        committer.commit()
        committer.bury(plan.removed)
        snapshot = publish_with_index(self.manifest, self.run_id, contract, self.guard)
        known = None if forecast.rate.run is None else forecast.rate
        report = self.finish("finished", plan, committer, contract, snapshot.number, rate or known)
        failed = report.sources["failed"] / report.sources["total"]
        if failed > self.config.max_failure_rate:
            fail(
                f"{report.sources['failed']} of {report.sources['total']} sources failed: more "
                f"than max_failure_rate {self.config.max_failure_rate}"
            )
            return EXIT_FAILURES
        return EXIT_DONE

    def check_contract(self) -> Contract:
        """The configuration's contract; refuses a cache that keeps another one."""
        wanted = self.contract
        if self.config.vae.checkpoint is None:
            warn(
                "the VAE's weights are random (vae.random_seed): good for a demo or a test, "
                "worthless for training; set vae.checkpoint to vae_v2.safetensors"
            )
        found = self.manifest.contract()
        holds_nothing = self.manifest.version("samples") is None
        if found not in (None, wanted) and not (self.options.overwrite or holds_nothing):
            fields = "; ".join(
                f"{name} is {ours!r} in the cache and {theirs!r} in the configuration"
                for name, (ours, theirs) in found.differing_fields(wanted).items()
            )
            raise ContractError(
                f"{self.manifest.store.uri} keeps another contract: {fields}. Write to a new "
                "output.uri, or pass --overwrite to encode everything anew under the new contract"
            )
        return wanted

    def list_sources(self) -> Catalog:
        catalog = read_catalog(self.config, keep=not self.options.plan_only)
        pa.default_memory_pool().release_unused()  # of what the list was read from
        for note in catalog.notes:
            tell(f"dataset: {note}")
        return catalog

    def plan(self, recipe: Recipe, before: Plan | None = None) -> Plan:
        """Plan; what the plan ``before`` has read of files is not read again."""
        probe: Prober = self.runner.probe
        if before is not None:
            probe = recalling(before.sources.values(), probe)
        return make_plan(
            self.config,
            self.list_sources(),
            self.manifest,
            recipe,
            self.run_id,
            probe,
            overwrite=self.options.overwrite,
            retry_failed=self.options.retry_failed,
        )

    def begin(self, contract: Contract, plan: Plan, forecast: Forecast) -> None:
        """Make the contract, the run and changed captions durable before any work."""
        if self.manifest.contract() != contract:
            self.manifest.write_contract(contract, self.guard)
        self.manifest.append_columns(self.run_id, plan.columns, self.guard)
        self.record("started", contract, json.dumps({"forecast": forecast.to_dict()}))

    def execute(
        self,
        plan: Plan,
        recipe: Recipe,
        forecast: Forecast,
        committer: Committer,
        cells: Sequence[Cell],
        measured: Measured,
    ) -> Rate | None:
        """Run the units; returns the rate that an encoder achieved.

        None for a run that encoded nothing, or decoded windows without encoding them.
        """
        if not plan.units:
            return None
        packs = packs_per_shard(self.config, recipe.contract, forecast, plan.packs)
        begun, tally = time.monotonic(), committer.tally
        meter, form = self.runner.meter, self.options.log_format
        with ProgressLine(forecast.windows, meter, form, forecast.seconds) as progress:
            if cells:
                committer.commit()  # what is carried over is there for all cells
                self.supervise(cells, recipe, packs, measured, committer, progress)
            else:
                cpu = time.process_time()
                for written in self.runner.run(plan.units, recipe, packs, measured):
                    written.require_seen(self.manifest.store)
                    committer.add(written)
                    progress.update(tally)
                    check_failures(tally, self.config)
                    self.publish_now_and_then(recipe.contract, committer)
                tally.driver_seconds += time.process_time() - cpu
        if tally.kept:
            return None
        seconds = time.monotonic() - begun
        share = tally.windows / max(forecast.windows, 1)
        flops = forecast.flop * share / seconds / self.config.run.encoders
        return Rate.achieved(flops, self.run_id) if flops else None

    def divide(
        self, plan: Plan, recipe: Recipe, forecast: Forecast, measured: Measured
    ) -> list[Cell]:
        """The cells of a plan; none where one driver does for it, which is this process."""
        count = count_cells(self.config, measured, plan.packs, forecast.seconds)
        if count == 1:
            return []
        return make_cells(self.config, recipe, plan.sources, count)

    def supervise(
        self,
        cells: Sequence[Cell],
        recipe: Recipe,
        packs_per_shard: int,
        measured: Measured,
        committer: Committer,
        progress: ProgressLine,
    ) -> None:
        """Have drivers of their own work on the cells; adds to the committer's tally."""
        from pipeline.ray_runner import RayRunner

        assert isinstance(self.runner, RayRunner), "the local runner has no cells"
        store = self.manifest.store
        work = CellWork(store, self.run_id, recipe, packs_per_shard, self.fence)
        supervisor = self.runner.run_cells(cells, work, measured)
        try:
            with supervisor:
                for tally in supervisor.progress():
                    progress.update(tally)
                    check_failures(tally, self.config)
                    self.publish_now_and_then(recipe.contract, committer)
        finally:
            committer.tally.merge(supervisor.tally())

    def publish_now_and_then(self, contract: Contract, committer: Committer) -> None:
        """Publish what is complete so far, every ``run.publish_seconds``."""
        every = self.config.run.publish_seconds
        if self.options.overwrite:  # the contract may change: whole or not at all
            return
        if every is not None and time.monotonic() - self.published >= every:
            committer.commit()
            publish_with_index(self.manifest, self.run_id, contract, self.guard)
            self.published = time.monotonic()

    def finish(
        self,
        state: RunState,
        plan: Plan,
        committer: Committer,
        contract: Contract,
        snapshot: int | None,
        rate: Rate | None,
    ) -> RunReport:
        """Record the run and print what it did."""
        tally = committer.tally
        unfinished = len(plan.sources) - sum(tally.statuses.values())
        report = RunReport(
            run_id=self.run_id,
            sources=source_counts(plan, tally),
            windows=tally.windows,
            shards=tally.shards,
            bytes=tally.bytes,
            seconds=time.monotonic() - self.started,
            snapshot=snapshot,
            pace=tally.efforts.pace(self.config.run.encoders),
        )
        speed = {} if rate is None else {"encoder_flops": rate.flops, "encoder_flops_run": rate.run}
        told = {**json.loads(report.to_json()), **speed, **asdict(report.pace)}
        if tally.efforts.packs:
            told["driver_seconds_per_pack"] = tally.driver_seconds / tally.efforts.packs
        self.record(state, contract, json.dumps(told))
        if snapshot is not None:
            from pipeline.page.make import write_reports  # torch is loaded no earlier

            write_reports(self.config, self.manifest, snapshot, self.run_id)
        listed = tell_quarantine(self.manifest, plan.quarantined, tally, self.run_id, self.config)
        if listed:
            print(listed)
        output = self.manifest.store.uri
        print(summary_text(plan, tally, report, output, unfinished, rate))
        print(report.to_json(), flush=True)
        self.runner.tell_end(self.options.command, state)
        return report

    def record(self, state: str, contract: Contract, report: str) -> None:
        """Append to the table ``runs``."""
        self.manifest.append(
            "runs",
            [
                {
                    "run_id": self.run_id,
                    "state": state,
                    "at": now(),
                    "config": self.config.model_dump_json(),
                    "contract_id": contract.contract_id,
                    "report": report,
                    "versions": json.dumps(installed_versions()),
                }
            ],
        )
