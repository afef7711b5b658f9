"""The fidelity canary: what would be stored is decoded, before a run stores anything.

The run's first pack goes through the very stages of the run, into a shard in a temporary folder.
Some of its windows are read back from there, and decoded; and they are encoded once more, by
arithmetic of this file's own. A wrong range of values, order of channels or of axes, or a
checkpoint whose halves do not belong together, shows in the one or the other.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.buckets import Bucket
from pipeline.config import Config, StorageConfig
from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.packs import FRAMES, rows
from pipeline.psnr import mean_squared_error, psnr
from pipeline.recipe import Recipe, latent_shape
from pipeline.shards import read_sample
from pipeline.stages.decode import UNIT, make_decode_fn
from pipeline.stages.encode import Encoder, MakeEncoder
from pipeline.stages.write import RESULT, Written, make_write_fn
from pipeline.storage import Store
from pipeline.units import Unit
from pipeline.weights import load_vae

if TYPE_CHECKING:  # a driver does without
    from vae import AutoencoderKL

WINDOWS = 4
"""Windows of the pack that are looked at, at the most."""

TRIED_UNITS = 20
"""Units that are decoded in search of a window."""

ALIKE = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.05}
"""How much of their size latents may differ from a fresh encoding, by compute dtype: batches of
another size and the stored dtype change last digits."""


class CanaryError(UserError):
    """What would be stored is not what the VAE makes of the frames."""


@dataclass(frozen=True)
class CanaryReport:
    """What the canary saw.

    Attributes:
        source: URI of the first window's source.
        windows: how many were looked at.
        psnr: mean decibels of their reconstructions, over pixels in [0, 1].
        difference: root mean square of stored minus fresh latents, as a share of the fresh ones';
            the largest of all windows and statistics.
    """

    source: str
    windows: int
    psnr: float
    difference: float

    def check(self, config: Config) -> None:
        """Raise ``CanaryError`` for what must not be stored."""
        alike = ALIKE[config.vae.compute_dtype]
        wrong = []
        if not self.psnr >= config.canary_psnr:
            wrong.append(
                f"they decode to something else, {self.psnr:.1f} dB, less than canary_psnr "
                f"{config.canary_psnr:g}"
            )
        if not self.difference <= alike:
            wrong.append(
                f"they are not what the encoder makes of the frames: {self.difference:.2g} of "
                f"their size differs, more than {alike:g}"
            )
        if wrong:
            raise CanaryError(
                f"the fidelity canary looked at the latents of {self.windows} windows, the first "
                f"of {self.source}: {'; '.join(wrong)}. Nothing was encoded. Check that "
                "vae.checkpoint is the whole published file, and what encodes (range [-1, 1], RGB, "
                "order of axes); canary: off goes on without a look, canary_psnr sets the limit"
            )


class RunsCanary(Protocol):
    """What knows where encoders work; a runner does."""

    @property
    def accelerated(self) -> bool:
        """Whether encoders work on accelerators."""
        ...

    def canary(self, units: Sequence[Unit], recipe: Recipe) -> CanaryReport | None:
        """``run_canary`` where an encoder would work."""
        ...


def check_fidelity(
    config: Config, units: Sequence[Unit], recipe: Recipe, runner: RunsCanary
) -> str:
    """Run the canary as ``canary`` says; what to tell the user of it.

    Raises ``CanaryError`` where the run must not go on.
    """
    skipped = _skipped(config, units, runner.accelerated)
    if skipped is not None:
        return f"fidelity canary: skipped, {skipped}"
    report = runner.canary(units, recipe)
    if report is None:
        if config.canary == "on":
            raise CanaryError(
                f"canary is on, and the first {min(len(units), TRIED_UNITS)} tasks decode to no "
                "window to look at; mend the dataset, or set canary: auto"
            )
        return "fidelity canary: skipped, the first tasks decode to no window"
    report.check(config)
    return (
        f"fidelity canary: {report.windows} windows decode with {report.psnr:.1f} dB (at least "
        f"{config.canary_psnr:g}), {report.difference:.2g} from a fresh encoding"
    )


def _skipped(config: Config, units: Sequence[Unit], accelerated: bool) -> str | None:
    if not units:
        return "nothing is to be encoded"
    if config.canary == "off":
        return "canary is off"
    if config.canary == "auto" and config.vae.checkpoint is None:
        return "the VAE's weights are random"
    if config.canary == "auto" and not accelerated:
        return "there is no accelerator (canary: on runs it on the CPU)"
    return None


def run_canary(
    config: Config, units: Sequence[Unit], recipe: Recipe, make_encoder: MakeEncoder
) -> CanaryReport | None:
    """Look at the first pack of ``units`` that has windows; None where none has.

    Takes the memory of one encoder, then that of the whole VAE, and gives both back. Raises
    ``CanaryError`` for latents of the wrong shape, ``UserError`` where weights cannot be loaded.
    """
    import torch

    with tempfile.TemporaryDirectory(prefix="t2v-canary-") as folder:
        seen = next(_windows(config, units, recipe, make_encoder, folder), None)
    if seen is None:
        return None
    gc.collect()
    torch.cuda.empty_cache()
    vae = load_vae(config.vae, config.storage)
    decibels, differences = [], []
    for sample_id, (frames, stored) in seen.windows.items():
        fresh = fresh_latents(vae, frames, sample_id, recipe)
        differences.append(largest_difference(stored, fresh))
        decibels.append(decoded_psnr(vae, frames, stored[recipe.contract.tensors[0]]))
    del vae
    gc.collect()
    torch.cuda.empty_cache()
    return CanaryReport(
        seen.source, len(seen.windows), sum(decibels) / len(decibels), max(differences)
    )


@dataclass(frozen=True)
class _Seen:
    """Windows by sample id: frames uint8 ``[T, H, W, 3]``, and the latents that were stored."""

    source: str
    windows: Mapping[str, tuple[np.ndarray, dict[str, np.ndarray]]]


def _windows(
    config: Config,
    units: Sequence[Unit],
    recipe: Recipe,
    make_encoder: MakeEncoder,
    folder: str,
) -> Iterator[_Seen]:
    """The packs that have windows, through the stages of a run that writes into ``folder``."""
    output = config.output.model_copy(update={"uri": folder})
    config = config.model_copy(update={"output": output})
    store = Store(folder, StorageConfig())
    decode, write = make_decode_fn(config, recipe), make_write_fn(config, recipe)
    encode = Encoder(config, recipe, make_encoder)
    for unit in units[:TRIED_UNITS]:
        uris = {clip.source_id: file.uri for file in unit.files for clip in file.clips}
        for pack in decode({UNIT: np.array([unit.to_json()], dtype=object)}):
            [(meta, tensors)] = rows(pack)
            if not meta.segments:
                continue
            frames = dict(zip(meta.sample_ids, tensors[FRAMES].copy(), strict=True))
            written = Written.from_json(str(write(encode(pack))[RESULT][0]))
            found = {
                sample_id: (frames[sample_id], _stored(store, row, index, recipe.contract))
                for row, index, sample_id in _spread(written.segments)
            }
            if found:
                yield _Seen(uris[written.segments[0]["source_id"]], found)


def _spread(segments: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int, str]]:
    """Up to ``WINDOWS`` windows, from all over the pack: segment, index in it, sample id."""
    every = [
        (row, index, sample_id)
        for row in segments
        for index, sample_id in enumerate(row["sample_ids"])
    ]
    chosen = np.unique(np.linspace(0, len(every) - 1, WINDOWS).round().astype(int))
    return [every[n] for n in chosen] if every else []


def _stored(
    store: Store, row: Mapping[str, Any], index: int, contract: Contract
) -> dict[str, np.ndarray]:
    found = read_sample(store, row["shard"], row["first_row"] + index, contract)
    wanted = latent_shape(contract, Bucket.parse(row["bucket"]), row["frames"])
    for name, tensor in found.items():
        if tensor.shape != wanted:
            raise CanaryError(
                f"the fidelity canary found {name} of the shape {list(tensor.shape)} for a window "
                f"at {row['bucket']}, where {contract.layout} is {list(wanted)}: axes are swapped. "
                "Nothing was encoded"
            )
    return found


def fresh_latents(
    vae: AutoencoderKL, frames: np.ndarray, sample_id: str, recipe: Recipe
) -> dict[str, np.ndarray]:
    """The statistics of one window, uint8 ``[T, H, W, 3]``, encoded alone."""
    import torch

    from pipeline.encode import window_noise

    values = frames.astype(np.float32) / np.float32(127.5) - np.float32(1)
    x = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))[None]
    posterior = vae.posterior(x.to(vae.device, vae.dtype))
    mean, logvar = (t[0].float().cpu() for t in (posterior.mean, posterior.logvar))
    made = {"mean": mean, "logvar": logvar}
    if recipe.contract.statistic == "sample":
        noise = window_noise(recipe.seed, sample_id, tuple(mean.shape))
        made = {"sample": mean + torch.exp(logvar / 2) * noise}
    return {name: made[name].numpy() for name in recipe.contract.tensors}


def largest_difference(stored: Mapping[str, np.ndarray], fresh: Mapping[str, np.ndarray]) -> float:
    """Root mean square of the difference as a share of that of ``fresh``; of all statistics."""
    return float(np.max([_difference(stored[name], fresh[name]) for name in fresh]))


def _difference(stored: np.ndarray, fresh: np.ndarray) -> float:
    wide = fresh.astype(np.float64)
    size = np.sqrt(np.mean(np.square(wide)))
    return float(np.sqrt(np.mean(np.square(stored.astype(np.float64) - wide))) / max(size, 1e-12))


def decoded_psnr(
    vae: AutoencoderKL, frames: np.ndarray, latent: np.ndarray, valid_frames: int | None = None
) -> float:
    """Decibels of one window's reconstruction; of numbers that are not finite, minus infinity.

    Only the first ``valid_frames`` count (default: all).
    """
    import torch

    given = torch.from_numpy(latent.copy())[None].to(vae.device, vae.dtype)
    decoded = vae.decode(given)[0, :valid_frames].float().cpu()
    if not torch.isfinite(decoded).all():
        return -np.inf
    return psnr(mean_squared_error(frames[:valid_frames], decoded.permute(0, 2, 3, 1).numpy()))
