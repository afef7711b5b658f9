"""Decoding beside the encoder, without Ray: threads call one actor."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import make_config, make_recipe, make_segment
from meters import Remembering

from pipeline.encode import Encoded
from pipeline.packs import FRAMES, PackMeta, rows, to_batch
from pipeline.stages import in_actor as module
from pipeline.stages.in_actor import DecodingEncoder, decoders_beside, threads_of_an_encoder

PACKS = 4


class Slow:
    """Takes a while; tells how many were at work at once, and in which order."""

    def __init__(self):
        self.within, self.most, self.order = 0, 0, []

    def __call__(self, frames, sample_ids):
        self.within += 1
        self.most = max(self.most, self.within)
        time.sleep(0.01)
        self.order.append(sample_ids[0])
        self.within -= 1
        values = frames[:, 0, 0, 0, 0].astype(np.float16).reshape(-1, 1, 1, 1, 1)
        return Encoded({"mean": values, "logvar": values}, {})


@pytest.fixture
def actor(monkeypatch):
    """An actor whose units are numbers, each of some packs of one window."""

    def decode(batch):
        for number in batch["unit"].tolist():
            for index in range(PACKS):
                time.sleep(0.005)
                frames = np.full((1, 17, 32, 32, 3), 10 * number + index, np.uint8)
                segment = make_segment(f"{number}", index, 1)
                meta = PackMeta(f"{number}/{index}", (segment,), ())
                yield to_batch(meta, {FRAMES: frames})

    monkeypatch.setattr(module, "make_decode_fn", lambda config, recipe, meter: decode)
    slow, meter = Slow(), Remembering()
    found = DecodingEncoder(make_config(), make_recipe(), lambda config, recipe: slow, meter)
    found.slow, found.meter = slow, meter
    return found


def test_threads_decode_and_take_turns_at_the_encoder(actor):
    def call(number):
        packs = actor({"unit": np.array([number])})
        return [found for pack in packs for found in rows(pack)]

    with ThreadPoolExecutor(5) as pool:
        units = list(pool.map(call, range(10)))
    assert actor.slow.most == 1
    assert len(actor.slow.order) == 10 * PACKS
    for number, packs in enumerate(units):
        assert [meta.pack_id for meta, _ in packs] == [f"{number}/{n}" for n in range(PACKS)]
        values = [tensors["mean"].item() for _, tensors in packs]
        assert values == [10 * number + n for n in range(PACKS)]
        assert all(meta.effort is not None for meta, _ in packs)
    waiting = actor.meter.seen["t2v_queue_windows", "encode"]
    assert 1 < max(waiting) <= 5  # windows, one of each thread
    assert waiting[-1] == 0
    first = list(actor.slow.order[: 2 * PACKS])
    assert len(set(first)) > PACKS  # of several units, not of one after the other


@pytest.mark.parametrize(
    ("tasks", "encoders", "each"), [(2, 1, 2), (24, 8, 3), (9, 4, 3), (1, 4, 1)]
)
def test_decoders_are_spread_over_the_encoders(tasks, encoders, each):
    config = make_config(run__decode_tasks=tasks, run__encoders=encoders)
    assert decoders_beside(config) == each
    assert threads_of_an_encoder(config) > each
