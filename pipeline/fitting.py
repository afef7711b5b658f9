"""What a run decides by its object store: where to decode, and how large packs are."""

from typing import Literal

from pipeline.config import Config
from pipeline.measured import Measured
from pipeline.recipe import window_bytes

STORE_SECONDS = 10.0
"""Frames of so many seconds have to fit into the half of the object store that Ray Data uses; a
store that holds less is no buffer between decoders and encoders, and it spills."""

Decode = Literal["stage", "in_actor"]

_PACKS = 7
"""Of ``store_for_packs``."""


def store_for_packs(decode_tasks: int, encoders: int, pack_bytes: int) -> int:
    """Bytes of object store with which Ray Data (2.60) keeps all decode tasks at work.

    It uses half of the store (S), and counts two packs (P) for each of the D decode tasks and two
    on their way to each of the E encoders. Half of what it uses it divides among the three
    operators, of which decode tasks get S/24, and it begins another one where its 2P are no more
    than a third of what is left of the other half: 6P <= S/4 + S/24 - 2P (D-1) - 2P E. So S has to
    be 6.9 P (D + E + 2).
    """
    return _PACKS * pack_bytes * (decode_tasks + encoders + 2)


def room_for_pack(config: Config, store_bytes: float) -> int:
    """Bytes of a pack for which such a store is enough.

    With larger ones Ray Data leaves decoders idle, or begins a task every ten seconds only.
    """
    return int(store_bytes / _PACKS / (config.run.decode_tasks + config.run.encoders + 2))


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

    Segments become smaller with the packs, and shards take more of them. Beside the encoder, frames
    are in no store.
    """
    room = room_for_pack(config, store_bytes)
    if decode == "in_actor" or room >= config.run.pack_bytes:
        return config
    run = config.run.model_copy(update={"pack_bytes": max(1, room)})
    return config.model_copy(update={"run": run})
