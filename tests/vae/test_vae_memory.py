"""The memory plan against resident memory in processes of their own, and how it follows sizes."""

import platform
from functools import partial
from pathlib import Path

import pytest
import torch
from vae_cases import TINY
from vae_child import taken

from vae import AutoencoderKL, VAEConfig, memory
from vae.device import counting_for, on_cpu
from vae.heap import return_freed_blocks
from vae.memory import (
    CPU_BUDGET,
    CPU_SURPLUS,
    DEVICE_SHARE,
    MAX_ELEMENTS,
    MemoryPlan,
    decoding_cost,
    default_budget,
    encoding_cost,
    make_plan,
)
from vae.norms import CHUNK_BYTES

MIB = 2**20
WITHIN = 0.15
MIDDLE = {
    "z_channels": 16,
    "num_res_blocks": 1,
    "encoder_ch": 32,
    "encoder_ch_mult": (1, 2, 4, 4),
    "decoder_ch": 32,
    "decoder_ch_mult": (1, 2, 4, 4),
}
"""Narrow, but wide enough for activations to outweigh what a process takes anyway."""

measures = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="resident memory is told by Linux alone"
)
slow = pytest.mark.slow


def check_peak(config, part, size, dtype, slice_frames):
    batch, frames, height, width = size
    plan = make_plan(
        VAEConfig(**config), height, width, frames, getattr(torch, dtype), 1, part=part
    )
    expected = plan.options[slice_frames] - CPU_SURPLUS
    expected = CPU_SURPLUS + batch * expected  # weights matter little to these sizes
    peak = taken(
        kind="model", config=config, part=part, size=size, dtype=dtype, slice_frames=slice_frames
    )
    assert peak == pytest.approx(expected, rel=WITHIN)


@measures
@pytest.mark.parametrize(
    ("part", "size", "dtype", "slice_frames"),
    [
        pytest.param("encoder", (1, 17, 192, 256), "float32", 8, marks=slow),
        pytest.param("encoder", (1, 17, 192, 256), "float32", 1, marks=slow),
        ("encoder", (1, 17, 192, 256), "bfloat16", 4),
        ("decoder", (1, 17, 128, 128), "float32", 4),
        pytest.param("encoder", (1, 17, 192, 256), "float32", 4, marks=slow),
        pytest.param("encoder", (1, 17, 192, 256), "float32", 2, marks=slow),
        pytest.param("encoder", (3, 17, 192, 256), "float32", 2, marks=slow),
        pytest.param("encoder", (4, 1, 320, 512), "float32", 8, marks=slow),
        pytest.param("encoder", (1, 17, 288, 512), "bfloat16", 8, marks=slow),
        pytest.param("encoder", (1, 17, 288, 512), "bfloat16", 2, marks=slow),
        pytest.param("decoder", (1, 17, 192, 256), "float32", 8, marks=slow),
        pytest.param("decoder", (1, 17, 192, 256), "float32", 2, marks=slow),
        pytest.param("decoder", (1, 17, 192, 256), "float32", 1, marks=slow),
        pytest.param("decoder", (1, 17, 192, 256), "bfloat16", 4, marks=slow),
    ],
)
def test_plans_of_a_narrow_model_are_right(part, size, dtype, slice_frames):
    check_peak(MIDDLE, part, size, dtype, slice_frames)


