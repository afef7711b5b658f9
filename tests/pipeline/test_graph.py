"""Settings of Ray Data, without a cluster."""

import copy
import logging

import numpy as np
import pytest
from ray.data import DataContext
from ray.data._internal.output_buffer import BlockOutputBuffer, OutputBlockSizeOption

from pipeline.graph import configure_context, refitted
from pipeline.recipe import window_bytes
from pipeline.units import ClipTask, FileTask, Unit
from tests.pipeline.helpers import SMALL, make_config


@pytest.mark.parametrize(("decode", "told"), [("in_actor", 3), ("stage", 0)])
def test_packs_of_latents_are_told_as_they_come_where_a_task_makes_many(monkeypatch, decode, told):
    """They are small; a task that decodes beside the encoder may be hours of work."""
    context = copy.deepcopy(DataContext.get_current())
    monkeypatch.setattr(DataContext, "get_current", lambda: context)
    monkeypatch.setattr(logging.getLogger("ray.data"), "handlers", [])
    configure_context(make_config(), None, decode)
    buffer = BlockOutputBuffer(OutputBlockSizeOption.of(context.target_max_block_size))
    blocks = []
    for _ in range(3):
        buffer.add_batch({"mean": np.zeros((1, 2, 3, 4, 2, 2), np.float16)})
        while buffer.has_next():
            blocks.append(buffer.next().num_rows)
    assert blocks == [1] * told


def test_a_shard_takes_as_many_more_of_smaller_packs():
    clip = ClipTask("s", "g", "v", None, None, ((0, None),), (SMALL,), None, 12)
    units = [Unit((FileTask("a", None, (clip,)),), ((SMALL.name, 6),))] * 3

    def config(windows: int):
        return make_config(run={"pack_bytes": windows * window_bytes(SMALL)})

    assert refitted(5, units, config(100)) == 5
    assert refitted(5, units, config(2)) == 15
    assert refitted(1, units, config(1)) == 6
    assert refitted(1, [], config(1)) == 1
