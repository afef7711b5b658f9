"""The recipe: the part of the configuration that decides how a source resolves into windows."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.buckets import Bucket, ResizeFilter, ResizePolicy, nearest
from pipeline.config import Config
from pipeline.contract import Contract
from pipeline.identity import stable_hash
from pipeline.windows import WINDOW_FRAMES, WindowGrid


@dataclass(frozen=True)
class Recipe:
    """How windows are cut, resized, encoded and stored; equal recipes give equal samples."""

    fps: Fraction | None
    grid: WindowGrid
    buckets: tuple[Bucket, ...]
    bucket_choice: str
    resize: ResizePolicy
    filter: ResizeFilter
    compute_dtype: str
    seed: int
    contract: Contract

    @classmethod
    def from_config(cls, config: Config, contract: Contract) -> "Recipe":
        """The recipe of a configuration under a contract."""
        windows = config.windows
        return cls(
            fps=windows.rate,
            grid=WindowGrid(windows.stride, windows.tail, windows.min_frames),
            buckets=config.bucket_list,
            bucket_choice=config.bucket_choice,
            resize=config.resize.policy,
            filter=config.resize.filter,
            compute_dtype=config.vae.compute_dtype,
            seed=config.latents.seed,
            contract=contract,
        )

    def encoding(self) -> dict[str, Any]:
        """What decides a sample's numbers beside its source, frames and geometry."""
        fields: dict[str, Any] = {
            "filter": self.filter,
            "encoder_sha256": self.contract.encoder_sha256,
            "compute_dtype": self.compute_dtype,
            "statistic": self.contract.statistic,
            "dtype": self.contract.dtype,
        }
        if self.contract.statistic == "sample":
            fields["seed"] = self.seed
        return fields

    def assign(self, width: int, height: int) -> tuple[Bucket, ...]:
        """The buckets of a source of this display size, in pixels."""
        if self.bucket_choice == "all":
            return tuple(sorted(self.buckets))
        return (nearest(self.buckets, width, height),)

    def window_key(self, is_image: bool) -> str:
        """Hash of all that decides a window's numbers but for its bucket and place on the grid.

        Windows of one source version with equal keys, bucket, first frame and number of real frames
        are the same sample, whatever grids they lay on.
        """
        fps = None if is_image or self.fps is None else str(self.fps)
        return stable_hash(["window", fps, self.resize, self.encoding(), self.contract.contract_id])

    def key(self, buckets: tuple[Bucket, ...], is_image: bool) -> str:
        """Hash of all that decides the windows of a source assigned to ``buckets``.

        Another configuration with the same key would encode the source to the same samples. Time
        does not touch images.
        """
        timing: Any = (
            None
            if is_image
            else [
                None if self.fps is None else str(self.fps),
                self.grid.stride,
                self.grid.tail,
                self.grid.min_frames,
            ]
        )
        names = sorted(bucket.name for bucket in buckets)
        return stable_hash(
            ["recipe", timing, names, self.resize, self.encoding(), self.contract.contract_id]
        )


def generation_id(source: str, version: str, recipe_key: str, rebuild: str | None) -> str:
    """Identity of all segments of one source version under one recipe.

    ``rebuild`` is the run's id where ``--overwrite`` asks to encode anew what is there already.
    """
    return stable_hash(["generation", source, version, recipe_key, rebuild])


def window_bytes(bucket: Bucket, frames: int = WINDOW_FRAMES) -> int:
    """Bytes of one window's uint8 RGB frames."""
    return frames * bucket.height * bucket.width * 3


def segment_cap(bucket: Bucket, segment_windows: int, pack_bytes: int) -> int:
    """Windows per segment at a bucket: what is configured, as far as a pack can hold it."""
    return max(1, min(segment_windows, pack_bytes // window_bytes(bucket)))


def latent_values(contract: Contract, bucket: Bucket, frames: int = WINDOW_FRAMES) -> int:
    """Numbers in one statistic of one window."""
    return math.prod(latent_shape(contract, bucket, frames))


def latent_shape(
    contract: Contract, bucket: Bucket, frames: int = WINDOW_FRAMES
) -> tuple[int, int, int, int]:
    """Latent frames, channels, rows and columns of one window."""
    latent_frames = contract.latent_frames if frames == WINDOW_FRAMES else 1
    rows, columns = (side // contract.spatial_factor for side in (bucket.height, bucket.width))
    return latent_frames, contract.z_channels, rows, columns
