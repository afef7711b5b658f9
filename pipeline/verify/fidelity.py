"""The fidelity canary of what is stored: are these the latents that the VAE makes of the sources?

Drawn windows are decoded from their sources once more and encoded afresh, and what is stored is
compared with that, and decoded. A source that cannot be read any more, or has changed, tells
nothing of the cache: its windows are left out, and told.
"""

import gc
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from pipeline.canary import ALIKE, decoded_psnr, fresh_latents, largest_difference
from pipeline.config import Config, StorageConfig, VAESection
from pipeline.errors import Reason, SourceError, UserError
from pipeline.identity import sample_id
from pipeline.manifest import Manifest, Snapshot
from pipeline.page.look import Decoder, decoded_again
from pipeline.page.make import check_weights, recorded_configs, recorded_vae
from pipeline.page.pace import read_runs
from pipeline.page.wording import shown
from pipeline.reading import stat_source
from pipeline.recipe import Recipe
from pipeline.room import is_out_of_memory
from pipeline.roundtrip import finite
from pipeline.shards import read_sample
from pipeline.spans import find_place
from pipeline.storage import Store
from pipeline.verify.check import check_shard, damaged
from pipeline.verify.draw import Drawn, draw_windows
from pipeline.verify.findings import Finding, Kind
from pipeline.video.clips import Segment
from pipeline.weights import load_vae
from vae import AutoencoderKL

_RUNS = 12
_STORE_VERSION = re.compile(r"[0-9a-f]{32}(-\d+)?|\d+-\d+\.\d+")
"""Versions that we take from stores: ETags that are MD5 sums, and size with modification time."""


@dataclass(frozen=True)
class AskedCanary:
    """What the canary shall look at.

    ``windows`` at the most, drawn by ``seed``; ``psnr`` in decibels is the limit of their mean
    (None: the lowest ``canary_psnr`` of the runs that encoded them); ``decoder`` is the VAE, or a
    device for the one that the newest run recorded.
    """

    windows: int
    seed: int
    psnr: float | None
    decoder: Decoder


@dataclass(frozen=True)
class Compared:
    """One window.

    ``psnr`` in decibels, over frames that are no repetitions; ``difference`` from the fresh
    encoding, as a share of its size, the largest of all statistics; ``limit`` is the most of it
    that last digits explain.
    """

    drawn: Drawn
    psnr: float
    difference: float
    limit: float

    @property
    def alike(self) -> bool:
        """Whether the stored latents are those of the fresh encoding, but for last digits."""
        return self.difference <= self.limit


@dataclass(frozen=True)
class Fidelity:
    """What the canary saw.

    ``psnr_limit`` is None where decibels tell nothing: with random weights, or nothing compared.
    ``left_out`` are windows that were not compared, and why. ``findings`` is what is wrong.
    """

    compared: Sequence[Compared]
    left_out: Sequence[tuple[Drawn, str]]
    psnr_limit: float | None
    findings: Sequence[Finding]

    @property
    def drawn(self) -> int:
        """Windows that were to be compared."""
        return len(self.compared) + len(self.left_out)

    @property
    def told(self) -> bool:
        """Whether anything was compared, where there was anything to compare."""
        return bool(self.compared) or not self.drawn

    @property
    def psnr(self) -> float | None:
        """The mean of the windows; None without any."""
        return fmean(c.psnr for c in self.compared) if self.compared else None

    def to_json(self) -> dict[str, Any]:
        """Plain values. Decibels that are not finite are None."""
        return {
            "windows": [
                {
                    **_place(c.drawn),
                    "psnr": finite(c.psnr),
                    "difference": c.difference if math.isfinite(c.difference) else None,
                    "alike": c.alike,
                }
                for c in self.compared
            ],
            "left_out": [{**_place(drawn), "message": why} for drawn, why in self.left_out],
            "psnr": None if self.psnr is None else finite(self.psnr),
            "psnr_limit": self.psnr_limit,
        }


