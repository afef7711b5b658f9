"""Windows of a cache as people look at them: what went in, and what their latents decode to."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from pipeline.buckets import Bucket
from pipeline.config import Config, VAESection
from pipeline.config_types import Device
from pipeline.contract import Contract
from pipeline.errors import Reason, SourceError
from pipeline.isolated.choice import decode_file
from pipeline.page.pick import Pick
from pipeline.psnr import mean_squared_error, psnr
from pipeline.reading import open_source
from pipeline.roundtrip import pixels
from pipeline.shards import ShardError, read_sample
from pipeline.spans import find_place
from pipeline.storage import Store
from pipeline.video.decode import ClipFailure, ClipRequest, FrameRecipe, Segment, Target
from pipeline.windows import WindowGrid
from vae import AutoencoderKL

Frames = npt.NDArray[np.uint8]
"""uint8 ``[T, H, W, 3]``, RGB."""

LeftOut = Callable[[Pick, str], None]
"""Told of a window that cannot be shown, and why."""


@dataclass(frozen=True)
class Decoder:
    """What decodes latents, and where.

    Attributes:
        checkpoint: of the VAE; None for the one that was recorded.
        device: whatever was recorded, since another machine may have looked at the cache then.
    """

    checkpoint: str | None = None
    device: Device = "auto"

    def section(self, recorded: VAESection | None) -> VAESection | None:
        """The VAE to load, where a run recorded one or none; None where nothing names it."""
        if self.checkpoint is not None:
            return VAESection(checkpoint=self.checkpoint, device=self.device)
        return None if recorded is None else recorded.model_copy(update={"device": self.device})


@dataclass(frozen=True, eq=False)
class Looked:
    """One window.

    Attributes:
        pick: which.
        given: the frames that went in, decoded from the source once more.
        decoded: the frames that the stored latent decodes to.
        psnr: decibels over the frames that are no repetitions; infinite where nothing differs.
    """

    pick: Pick
    given: Frames
    decoded: Frames
    psnr: float


def look(
    picks: Iterable[Pick],
    config_of: Callable[[Pick], Config],
    store: Store,
    contract: Contract,
    vae: AutoencoderKL,
    left_out: LeftOut,
) -> Iterator[Looked]:
    """Decode windows from their sources, and from their latents, one by one.

    Args:
        picks: which.
        config_of: the configuration that a window was made with.
        store, contract: of the cache.
        vae: whole, on its device.
        left_out: told of windows whose source or shard cannot be read (any more).
    """
    for pick in picks:
        try:
            given = frames_of(config_of(pick), pick)
            tensors = read_sample(store, pick.shard, pick.row, contract)
        except SourceError as error:  # the source changed or went away since it was encoded
            left_out(pick, error.message)
            continue
        except ShardError as error:
            left_out(pick, str(error))
            continue
        yield looked(pick, given, decode_latent(vae, tensors))


def looked(pick: Pick, given: Frames, decoded: torch.Tensor) -> Looked:
    """A window with its decibels; ``decoded`` is float32 ``(T, 3, H, W)`` around [-1, 1]."""
    real = slice(0, pick.valid_frames)
    error = mean_squared_error(given[real], decoded[real].permute(0, 2, 3, 1).numpy())
    return Looked(pick, given, pixels(decoded), psnr(error))


def frames_of(config: Config, pick: Pick) -> Frames:
    """The window's frames, as the decode stage makes them. Raises ``SourceError``."""
    frames: Frames = decoded_again(config, pick).frames[0]
    return frames


def decoded_again(config: Config, pick: Pick) -> Segment:
    """The window alone, as the decode stage makes it. Raises ``SourceError``."""
    source, windows = pick.source, config.windows
    request = ClipRequest(
        key="",
        start=source["start"],
        end=source["end"],
        ranges=((pick.window, pick.window + 1),),
        targets=(Target(Bucket.parse(pick.bucket), 1),),
    )
    grid = WindowGrid(windows.stride, windows.tail, windows.min_frames)
    recipe = FrameRecipe(windows.rate, grid, config.resize.policy, config.resize.filter)
    uri, version = source["uri"], source["version"]
    wanted = None if find_place(uri, version) is None else version  # says where in its tar it is
    with open_source(uri, wanted, config.storage) as file:
        for found in decode_file(file, [request], recipe, config.decode):
            if isinstance(found, ClipFailure):
                raise SourceError(found.reason, found.message)
            if isinstance(found, Segment):
                if found.frames.shape[1] != pick.frames:
                    break
                return replace(found, frames=np.array(found.frames))
    raise SourceError(Reason.SOURCE_CHANGED, f"window {pick.window} is gone from {uri}")


def decode_latent(vae: AutoencoderKL, tensors: dict[str, npt.NDArray[np.generic]]) -> torch.Tensor:
    """What a stored latent decodes to: float32 ``(T, 3, H, W)`` on the CPU, not clamped.

    The posterior's mean where it is stored, else the sample.
    """
    stored = torch.from_numpy(np.array(tensors["mean" if "mean" in tensors else "sample"]))
    weight = next(vae.decoder.parameters())
    return vae.decode(stored[None].to(weight.device, weight.dtype))[0].float().cpu()