@measures
@slow
@pytest.mark.parametrize(("part", "side"), [("encoder", 256), ("decoder", 128)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plans_of_version_1_are_right(part, side, dtype):
    check_peak({**MIDDLE, "version": 1}, part, (1, 17, side, side), dtype, 8)


@measures
@slow
@pytest.mark.parametrize("slice_frames", [8, 2, 1])
def test_plans_of_the_full_size_encoder_are_right(slice_frames):
    check_peak({}, "encoder", (1, 17, 256, 256), "float32", slice_frames)


@measures
@slow
@pytest.mark.parametrize(("dtype", "slice_frames"), [("float32", 1), ("bfloat16", 8)])
def test_plans_of_the_full_size_decoder_are_right(dtype, slice_frames):
    """At a size where the largest weight, and its copies, outweigh the activations."""
    check_peak({}, "decoder", (1, 17, 64, 64), dtype, slice_frames)


@slow
@measures
def test_the_peak_does_not_grow_with_the_clip():
    """At a size that outweighs what a process takes now and then anyway."""
    short, long = (
        taken(kind="model", config=MIDDLE, part="encoder", size=(1, frames, 256, 256), whole=True)
        for frames in (17, 51)
    )
    assert short > 70e6
    assert long < 1.1 * short


@slow
@measures
def test_the_default_plan_of_the_full_size_takes_less_than_half_of_the_reference():
    """2.4 GB there, above the resident memory before."""
    peak = taken(kind="model", config={}, part="encoder", size=(1, 17, 256, 256), whole=True)
    assert peak < 0.45 * 2.4e9


def test_budgets_by_default(monkeypatch):
    assert default_budget(torch.device("cpu")) == CPU_BUDGET == 768 * MIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * MIB, 100 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * MIB)
    assert default_budget(torch.device("cuda")) == int(DEVICE_SHARE * 80 * MIB)
    quarter = default_budget(torch.device("cuda"), 0.25)  # which holds the weights too
    assert quarter == int(DEVICE_SHARE * (25 - 10) * MIB)
    assert default_budget(torch.device("cuda"), 0.05) == 1
    model = AutoencoderKL.from_config(TINY)
    assert model.memory_plan(32, 32).budget == CPU_BUDGET
    assert model.memory_plan(32, 32, budget=5).budget == 5


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_plan_takes_the_largest_slices_that_fit_then_as_many_windows_as_do(device, part):
    def plan(budget):
        return make_plan(TINY, 96, 96, 17, torch.float32, budget, part=part, device=device)

    options = dict(plan(1).options)
    assert list(options) == [8, 4, 2, 1]
    assert list(options.values()) == sorted(options.values(), reverse=True)
    assert plan(1) == MemoryPlan(1, 1, 1, options)
    assert not plan(1).fits
    assert "more than the budget and the least there is" in str(plan(1))
    for size, peak in options.items():
        found = plan(peak)
        assert (found.slice_frames, found.batch, found.fits, found.peak_bytes) == (
            max(s for s, p in options.items() if p == options[size]),
            1,
            True,
            peak,
        )
    surplus = CPU_SURPLUS if device == "cpu" else 0
    each = options[8] - surplus
    for count in (2, 5):
        found = plan(surplus + count * each + 10_000_000 // count)
        assert found.slice_frames == 8
        assert count <= found.batch <= count + 10_000_000 // count // each + 1


def test_no_activation_exceeds_what_kernels_count_in():
    """The reference asserts at 7 windows of 256x256; a window of 2048x2048 is too much whole."""
    plan = make_plan(VAEConfig(), 256, 256, 17, torch.bfloat16, 10**13, device="cuda")
    largest = memory.counted(VAEConfig(), 17, torch.bfloat16, 8, "encoder", "cuda")
    assert plan.batch == MAX_ELEMENTS // (largest.largest_elements // 4)
    huge = make_plan(VAEConfig(), 2048, 2048, 17, torch.bfloat16, 10**13, device="cuda")
    assert (huge.slice_frames, huge.batch) == (1, 1)


@pytest.mark.parametrize("slice_frames", [8, 2])
@pytest.mark.parametrize(("height", "width"), [(544, 992), (320, 192), (1088, 1920)])
def test_peaks_of_other_sizes_follow_from_the_area(height, width, slice_frames):
    """But for the runs of frames that norms take on an accelerator, which no size makes larger."""
    run = CHUNK_BYTES if height * width < 512**2 else 0
    for part, count in (("encoder", encoding_cost), ("decoder", decoding_cost)):
        args = VAEConfig(), height, width, 17, torch.bfloat16
        plan = make_plan(*args, 1, part=part, device="cuda")
        direct = count(*args, slice_frames).peak_bytes
        assert plan.options[slice_frames] == pytest.approx(direct, rel=0.02, abs=run)


def test_the_cpus_way_is_counted_where_it_is_asked_for():
    """Halves are widened there, and norms take no copy."""
    model = VAEConfig(**MIDDLE)
    by_kind = [memory.counted(model, 17, torch.bfloat16, 8, "encoder", k) for k in ("cpu", "cuda")]
    assert by_kind[0].peak_bytes > 1.5 * by_kind[1].peak_bytes
    x = torch.empty(1, 128, 4, 8, 8, device="meta")
    assert not on_cpu(x)
    with counting_for("cpu"):
        assert on_cpu(x)
    assert not on_cpu(x)
    assert on_cpu(torch.empty(0))


@pytest.fixture(scope="module")
def model():
    return AutoencoderKL.from_config(TINY, device="meta")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"height": 40}, "height=40 must be a positive multiple of 16"),
        ({"height": 0}, "height=0 must be"),
        ({"width": -16}, "width=-16 must be"),
        ({"width": 32.0}, "width=32.0 must be"),
        ({"frames": 0}, "frames=0: a window has 1, 9 or 17 frames"),
        ({"frames": 5}, "frames=5"),
        ({"frames": 17.0}, "frames=17.0"),
    ],
)
def test_sizes_that_are_no_windows_are_told(model, changed, words):
    given = {"height": 32, "width": 32, "frames": 17} | changed
    for function in (model.memory_plan, model.cost, partial(decoding_cost, TINY)):
        with pytest.raises(ValueError, match=words):
            function(**given)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"budget": 0}, "budget=0 must be a whole number of bytes of 1 or more"),
        ({"budget": -1}, "budget=-1"),
        ({"budget": 3e9}, "budget=3000000000.0"),
        ({"budget": True}, "budget=True"),
        ({"dtype": "bfloat16"}, "dtype='bfloat16' must be a floating point one"),
        ({"dtype": torch.int8}, "dtype=torch.int8"),
        ({"part": "head"}, "part='head' is unknown"),
    ],
)
def test_other_arguments_of_a_plan_are_told(model, changed, words):
    with pytest.raises(ValueError, match=words):
        model.memory_plan(32, 32, **changed)


def test_a_budget_of_nothing_is_told_where_windows_are_encoded_and_decoded():
    tiny = AutoencoderKL.from_config(TINY)
    with pytest.raises(ValueError, match="budget=0"):
        tiny.posterior(torch.zeros(1, 1, 3, 16, 16), memory_budget=0)
    with pytest.raises(ValueError, match="budget=-5"):
        tiny.decode(torch.zeros(1, 1, 2, 1, 1), memory_budget=-5)


@pytest.mark.parametrize("frames", [33, 34, 51])
def test_a_clip_is_planned_as_its_windows_but_its_cost_is_not_theirs(model, frames):
    assert model.memory_plan(32, 32, frames) == model.memory_plan(32, 32, 17)
    with pytest.raises(ValueError, match=f"frames={frames}: a window has"):
        model.cost(32, 32, frames)


def test_the_c_library_is_left_alone_where_the_environment_sets_its_threshold(monkeypatch):
    given = return_freed_blocks.__wrapped__
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    elsewhere = given()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0:glibc.malloc.mmap_threshold=4096")
    assert given() is False
    monkeypatch.delenv("GLIBC_TUNABLES")
    assert given() == elsewhere == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4096")
    assert given() is False
