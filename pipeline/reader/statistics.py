"""The file of per-channel statistics that ``jobs/maintain_cache.py stats`` writes."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.config import StorageConfig
from pipeline.contract import Contract, ContractError
from pipeline.errors import UserError
from pipeline.explain import explained
from pipeline.reader.draw import Normalization
from pipeline.storage import Store, absolute

STATISTICS_FORMAT = 1

Numbers = dict[str, list[float]]
"""``mean``, ``std`` (and ``min``, ``max``): a number a channel."""


@dataclass(frozen=True)
class Statistics:
    """What a file of statistics holds.

    ``windows`` were looked at, ``of`` so many; ``count`` numbers a channel: latent frames that
    repeated pixel frames took part in are left out. ``latents`` are the numbers by statistic:
    those stored, and for moments also ``sample``: draws, whose mean and spread follow from the
    moments (mean of the means; their variance plus the mean of the variances).
    """

    cache: str
    snapshot: int
    contract_id: str
    windows: int
    of: int
    count: int
    latents: dict[str, Numbers]
    format_version: int = STATISTICS_FORMAT

    @classmethod
    def read(cls, uri: str, storage: StorageConfig) -> Self:
        """Read a file that ``write`` wrote. Raises ``UserError``."""
        store, name = _place(uri, storage)
        with explained(uri, "read"):
            text = store.read(name)
        try:
            fields = json.loads(text)
            if fields["format_version"] != STATISTICS_FORMAT:
                raise ValueError(f"format_version {fields['format_version']!r}")
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{uri}: these are no statistics that can be read: {error}; make them with "
                "jobs/maintain_cache.py stats"
            ) from error

    def write(self, uri: str, storage: StorageConfig) -> None:
        """Write the file at once, on a local path or on S3; an older one is replaced."""
        store, name = _place(uri, storage)
        with explained(uri, "written"):
            store.write(name, (self.to_json() + "\n").encode())

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(dataclasses.asdict(self))

    def normalization(self, statistic: str, contract: Contract) -> Normalization:
        """What brings latents to mean 0 and standard deviation 1 in each channel.

        Raises ``ContractError`` where the statistics are of other latents than ``contract`` tells,
        and ``UserError`` where a channel does not vary.
        """
        origin = f"normalize: the statistics of {self.cache}, snapshot {self.snapshot},"
        if self.contract_id != contract.contract_id:
            raise ContractError(
                f"{origin} are of latents under another contract ({self.contract_id}, here "
                f"{contract.contract_id}); measure this cache (jobs/maintain_cache.py stats)"
            )
        if statistic not in self.latents:
            raise UserError(
                f"{origin} tell of {', '.join(self.latents)}, and not of {statistic!r}; ask for "
                "one of these"
            )
        found = self.latents[statistic]
        still = [channel for channel, std in enumerate(found["std"]) if not std > 0]
        if still:
            raise UserError(
                f"{origin} tell that channel {still[0]} never varies; give numbers of your own: "
                "Normalization(scale, shift)"
            )
        return Normalization([1 / std for std in found["std"]], found["mean"])


def _place(uri: str, storage: StorageConfig) -> tuple[Store, str]:
    folder, _, name = absolute(uri).rpartition("/")
    return Store(folder or "/", storage), name


def normalization_of(
    given: Normalization | str | Path | None,
    statistic: str,
    contract: Contract,
    storage: StorageConfig,
) -> Normalization | None:
    """What to normalise by; a path or URI names a file of statistics.

    Raises ``UserError``; ``ContractError``, one of these, where latents would be normalised twice.
    """
    if isinstance(given, str | Path):
        given = Statistics.read(str(given), storage).normalization(statistic, contract)
    if given is not None:
        given.check(contract)
    return given
