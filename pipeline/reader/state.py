"""Where in which epoch a reader is; shared with the workers that were started before."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

_ROOM = 64 * 2**10


@dataclass(frozen=True)
class Position:
    """A place in an epoch: ``steps`` done since the clips of ``begun`` (by group) were given out.

    ``worker`` is (number, workers) where a worker tells its own place, as StatefulDataLoader asks.
    """

    epoch: int
    begun: tuple[int, ...]
    world_size: int
    batch_size: int
    steps: int
    worker: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Position":
        """Inverse of ``dataclasses.asdict``, also after JSON."""
        worker = fields.get("worker")
        return cls(
            **{
                **fields,
                "begun": tuple(fields["begun"]),
                "worker": None if worker is None else tuple(worker),
            }
        )


def shared_bytes(count: int) -> torch.Tensor:
    """Zeros in memory that processes share."""
    memory = torch.zeros(count, dtype=torch.uint8)
    memory.share_memory_()  # type: ignore[no-untyped-call]
    return memory


class SharedPosition:
    """A position in memory that processes share, whether forked or spawned."""

    def __init__(self, position: Position) -> None:
        self._memory = shared_bytes(_ROOM)
        self.set(position)

    def set(self, position: Position) -> None:
        """Put another position in the place."""
        text = json.dumps(asdict(position)).encode()
        self._memory[: len(text) + 1] = torch.tensor([*text, 0], dtype=torch.uint8)

    def get(self) -> Position:
        """The position."""
        text = bytes(self._memory.numpy()).split(b"\0", 1)[0]
        return Position.from_dict(json.loads(text))
