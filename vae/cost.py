"""What a computation of torch costs, counted operator by operator, whatever the machine.

On the meta device nothing is computed or allocated, so that the cost of the full-size model at any
size is known in a second.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        alive_by_weight: the most that was allocated at once while a convolution ran, by the bytes
            of that convolution's weight, without a copy of it; under 0 the peak of everything else.
        largest_elements: elements of the largest tensor that was allocated.
    """

    operators: int
    flops: int
    bytes_moved: int
    minimal_bytes: int
    peak_bytes: int
    alive_by_weight: Mapping[int, int]
    largest_elements: int


def count_cost(function: Callable[..., object], *args: object) -> Cost:
    """Call ``function(*args)`` and count. Kernels' own workspace is not seen."""
    with torch.inference_mode(), _Tally() as tally:
        function(*args)
    return Cost(
        tally.operators,
        tally.flops,
        tally.bytes_moved,
        tally.minimal_bytes,
        tally.peak_bytes,
        tally.alive_by_weight,
        tally.largest_elements,
    )


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below autograd."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.flops = self.bytes_moved = self.minimal_bytes = self.peak_bytes = 0
        self.alive_by_weight: dict[int, int] = {0: 0}
        self.largest_elements = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name: str = func._schema.name
        if name == "aten::native_group_norm" and args[0].is_meta:
            result = _group_norm_results(*args)  # torch's own way to their shapes takes 10 ms
        else:
            result = func(*args, **kwargs)
        read = _tensors((args, kwargs))
        made = _tensors(result)
        known = {_storage_key(tensor) for tensor in read}
        for tensor in made:
            if _storage_key(tensor) not in known:
                self._see(tensor)
        weight = _bytes(args[1]) if "conv" in name else 0
        alive = sum(self._alive.values())
        self.peak_bytes = max(self.peak_bytes, alive)
        if weight and _storage_key(args[1]) in self._alive:
            alive -= weight
        self.alive_by_weight[weight] = max(alive, self.alive_by_weight.get(weight, 0))
        shared = all(_storage_key(tensor) in known for tensor in made)
        allocates = name.startswith(("aten::empty", "aten::new_empty"))
        if made and not allocates and (func._schema.is_mutable or not shared):
            if "out" in kwargs:
                read = [tensor for tensor in read if tensor is not kwargs["out"]]
            elif name in _ONLY_WRITTEN_FIRST:
                read = read[1:]
            moved = sum(map(_bytes, (*read, *made)))
            self.operators += 1
            self.bytes_moved += moved
            if any(part in name for part in _LINEAR):
                self.minimal_bytes += moved
                self.flops += _flops(name, args, made[0])
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = _storage_key(tensor)
        self.largest_elements = max(self.largest_elements, tensor.numel())
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            weakref.finalize(storage, self._alive.pop, key, None)


def _flops(name: str, args: Any, out: Tensor) -> int:
    """FLOPs of a linear operator: two for each product that goes into each element of ``out``.

    Attention counts all pairs, masked or not, as torch's own counter does.
    """
    if "scaled_dot_product" in name:
        query, key, value = (tensor.shape for tensor in args[:3])
        return int(2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))
    if "conv" in name:
        return 2 * out.numel() * int(math.prod(args[1].shape[1:]))
    return 2 * out.numel() * int(args[1 if "addmm" in name else 0].shape[-1])


def _group_norm_results(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    batch, groups = args[2], args[5]
    statistics = x.new_empty((batch, groups)), x.new_empty((batch, groups))
    return (torch.empty_like(x, memory_format=torch.contiguous_format), *statistics)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
