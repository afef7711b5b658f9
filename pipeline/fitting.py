"""What a run decides by its object store: where to decode, and how large packs are."""

from typing import Literal

from pipeline.config import Config
from pipeline.measured import Measured
from pipeline.recipe import window_bytes

STORE_SECONDS = 10.0
"""Frames of so many seconds have to fit into the half of the object store that Ray Data uses; a
store that holds less is no buffer between decoders and encoders, and it spills."""

_HELD_BY_DECODER = 3
"""Packs that a decode task holds in the object store: one in the making, two that wait."""

_HELD_BY_ENCODER = 2
"""Packs on their way to an encoder: Ray Data sends it one beside the one it works on."""

Decode = Literal["stage", "in_actor"]


def store_for_packs(decode_tasks: int, encoders: int, pack_bytes: int) -> int:
    """Bytes of object store that hold the frames in flight twice: Ray Data fills half of it."""
    return 2 * pack_bytes * _in_flight(decode_tasks, encoders)


def room_for_pack(config: Config, store_bytes: float) -> int:
    """Bytes of a pack for which such a store is enough.

    With larger ones Ray Data finds no room for a decode task beside what waits for the encoders,
    and starts one every ten seconds only.
    """
    return int(store_bytes / 2 / _in_flight(config.run.decode_tasks, config.run.encoders))


def _in_flight(decode_tasks: int, encoders: int) -> int:
    return _HELD_BY_DECODER * decode_tasks + _HELD_BY_ENCODER * encoders


def choose_decode(config: Config, measured: Measured, store_bytes: float) -> Decode:
    """Where to decode, in a cluster whose object stores hold ``store_bytes`` together.

    ``auto`` is beside the encoder where a window of the largest bucket is more than a pack may be,
    or the frames that an earlier run moved would not fit into the object store for
    ``STORE_SECONDS``; else a stage of its own.
    """
    if config.run.decode != "auto":
        return config.run.decode
    window = max(window_bytes(bucket) for bucket in config.bucket_list)
    moved = (measured.bytes_per_second or 0.0) * STORE_SECONDS
    small = window > room_for_pack(config, store_bytes) or moved > store_bytes / 2
    return "in_actor" if small else "stage"


def fit_packs(config: Config, store_bytes: float, decode: Decode) -> Config:
    """The configuration with ``run.pack_bytes`` that the store has room for.

    Segments, and shards, become smaller with the packs. Beside the encoder, frames are in no store.
    """
    room = room_for_pack(config, store_bytes)
    if decode == "in_actor" or room >= config.run.pack_bytes:
        return config
    run = config.run.model_copy(update={"pack_bytes": max(1, room)})
    return config.model_copy(update={"run": run})
