"""What the formats have in common: samples are encoded one by one, and packed into shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.export.sample import Sample


@dataclass(frozen=True)
class Packed:
    """A shard that was written: its name, samples, bytes, and SHA-1."""

    name: str
    samples: int
    bytes: int
    sha1: str


class Format(Protocol):
    """One format, for the samples of one folder: one bucket at one length."""

    def encode(self, sample: Sample) -> tuple[Any, int]:
        """A sample as a shard holds it, and its bytes there."""

    def pack(self, items: Sequence[Any]) -> bytes:
        """The shard of encoded samples, at least one."""

    def name(self, number: int) -> str:
        """The file name of a shard, counted from 0."""

    def index(self, shards: Sequence[Packed]) -> Mapping[str, bytes]:
        """Files that complete the folder, by name; written behind all shards."""


def exported_statistic(name: str, asked: str | None, contract: Contract) -> str:
    """What an export holds: by default what the cache does (FastVideo: means, not moments)."""
    if name == "fastvideo":
        if asked == "moments":
            raise UserError(
                "--statistic moments: a row of FastVideo holds one tensor; ask for mean or sample, "
                "or for another --format"
            )
        if asked is None and contract.statistic == "moments":
            return "mean"
    return asked or contract.statistic
