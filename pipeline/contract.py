"""The contract: what a trainer must know to use the numbers, written once, compared whole."""

import dataclasses
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from pipeline.errors import UserError
from pipeline.identity import stable_hash
from vae import COMPRESSIONS

FORMAT_VERSION = 1
"""Version of the cache's layout on storage; readers refuse a newer one."""

CONTRACT_PATH = "contract.json"


class ContractError(UserError):
    """A cache does not fit what the configuration or the reader expects."""


@dataclass(frozen=True)
class Contract:
    """Facts that hold for every sample of a cache.

    ``value_range``: pixel range given to the VAE; ``layout``: axes of a stored tensor;
    ``statistic``: ``moments`` (mean and logvar), ``mean`` or ``sample``; ``dtype``: as stored;
    ``scale``, ``shift``: stored = (latent − shift) · scale (1 and 0: the published model
    normalises nothing); ``window_frames``, ``latent_frames``: frames of a window before and after.
    """

    format_version: int
    vae_version: int
    z_channels: int
    encoder_sha256: str
    value_range: tuple[float, float]
    layout: str
    statistic: str
    dtype: str
    scale: float
    shift: float
    window_frames: int
    latent_frames: int

    @classmethod
    def matching(cls, **fields: Any) -> "Expectation":
        """What a trainer needs of a cache: values of some fields, whatever the others are.

        Raises ``ContractError`` for a name that is no field.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        odd = sorted(set(fields) - set(known))
        if odd:
            raise ContractError(
                f"Contract.matching: {', '.join(odd)}: no field of a contract; there are "
                f"{', '.join(known)}"
            )
        if "value_range" in fields:
            fields["value_range"] = tuple(fields["value_range"])
        return Expectation(fields)

    @cached_property
    def contract_id(self) -> str:
        """Hash of all fields: equal contracts have equal ids."""
        return stable_hash(["contract", json.loads(self.to_json())])

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors stored for each sample."""
        return ("mean", "logvar") if self.statistic == "moments" else (self.statistic,)

    @property
    def spatial_factor(self) -> int:
        """Pixels for one latent position, in height and in width; the version decides it."""
        return COMPRESSIONS[self.vae_version].spatial

    def to_json(self) -> str:
        """The text of ``contract.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_dict(cls, fields: dict[str, Any], origin: str) -> Self:
        """Read a contract; ``origin`` names it in errors. Raises ``ContractError``."""
        version = fields.get("format_version")
        if version != FORMAT_VERSION:
            raise ContractError(
                f"{origin}: format_version {version!r} cannot be read by this t2v-latents, which "
                f"reads {FORMAT_VERSION}; install the version that wrote the cache, or a newer one"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != known:
            odd = sorted(known.symmetric_difference(fields))
            raise ContractError(f"{origin}: missing or unknown contract fields: {', '.join(odd)}")
        if fields["vae_version"] not in tuple(COMPRESSIONS):
            raise ContractError(
                f"{origin}: vae_version {fields['vae_version']!r} is unknown to this t2v-latents; "
                "install the version that wrote the cache, or a newer one"
            )
        return cls(**{**fields, "value_range": tuple(fields["value_range"])})

    def differing_fields(self, other: "Contract") -> dict[str, tuple[Any, Any]]:
        """Fields whose values differ, as ``{name: (ours, theirs)}``."""
        ours, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


@dataclass(frozen=True)
class Expectation:
    """Values of some fields of a contract; made with ``Contract.matching``."""

    fields: dict[str, Any]

    def check(self, contract: Contract, origin: str) -> None:
        """Raise ``ContractError``, with the differing fields, where a cache does not fit."""
        found = dataclasses.asdict(contract)
        told = [
            f"{name} is {found[name]!r}, expected {wanted!r}"
            for name, wanted in self.fields.items()
            if found[name] != wanted
        ]
        if told:
            raise ContractError(
                f"{origin} does not fit what the trainer expects: {'; '.join(told)}. Open the "
                "cache (or snapshot) that was encoded for this model, encode one with "
                "jobs/encode_dataset.py, or expect what this one holds"
            )