def _place(drawn: Drawn) -> dict[str, Any]:
    pick = drawn.pick
    return {
        "sample_id": drawn.sample_id,
        "source_id": drawn.segment.source_id,
        "bucket": pick.bucket,
        "window": pick.window,
        "shard": pick.shard,
        "row": pick.row,
    }


class StoredCanary:
    """Draws windows, and looks at the weights' hash; ``look`` then compares.

    Raises ``UserError``: there is no snapshot, or the weights cannot be read or are not those that
    encoded the cache.
    """

    def __init__(self, manifest: Manifest, snapshot: Snapshot, asked: AskedCanary) -> None:
        self._store, self._contract, self._asked = manifest.store, snapshot.contract, asked
        self._drawn = draw_windows(manifest, snapshot, asked.windows, asked.seed)
        runs = {drawn.pick.source["run_id"] for drawn in self._drawn}
        self._configs = recorded_configs(manifest, runs, manifest.store.storage)
        self._vae: VAESection | None = None
        if self._configs:
            self._vae = _section(manifest, asked)
            check_weights(self._vae, self._storage, self._contract)

    @property
    def _storage(self) -> StorageConfig:
        return self._store.storage

    def look(self, known: Sequence[Finding]) -> Fidelity:
        """Compare; windows of which ``known`` findings tell are left out.

        The VAE is loaded for this, and let go. Raises ``UserError`` where it cannot be, and what
        the store raises when it refuses.
        """
        bad = {(finding.shard, row) for finding in known for row in finding.rows}
        compared: list[Compared] = []
        left_out: list[tuple[Drawn, str]] = []
        findings: list[Finding] = []
        by_dtype: dict[str, list[tuple[Drawn, Config]]] = {}
        for drawn in self._drawn:
            config = self._configs.get(drawn.pick.source["run_id"])
            damage = []
            if (drawn.pick.shard, drawn.pick.row) not in bad:
                damage = _damage(self._store, drawn)
                findings += damage
                bad |= {(finding.shard, row) for finding in damage for row in finding.rows}
            if (drawn.pick.shard, drawn.pick.row) in bad:
                left_out.append((drawn, "its bytes are damaged"))
            elif config is None:
                left_out.append((drawn, "the configuration of its run is not recorded"))
            else:
                by_dtype.setdefault(config.vae.compute_dtype, []).append((drawn, config))
        for dtype, windows in by_dtype.items():
            assert self._vae is not None
            section = self._vae.model_copy(update={"compute_dtype": dtype})
            vae = load_vae(section, self._storage)
            for drawn, config in windows:
                try:
                    compared.append(self._compared(vae, drawn, config))
                except SourceError as error:
                    left_out.append((drawn, shown(error.message)))
            del vae
            gc.collect()
            torch.cuda.empty_cache()
        limit = self._psnr_limit(compared)
        findings += _judged(compared, limit)
        return Fidelity(compared, left_out, limit, findings)

    def _compared(self, vae: AutoencoderKL, drawn: Drawn, config: Config) -> Compared:
        """Raises ``SourceError`` where the source is not what was encoded."""
        pick = drawn.pick
        recipe = Recipe.from_config(config, self._contract)
        again = decoded_again(config, pick)
        if _resolved(again, drawn, recipe) != drawn.sample_id:
            raise SourceError(
                Reason.SOURCE_CHANGED,
                f"{pick.source['uri']} decodes to other frames, times or sizes than were encoded",
            )
        stored = read_sample(self._store, pick.shard, pick.row, self._contract)
        latent = stored[self._contract.tensors[0]]
        frames = again.frames[0]
        try:
            fresh = fresh_latents(vae, frames, drawn.sample_id, recipe)
            psnr = decoded_psnr(vae, frames, latent, pick.valid_frames)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"a window of {pick.bucket} does not fit in memory; name another --device"
            ) from error
        limit = ALIKE[config.vae.compute_dtype]
        found = Compared(drawn, psnr, largest_difference(stored, fresh), limit)
        if not found.alike:
            _check_version(drawn, self._storage)
        return found

    def _psnr_limit(self, compared: Sequence[Compared]) -> float | None:
        if not compared or self._vae is None or self._vae.checkpoint is None:
            return None
        if self._asked.psnr is not None:
            return self._asked.psnr
        return min(self._configs[c.drawn.pick.source["run_id"]].canary_psnr for c in compared)


