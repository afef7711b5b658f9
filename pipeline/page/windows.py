"""The windows of one source, written as pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import StorageConfig
from pipeline.manifest import Manifest, Snapshot
from pipeline.page.film import write_windows
from pipeline.page.look import Decoder, Looked, look
from pipeline.page.make import check_weights, recorded_configs
from pipeline.page.origin import Origin
from pipeline.page.pick import Pick
from pipeline.page.wording import shown
from pipeline.roundtrip import finite
from pipeline.weights import load_vae


@dataclass(frozen=True)
class Written:
    """Files that were written, decibels by window, and what was not shown, and why."""

    files: Sequence[Path]
    psnr: Sequence[tuple[Pick, float]]
    missing: Sequence[str]
    random_weights: bool

    def text(self) -> list[str]:
        """Lines for people."""
        lines = [f"window {p.window} at {p.bucket}: PSNR {value:.2f} dB" for p, value in self.psnr]
        if self.random_weights and self.psnr:
            lines.append("the weights are random: what is decoded is noise, and PSNR tells nothing")
        return [*lines, *(f"not shown: {m}" for m in self.missing), *map(_wrote, self.files)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "files": [str(path) for path in self.files],
            "psnr": [
                {"bucket": pick.bucket, "window": pick.window, "psnr": finite(value)}
                for pick, value in self.psnr
            ],
            "not_shown": list(self.missing),
        }


def _wrote(path: Path) -> str:
    return f"wrote {path}"


def show_windows(
    manifest: Manifest,
    snapshot: Snapshot,
    origin: Origin,
    windows: Sequence[tuple[str, str, Pick]],
    decoder: Decoder,
    storage: StorageConfig,
    folder: Path,
) -> Written:
    """Write windows into ``folder`` as pictures.

    The recorded VAE is that of the run which encoded them. Raises ``UserError``: the weights cannot
    be read or are others, or the folder cannot be written to.
    """
    if origin.complete is None or not windows:
        return Written([], [], ["it has no windows"], False)
    run_id = origin.complete["run_id"]
    config = recorded_configs(manifest, {run_id}, storage).get(run_id)
    if config is None:
        return Written([], [], ["the configuration of its run is not recorded"], False)
    section = decoder.section(config.vae)
    assert section is not None
    check_weights(section, storage, snapshot.contract)
    vae = load_vae(section, storage)
    missing: list[str] = []
    psnr: list[tuple[Pick, float]] = []

    def left_out(pick: Pick, why: str) -> None:
        missing.append(f"window {pick.window} at {pick.bucket}: {shown(why)}")

    def counted(found: Iterator[Looked]) -> Iterator[Looked]:
        for each in found:
            psnr.append((each.pick, each.psnr))
            yield each

    picks = [pick for _, _, pick in windows]
    found = look(picks, lambda _: config, manifest.store, snapshot.contract, vae, left_out)
    files = write_windows(counted(found), folder, origin.source_id)
    return Written(files, psnr, missing, section.checkpoint is None)
