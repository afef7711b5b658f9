"""What a computation of torch costs, counted operator by operator, whatever the machine.

On the meta device nothing is computed or allocated, so that the cost of the full-size model at any
size is known in a second.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_LINEAR = ("conv", "addmm", "linear", "matmul", "bmm", "scaled_dot_product")
_ONLY_WRITTEN_FIRST = ("aten::copy_", "aten::fill_", "aten::zero_")


@dataclass(frozen=True)
class Cost:
    """Counts of one computation.

    Attributes:
        operators: operators that make or change data; views and allocations are none.
        flops: a multiplication and an addition are two.
        bytes_moved: bytes of all tensors that these operators read or write.
        minimal_bytes: the part of it that convolutions, linear maps and attention move: what would
            be left if everything else were fused into them.
        peak_bytes: the most that was allocated at once, inputs and weights apart.
    """

    operators: int
    flops: int
    bytes_moved: int
    minimal_bytes: int
    peak_bytes: int


def count_cost(function: Callable[..., object], *args: object) -> Cost:
    """Call ``function(*args)`` and count. Kernels' own workspace is not seen."""
    with torch.inference_mode(), FlopCounterMode(display=False) as flops, _Tally() as tally:
        function(*args)
    return Cost(
        tally.operators,
        int(flops.get_total_flops()),
        tally.bytes_moved,
        tally.minimal_bytes,
        tally.peak_bytes,
    )


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.bytes_moved = self.minimal_bytes = self.peak_bytes = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = _tensors((args, kwargs))
        made = _tensors(result)
        known = {_storage_key(tensor) for tensor in read}
        for tensor in made:
            if _storage_key(tensor) not in known:
                self._see(tensor)
        shared = all(_storage_key(tensor) in known for tensor in made)
        allocates = func._schema.name.startswith(("aten::empty", "aten::new_empty"))
        if made and not allocates and (func._schema.is_mutable or not shared):
            if "out" in kwargs:
                read = [tensor for tensor in read if tensor is not kwargs["out"]]
            elif func._schema.name in _ONLY_WRITTEN_FIRST:
                read = read[1:]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*read, *made))
            self.operators += 1
            self.bytes_moved += moved
            if any(name in func._schema.name for name in _LINEAR):
                self.minimal_bytes += moved
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = _storage_key(tensor)
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
            weakref.finalize(storage, self._alive.pop, key, None)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
