"""What the graph settles by its units, without a cluster."""

from collections.abc import Sequence

import numpy as np
import pytest
from ray.data._internal.output_buffer import BlockOutputBuffer, OutputBlockSizeOption

from pipeline.buckets import Bucket
from pipeline.graph import block_bytes, refitted
from pipeline.recipe import window_bytes
from pipeline.units import ClipTask, FileTask, Unit
from tests.pipeline.helpers import SMALL, WIDE, make_config


def unit(bucket: Bucket = SMALL, size: int = 6, frames: int = 17) -> Unit:
    """12 windows, in packs of ``size``."""
    clip = ClipTask("s", "g", "v", None, None, ((0, None),), (bucket,), None, 12)
    return Unit((FileTask("a", None, (clip,)),), ((bucket.name, size),), frames)


def config(windows: int):
    """A pack may have the bytes of so many."""
    return make_config(run={"pack_bytes": windows * window_bytes(SMALL)})


@pytest.mark.parametrize(("decode", "told"), [("in_actor", 3), ("stage", 0)])
def test_packs_of_latents_are_told_as_they_come_where_a_task_makes_many(decode, told):
    """They are small; a task that decodes beside the encoder may be hours of work."""
    size = block_bytes([unit()], config(100), decode)
    assert blocks(size, [np.zeros((1, 2, 3, 4, 2, 2), np.float16)] * 3) == [1] * told


@pytest.mark.parametrize("windows", [1, 3, 6, 100])
def test_full_packs_are_blocks_of_their_own(windows):
    """Whatever limits them: the store, or an encoder's seconds."""
    units = [unit(), unit(WIDE, 40), unit(SMALL, 90, frames=1)]
    size = block_bytes(units, config(windows), "stage")
    for each in units:
        [(bucket, count)] = each.pack_sizes(config(windows).run.pack_bytes).items()
        pack = np.zeros((1, count, each.frames, bucket.height, bucket.width, 3), np.uint8)
        assert blocks(size, [pack] * 3) == [1, 1, 1]


def blocks(size: int, columns: Sequence[np.ndarray]) -> list[int]:
    """Rows of the blocks that Ray Data makes of batches of one row."""
    buffer = BlockOutputBuffer(OutputBlockSizeOption.of(size))
    found = []
    for column in columns:
        buffer.add_batch({"column": column})
        while buffer.has_next():
            found.append(buffer.next().num_rows)
    return found


def test_a_shard_takes_as_many_more_of_smaller_packs():
    units = [unit()] * 3
    assert refitted(5, units, config(100)) == 5
    assert refitted(5, units, config(2)) == 15
    assert refitted(1, units, config(1)) == 6
    assert refitted(1, [], config(1)) == 1
