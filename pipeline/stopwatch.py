"""How long a device works on what is launched to it, told without waiting for it."""

import time
from typing import Any

import torch


class Stopwatch:
    """Runs from its making to ``stop``, in the time of one device's current stream.

    On the CPU, where launched work is done at once, that is the time of the wall.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin = self._mark()
        self._end: Any = None

    def _mark(self) -> Any:
        if self._device.type == "cpu":
            return time.perf_counter()
        api = torch.get_device_module(self._device)
        event = api.Event(enable_timing=True)
        event.record(api.current_stream(self._device))
        return event

    def stop(self) -> None:
        """Stop it when the device has done all that was launched so far."""
        self._end = self._mark()

    def seconds(self) -> float:
        """What it shows. To be asked when the device is known to have come to its stop."""
        if self._device.type == "cpu":
            return float(self._end - self._begin)
        return float(self._begin.elapsed_time(self._end)) / 1000