def _section(manifest: Manifest, asked: AskedCanary) -> VAESection:
    """The VAE that is asked for, or the one that the newest run recorded."""
    section = asked.decoder.section(recorded_vae(read_runs(manifest, _RUNS)))
    if section is None:
        raise UserError(
            f"{manifest.store.uri}: no run recorded which VAE encoded it, so --canary has nothing "
            "to compare with; leave it out, or name the --checkpoint"
        )
    return section


def _damage(store: Store, drawn: Drawn) -> list[Finding]:
    """What is wrong with the bytes of a window's segment."""
    path = drawn.pick.shard
    try:
        size = store.size(path)
    except FileNotFoundError:
        return [damaged(path, Kind.MISSING, "the file is gone", [drawn.segment])]
    return check_shard(store, path, size, [drawn.segment])


def _resolved(again: Segment, drawn: Drawn, recipe: Recipe) -> str:
    """The sample id that the window has as it is decoded now."""
    return sample_id(
        drawn.segment.source_id,
        drawn.pick.source["version"],
        int(again.first_frames[0]),
        again.pts[0].tolist(),
        (again.time_base.numerator, again.time_base.denominator),
        again.geometry.to_dict(),
        recipe.encoding(),
    )


def _check_version(drawn: Drawn, storage: StorageConfig) -> None:
    """Raise ``SourceError`` where the store has another version than was encoded, or none.

    A version that looks like no store's is the dataset's own: it promises that the bytes are the
    same.
    """
    uri, version = drawn.pick.source["uri"], drawn.pick.source["version"]
    if find_place(uri, version) is not None:
        return  # a tar file's member was opened under its version
    now, _ = stat_source(uri, storage)
    own = _STORE_VERSION.fullmatch(now) and not _STORE_VERSION.fullmatch(version)
    if now != version and not own:
        raise SourceError(Reason.SOURCE_CHANGED, f"{uri} was {version} when encoded, and is {now}")


def _judged(compared: Sequence[Compared], limit: float | None) -> list[Finding]:
    """What is wrong: latents that are not the encoder's; else what decodes to something else.

    Where no window at all is like its fresh encoding, the cause is not one of single segments, and
    encoding some of them again would not mend it.
    """
    alike = [c for c in compared if c.alike]
    found = [
        _finding(
            c,
            Kind.UNFAITHFUL,
            f"{c.difference:.2g} of its size differs from a fresh encoding of the source, more "
            f"than {c.limit:g}; it decodes with {c.psnr:.1f} dB",
            lasting=not alike,
        )
        for c in compared
        if not c.alike
    ]
    if limit is None or not alike or fmean(c.psnr for c in alike) >= limit:
        return found
    told = (
        f"less than {limit:g}, as the drawn windows do on average, though the latents are those of "
        "a fresh encoding: the checkpoint's encoder and decoder do not belong together, or the "
        "sources are noise"
    )
    return found + [
        _finding(c, Kind.LOW_PSNR, f"it decodes with {c.psnr:.1f} dB, {told}", lasting=True)
        for c in alike
        if not c.psnr >= limit
    ]


def _finding(compared: Compared, kind: Kind, message: str, *, lasting: bool) -> Finding:
    pick = compared.drawn.pick
    found = damaged(pick.shard, kind, message, [compared.drawn.segment], [pick.row])
    return replace(found, lasting=lasting)
