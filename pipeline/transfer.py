"""Arrays to a device and back, beside its work on others.

The CPU runs the same code: torch gives it streams and events that do nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Fetched:
    """Tensors on their way from a device; ``sources`` keeps these alive until they are here."""

    tensors: Mapping[str, torch.Tensor]
    sources: Mapping[str, torch.Tensor]
    event: Any

    def wait(self) -> dict[str, np.ndarray]:
        """The arrays, once they are here: the one place where the host waits for the device."""
        self.event.synchronize()
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


class Transfer:
    """Copies to and from one device on streams of their own, from and to pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._api = torch.get_device_module(device)
        on = {} if device.type == "cpu" else {"device": device}  # which need not be the current one
        self._sending, self._fetching = self._api.Stream(**on), self._api.Stream(**on)
        self._pinned = device.type == "cuda"

    def send(self, array: np.ndarray) -> torch.Tensor:
        """``array`` on the device, for whatever is launched from now on; the host does not wait.

        The array is copied before this returns, so that it may change afterwards.
        """
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        host = torch.empty(array.shape, dtype=dtype, pin_memory=self._pinned)
        np.copyto(host.numpy(), array)
        with self._api.stream(self._sending):
            sent = host.to(self._device, non_blocking=True)
        working = self._api.current_stream(self._device)
        working.wait_stream(self._sending)
        if sent is not host:  # its memory is of the other stream: not to be reused before this one
            sent.record_stream(working)
        return sent

    def fetch(self, tensors: Mapping[str, torch.Tensor]) -> Fetched:
        """Start to copy tensors from the device, after all that has been launched so far."""
        self._fetching.wait_stream(self._api.current_stream(self._device))
        event = self._api.Event()
        here = {}
        with self._api.stream(self._fetching):
            for name, tensor in tensors.items():
                here[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pinned)
                here[name].copy_(tensor, non_blocking=True)
            event.record()
        return Fetched(here, dict(tensors), event)
