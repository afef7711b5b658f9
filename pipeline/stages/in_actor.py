"""Decode and encode in one actor: threads decode beside the encoder, and no frames travel."""

import threading
from collections.abc import Iterator

from pipeline.config import Config
from pipeline.metrics import QUEUE, SILENT, Meter
from pipeline.packs import FRAMES, Batch
from pipeline.recipe import Recipe
from pipeline.stages.decode import make_decode_fn
from pipeline.stages.encode import Encoder, MakeEncoder, make_vae_encoder

WAITING_PACKS = 1
"""Packs that wait for an encoder, besides the one that it works on."""


class DecodingEncoder:
    """One encoder with decoders beside it, called by several threads at once, with a unit each.

    A thread decodes its unit pack by pack and waits for its turn at the encoder with each, so that
    no more packs are held than there are threads. What a call yields follows from its unit alone.
    """

    def __init__(
        self,
        config: Config,
        recipe: Recipe,
        make_encoder: MakeEncoder = make_vae_encoder,
        meter: Meter = SILENT,
    ) -> None:
        self._decode = make_decode_fn(config, recipe, meter)
        self._encode = Encoder(config, recipe, make_encoder, meter)
        self._turn = threading.Lock()
        self._meter = meter
        self._waiting = 0
        self._count = threading.Lock()

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Packs of latents of a batch of units."""
        for pack in self._decode(batch):
            windows = len(pack[FRAMES][0])
            self._queue(windows)
            with self._turn:
                self._queue(-windows)
                encoded = self._encode(pack)
            yield encoded

    def _queue(self, windows: int) -> None:
        """Windows more, or fewer, wait for their turn."""
        with self._count:
            self._waiting += windows
            self._meter.set(QUEUE, self._waiting, queue="encode")


def decoders_beside(config: Config) -> int:
    """Threads that decode beside each encoder, so that there are ``decode_tasks`` in all."""
    return -(-config.run.decode_tasks // config.run.encoders)


def threads_of_an_encoder(config: Config) -> int:
    """Calls at once: the decoders, the one whose pack is encoded, and those that wait."""
    return decoders_beside(config) + 1 + WAITING_PACKS
