import copy
import hashlib
import warnings
from types import MappingProxyType

import numpy as np
import pytest
import torch
from helpers import NARROW, WIDE, make_config, make_contract, make_recipe, make_segment
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.encode import WindowEncoder, pixels_to_input, window_noise
from pipeline.errors import Reason, UserError
from pipeline.packs import FRAMES, Event, PackMeta, rows, to_batch
from pipeline.room import Room, is_out_of_memory
from pipeline.stages.encode import Encoder
from pipeline.weights import load_vae
from vae import DiagonalGaussian, MemoryPlan
from vae.memory import DEVICE_SHARE

MOMENTS = make_contract(dtype="float32")


@pytest.fixture(scope="module")
def vae():
    config = make_config()
    return load_vae(config.vae, config.storage)


def random_frames(count, length=17, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, length, 32, 32, 3), np.uint8)


def ids(count):
    return [f"id{n}" for n in range(count)]


def encode_windows(vae, frames, sample_ids, contract, seed, micro_batch):
    return WindowEncoder(vae, contract, seed, micro_batch)(frames, sample_ids)


class FakeVAE:
    """Gives the numbers of a table: window n's mean and logvar, whatever its frames show.

    Frames carry the window's number in their first pixel. Bytes by frames of a slice are like those
    of the published encoder at 256x256, of which ``FIXED`` do not grow with the batch; calls beyond
    ``memory`` bytes run out of it. ``tried``: windows at once and frames of a slice, by call.
    """

    device, dtype = torch.device("cpu"), torch.float32
    OPTIONS = MappingProxyType({8: 60, 4: 45, 2: 35, 1: 31})
    FIXED = 6
    error: Exception = torch.OutOfMemoryError("CUDA out of memory")

    def __init__(self, means, logvars=None, memory=10**9):
        self.means = means
        self.logvars = logvars or [0.0] * len(means)
        self.memory = memory
        self.calls = []
        self.tried = []

    def memory_plan(self, height, width, frames, *, budget):
        sizes = self.OPTIONS if frames > 1 else (8,)
        options = {size: self.OPTIONS[size] for size in sizes}
        size = next((s for s, peak in options.items() if peak <= budget), min(options))
        batch = max(1, (budget - self.FIXED) // (options[size] - self.FIXED))
        return MemoryPlan(batch, size, budget, options)

    def mean(self, x, memory_budget):
        return self.posterior(x, memory_budget).mean

    def posterior(self, x, memory_budget):
        plan = self.memory_plan(32, 32, x.shape[1], budget=memory_budget)
        at_once = min(plan.batch, len(x))
        self.tried.append((at_once, plan.slice_frames))
        if self.FIXED + at_once * (plan.peak_bytes - self.FIXED) > self.memory:
            raise self.error
        self.calls.append(len(x))
        numbers = ((x[:, 0, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        shape = (len(x), 3, 2, 2, 2)
        mean, logvar = torch.zeros(shape), torch.zeros(shape)
        for row, number in enumerate(numbers):
            mean[row, -1, -1, -1, -1] = self.means[number]
            logvar[row, 0, 0, 0, 0] = self.logvars[number]
        return DiagonalGaussian(mean, logvar)


def numbered_frames(count):
    frames = np.zeros((count, 17, 32, 32, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = np.arange(count)
    return frames


# ---- input


def test_pixels_become_what_the_vae_was_trained_on():
    frames = random_frames(2)
    x = pixels_to_input(torch.from_numpy(frames), torch.float32)
    assert x.shape == (2, 17, 3, 32, 32)
    assert x.dtype == torch.float32
    want = frames.transpose(0, 1, 4, 2, 3).astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(x.numpy(), want, atol=1e-6)
    ends = torch.zeros((1, 1, 16, 16, 3), dtype=torch.uint8)
    assert (pixels_to_input(ends, torch.float32) == -1).all()
    assert (pixels_to_input(ends + 255, torch.float32) == 1).all()


def test_the_input_has_the_dtype_of_the_weights_and_the_order_of_the_frames():
    x = pixels_to_input(torch.from_numpy(random_frames(1)), torch.bfloat16)
    assert x.dtype == torch.bfloat16
    assert x.permute(0, 1, 3, 4, 2).is_contiguous()


def test_frames_that_cannot_be_written_to_are_encoded(vae):
    frames = random_frames(1)
    frames.flags.writeable = False  # as Ray hands them out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode_windows(vae, frames, ids(1), MOMENTS, 0, 1).bad == {}


# ---- statistics


@pytest.mark.parametrize("length", [17, 1])
def test_moments_are_the_posteriors(vae, length):
    frames = random_frames(2, length)
    encoded = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2)
    with torch.no_grad():
        posterior = vae.posterior(pixels_to_input(torch.from_numpy(frames), vae.dtype))
    latents = 3 if length == 17 else 1
    assert list(encoded.tensors) == ["mean", "logvar"]
    assert encoded.tensors["mean"].shape == (2, latents, 2, 2, 2)
    np.testing.assert_array_equal(encoded.tensors["mean"], posterior.mean.numpy())
    np.testing.assert_array_equal(encoded.tensors["logvar"], posterior.logvar.numpy())
    assert encoded.bad == {}


def test_mean_is_the_mean_of_moments(vae):
    frames = random_frames(2)
    moments = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2)
    contract = make_contract(dtype="float32", statistic="mean")
    mean = encode_windows(vae, frames, ids(2), contract, 0, 2)
    assert list(mean.tensors) == ["mean"]
    np.testing.assert_allclose(mean.tensors["mean"], moments.tensors["mean"], rtol=0, atol=1e-5)


def test_a_sample_is_mean_and_seeded_noise(vae):
    frames = random_frames(2)
    moments = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2).tensors
    contract = make_contract(dtype="float32", statistic="sample")
    drawn = encode_windows(vae, frames, ids(2), contract, 7, 2)
    assert list(drawn.tensors) == ["sample"]
    noise = np.stack([window_noise(7, i, (3, 2, 2, 2)).numpy() for i in ids(2)])
    want = moments["mean"] + np.exp(moments["logvar"] / 2) * noise
    np.testing.assert_allclose(drawn.tensors["sample"], want, rtol=1e-5, atol=1e-5)
    other = encode_windows(vae, frames, ids(2), contract, 8, 2)
    assert not np.allclose(drawn.tensors["sample"], other.tensors["sample"], atol=1e-2)


@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
def test_micro_batches_change_nothing(vae, statistic):
    frames = random_frames(5)
    contract = make_contract(dtype="float32", statistic=statistic)
    one, four = (encode_windows(vae, frames, ids(5), contract, 3, size) for size in (1, 4))
    for name in contract.tensors:
        np.testing.assert_allclose(one.tensors[name], four.tensors[name], rtol=0, atol=1e-5)


@settings(max_examples=30)
@given(count=st.integers(1, 9), size=st.integers(1, 12))
def test_every_window_is_encoded_once_in_order(count, size):
    model = FakeVAE([float(n) for n in range(count)])
    encoded = encode_windows(model, numbered_frames(count), ids(count), MOMENTS, 0, size)
    assert encoded.tensors["mean"][:, -1, -1, -1, -1].tolist() == list(range(count))
    assert sum(model.calls) == count
    assert max(model.calls) <= size


# ---- memory


@settings(max_examples=50)
@given(
    count=st.integers(1, 20),
    memory=st.integers(31, 1000),
    asked=st.one_of(st.none(), st.integers(1, 12)),
)
def test_nothing_is_lost_where_memory_runs_out(count, memory, asked):
    model = FakeVAE([float(n) for n in range(count)], memory=memory)
    encoder = WindowEncoder(model, MOMENTS, 0, asked)
    shape = (17, 32, 32)
    for _ in range(2):
        model.calls.clear()
        encoded = encoder(numbered_frames(count), ids(count))
        assert encoded.tensors["mean"][:, -1, -1, -1, -1].tolist() == list(range(count))
        assert sum(model.calls) == count
    held, calls = (encoder.room.budget(shape), encoder.room.windows(shape)), len(model.calls)
    model.tried.clear()
    encoder(numbered_frames(count), ids(count))
    assert len(model.tried) == calls  # what held is remembered: nothing runs out again
    assert (encoder.room.budget(shape), encoder.room.windows(shape)) == held


@pytest.mark.parametrize("asked", [None, 12])
@pytest.mark.parametrize(
    ("memory", "tried"),
    [
        (6 + 54 * 6, [(12, 8), (6, 8), (6, 8)]),
        (6 + 54 * 2, [(12, 8), (6, 8), (3, 8), (1, 8)]),
        (60, [(12, 8), (6, 8), (3, 8), (1, 8)]),
        (59, [(12, 8), (6, 8), (3, 8), (1, 8), (1, 4)]),
        (44, [(12, 8), (6, 8), (3, 8), (1, 8), (1, 4), (1, 2)]),
        (34, [(12, 8), (6, 8), (3, 8), (1, 8), (1, 4), (1, 2), (1, 1)]),
    ],
)
def test_half_of_what_was_tried_comes_next_then_the_next_finer_slices(memory, tried, asked):
    """Whatever the budget says: it is far beyond the memory."""
    model = FakeVAE([float(n) for n in range(12)], memory=memory)
    WindowEncoder(model, MOMENTS, 0, asked)(numbered_frames(12), ids(12))
    assert model.tried[: len(tried)] == tried
    assert set(model.tried[len(tried) :]) <= {tried[-1]}  # what held is not left again


def test_a_budget_of_a_few_windows_is_halved_from_what_went_at_once():
    """A call of more windows is split by the VAE; these did not all go at once."""
    model = FakeVAE([float(n) for n in range(12)], memory=6 + 54 * 2)
    encoder = WindowEncoder(model, MOMENTS, 0, 12)
    encoder.room._whole = 6 + 54 * 4
    encoder(numbered_frames(12), ids(12))
    assert model.tried == [(4, 8)] + [(2, 8)] * 6


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("cuDNN: ALLOC_FAILED")])
def test_every_kind_of_a_lack_of_memory_is_met(error):
    model = FakeVAE([0.0, 1.0], memory=60)
    model.error = error
    encoded = WindowEncoder(model, MOMENTS, 0, 2)(numbered_frames(2), ids(2))
    assert encoded.tensors["mean"][:, -1, -1, -1, -1].tolist() == [0, 1]
    assert model.tried == [(2, 8), (1, 8), (1, 8)]


def test_an_image_has_no_finer_slices():
    encoder = WindowEncoder(FakeVAE([0.0], memory=59), MOMENTS, 0)
    with pytest.raises(UserError, match="one window of 1 frames of 32x32"):
        encoder(numbered_frames(1)[:, :1], ids(1))


def test_a_window_that_never_fits_is_told_with_remedies():
    encoder = WindowEncoder(FakeVAE([0.0], memory=0), MOMENTS, 0)
    with pytest.raises(UserError, match=r"window of 17 frames of 32x32.*smaller bucket"):
        encoder(numbered_frames(1), ids(1))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    class Broken(FakeVAE):
        def posterior(self, x, memory_budget):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        WindowEncoder(Broken([0.0]), MOMENTS, 0)(numbered_frames(1), ids(1))


def test_the_cpus_own_error_is_known_as_a_lack_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_windows_of_a_call_follow_from_pixels_and_memory(vae):
    room = Room(vae, None)
    assert room.windows((1, 32, 32)) > room.windows((17, 32, 32)) > 1
    assert room.windows((17, 544, 992)) == 1
    assert Room(vae, 3).windows((17, 32, 32)) == 3


@pytest.mark.parametrize(
    ("gpus", "share", "held"), [(0.25, 0.25, [0.25]), (1, 1.0, []), (2, 1.0, [])]
)
def test_encoders_that_share_a_gpu_keep_to_their_part(gpus, share, held, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: asked.append(a))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (90, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10)
    monkeypatch.setattr(FakeVAE, "device", torch.device("cuda:1"))
    run = make_config(run__runner="ray", run__gpus_per_encoder=gpus).run
    room = Room(FakeVAE([0.0]), None, run.device_share)
    assert room.budget((17, 32, 32)) == int(DEVICE_SHARE * (100 * share - 10))
    assert asked == [(part, FakeVAE.device) for part in held]


def test_the_share_of_the_configuration_reaches_the_encoder(monkeypatch):
    made = []
    monkeypatch.setattr("pipeline.encode.Room", lambda *arguments: made.append(arguments))
    config = make_config(run__gpus_per_encoder=0.5, run__micro_batch=3)
    Encoder(config, make_recipe(config))
    [(_, micro_batch, share)] = made
    assert (micro_batch, share) == (3, 0.5)
    assert make_config().run.device_share == 1


# ---- noise


def test_noise_follows_from_seed_and_sample_alone():
    state = torch.get_rng_state()
    one = window_noise(3, "a", (3, 2, 4, 4))
    torch.rand(5)
    assert torch.equal(one, window_noise(3, "a", (3, 2, 4, 4)))
    torch.set_rng_state(state)
    window_noise(3, "a", (3, 2, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    for seed, name in ((4, "a"), (3, "b"), (-3, "a")):
        assert not torch.equal(one, window_noise(seed, name, (3, 2, 4, 4)))


def test_noise_is_the_documented_one():
    digest = hashlib.sha256(b"5:abc").digest()
    start = int.from_bytes(digest[:8], "little") & (2**63 - 1)
    want = torch.randn((1, 2, 2, 2), generator=torch.Generator().manual_seed(start))
    assert torch.equal(window_noise(5, "abc", (1, 2, 2, 2)), want)


def test_noise_is_standard_normal():
    noise = torch.stack([window_noise(0, str(n), (3, 8, 4, 4)) for n in range(200)])
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02


# ---- stored numbers


def test_float16_is_the_nearest_to_the_posterior(vae):
    frames = random_frames(2)
    wide = encode_windows(vae, frames, ids(2), MOMENTS, 0, 2).tensors
    narrow = encode_windows(vae, frames, ids(2), make_contract(), 0, 2).tensors
    for name, tensor in narrow.items():
        assert tensor.dtype == np.float16
        np.testing.assert_array_equal(tensor, wide[name].astype(np.float16))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("statistic", ["moments", "mean", "sample"])
def test_numbers_that_are_none_are_told(value, dtype, statistic):
    contract = make_contract(dtype=dtype, statistic=statistic)
    model = FakeVAE([0.0, value, 1.0, 2.0])
    encoded = encode_windows(model, numbered_frames(4), ids(4), contract, 0, 3)
    assert encoded.bad == {1: Reason.NOT_FINITE}


def test_logvar_is_looked_at_too():
    model = FakeVAE([0.0, 0.0], [0.0, float("nan")])
    encoded = encode_windows(model, numbered_frames(2), ids(2), MOMENTS, 0, 1)
    assert encoded.bad == {1: Reason.NOT_FINITE}


@pytest.mark.parametrize(
    ("value", "fits"), [(65504.0, True), (-65504.0, True), (65535.0, False), (-1e30, False)]
)
def test_numbers_beyond_float16(value, fits):
    model = FakeVAE([0.0, value])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an overflow is told once, by the row's reason
        narrow = encode_windows(model, numbered_frames(2), ids(2), make_contract(), 0, 2)
    assert narrow.bad == ({} if fits else {1: Reason.OVERFLOW})
    wide = encode_windows(model, numbered_frames(2), ids(2), MOMENTS, 0, 2)
    assert wide.bad == {}
    assert wide.tensors["mean"][1, -1, -1, -1, -1] == np.float32(value)


# ---- the stage


@pytest.fixture(scope="module")
def encoder():
    config = make_config(vae=copy.deepcopy(NARROW))
    return Encoder(config, make_recipe(config, dtype="float32"))


def pack(*segments, events=(), frames=None):
    meta = PackMeta("p", segments, events)
    if frames is None:
        frames = numbered_frames(sum(segment.windows for segment in segments))
    return to_batch(meta, {FRAMES: frames})


def encode(encoder, batch):
    [(meta, tensors)] = rows(encoder(batch))
    return meta, tensors


def test_a_pack_of_frames_becomes_a_pack_of_latents(encoder):
    event = Event("end", "t", "t-g", 2, 40, None)
    frames = random_frames(3)
    segments = make_segment(windows=2), make_segment("t", windows=1)
    meta, tensors = encode(encoder, pack(*segments, events=(event,), frames=frames))
    assert [s.source_id for s in meta.segments] == ["s", "t"]
    assert meta.events == (event,)
    want = encoder.encode(frames, meta.sample_ids)
    for name in ("mean", "logvar"):
        np.testing.assert_array_equal(tensors[name], want.tensors[name])


def test_a_pack_of_events_alone_passes_through(encoder):
    event = Event("failed", "s", "s-g", reason="missing", message="gone")
    meta, tensors = encode(
        encoder, pack(events=(event,), frames=np.zeros((0, 1, 16, 16, 3), np.uint8))
    )
    assert meta.segments == ()
    assert meta.events == (event,)
    assert {name: len(tensor) for name, tensor in tensors.items()} == {"mean": 0, "logvar": 0}


@pytest.mark.parametrize(
    ("dtype", "value", "reason", "words"),
    [
        ("float16", float("nan"), "not_finite", "holds NaN or infinity"),
        ("float16", 1e6, "overflow", "set latents.dtype: float32"),
    ],
)
def test_only_the_segment_with_bad_numbers_is_refused(dtype, value, reason, words):
    config = make_config()
    recipe = make_recipe(config, dtype=dtype)
    model = FakeVAE([0.0, 1.0, 2.0, value, 4.0])
    chosen = Encoder(config, recipe, lambda *_: WindowEncoder(model, recipe.contract, 0, 2))
    first = make_segment("a", windows=2)
    bad = make_segment("b", 7, 2)
    last = make_segment("c", windows=1)
    meta, tensors = encode(chosen, pack(first, bad, last))
    assert meta.segments == (first, last)
    assert tensors["mean"][:, -1, -1, -1, -1].tolist() == [0, 1, 4]
    assert len(tensors["logvar"]) == 3
    [event] = meta.events
    assert (event.kind, event.source_id, event.generation) == ("failed", "b", "b-g")
    assert event.reason == reason
    assert "window 8 at 32x32" in event.message
    assert words in event.message


def test_nothing_is_left_of_a_pack_that_is_bad_altogether():
    recipe, model = make_recipe(), FakeVAE([float("nan")] * 2)
    chosen = Encoder(make_config(), recipe, lambda *_: WindowEncoder(model, recipe.contract, 0, 1))
    meta, tensors = encode(chosen, pack(make_segment("a", windows=1), make_segment("b", windows=1)))
    assert meta.segments == ()
    assert [event.source_id for event in meta.events] == ["a", "b"]
    assert tensors["mean"].shape == (0, 3, 2, 2, 2)


def test_buckets_that_are_not_square(encoder):
    frames = np.zeros((1, 17, 32, 64, 3), np.uint8)
    _, tensors = encode(encoder, pack(make_segment(windows=1, bucket=WIDE), frames=frames))
    assert tensors["mean"].shape == (1, 3, 2, 2, 4)
