import time

import numpy as np
from helpers import WIDE, make_config, make_contract, make_recipe, make_segment

from pipeline.packs import FRAMES, PackMeta, rows, to_batch
from pipeline.simulated import MakeSimulated, SimulatedEncoder
from pipeline.stages.encode import Encoder


def frames(windows, length=17):
    return np.zeros((windows, length, WIDE.height, WIDE.width, 3), np.uint8)


def test_latents_have_the_right_shape_and_follow_from_the_sample_ids():
    contract = make_contract(statistic="moments")
    encode = SimulatedEncoder(contract, 0)
    found = encode(frames(2), ["8000", "ffff"])
    assert list(found.tensors) == ["mean", "logvar"]
    assert found.bad == {}
    for tensor in found.tensors.values():
        assert tensor.shape == (2, 3, 2, 2, 4)
        assert tensor.dtype == np.float16
        assert (tensor[0] == 0.5).all()
    again = encode(frames(1), ["ffff"]).tensors["mean"]
    np.testing.assert_array_equal(again[0], found.tensors["mean"][1])
    assert encode(frames(1, length=1), ["8000"]).tensors["mean"].shape == (1, 1, 2, 2, 4)


def test_it_takes_its_time_and_no_processor():
    encode = SimulatedEncoder(make_contract(), 0.1)
    begun, used = time.perf_counter(), time.thread_time()
    encode(frames(3), ["0000"] * 3)
    assert time.perf_counter() - begun >= 0.3
    assert time.thread_time() - used < 0.1


def test_the_stage_tells_what_a_pack_took_of_its_encoder():
    config = make_config()
    stage = Encoder(config, make_recipe(config), MakeSimulated(0.05))
    meta = PackMeta("p", (make_segment(windows=2, bucket=WIDE),), ())
    before = time.time()
    [(found, tensors)] = rows(stage(to_batch(meta, {FRAMES: frames(2)})))
    assert tensors["mean"].shape[0] == 2
    effort = found.effort
    assert effort is not None
    assert (effort.encoder, effort.windows) == (stage.name, 2)
    assert effort.frame_bytes == frames(2).nbytes
    assert 0.1 <= effort.seconds < 5
    assert before <= effort.begun <= effort.ended <= time.time() + 0.01


def test_a_pack_of_events_alone_takes_nothing():
    config = make_config()
    stage = Encoder(config, make_recipe(config), MakeSimulated(10))
    [(found, _)] = rows(stage(to_batch(PackMeta("p", (), ()), {FRAMES: frames(0)})))
    assert found.effort is None
