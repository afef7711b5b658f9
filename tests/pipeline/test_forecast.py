import json

import pytest
import torch
from helpers import EPOCH, SMALL, TALL, WIDE, make_config, make_contract, make_manifest
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import UserError
from pipeline.forecast import (
    ASSUMED_TFLOPS,
    Forecast,
    Rate,
    encoder_rate,
    make_forecast,
    packs_per_shard,
    window_flop,
    window_seconds,
)
from pipeline.weights import load_vae

CONFIG = make_config()


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path)


def test_flops_are_those_of_the_model():
    vae = load_vae(CONFIG.vae, CONFIG.storage).to("meta")  # torch does not count oneDNN's operators
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae.posterior(torch.zeros(1, 17, 3, 32, 32, device="meta"))
    counted = window_flop(CONFIG, [SMALL])
    assert counted == {SMALL: pytest.approx(counter.get_total_flops(), rel=0.01)}


def test_a_larger_window_takes_more():
    flop = window_flop(CONFIG, [SMALL, WIDE, TALL])
    assert flop[WIDE] == flop[TALL]
    assert 1.9 * flop[SMALL] < flop[WIDE] < 2.5 * flop[SMALL]
    assert window_flop(CONFIG, []) == {}


def test_the_forecast_adds_up(manifest):
    config = make_config(forecast__tflops_per_encoder=2, run__encoders=4)
    counts = {SMALL: 10, WIDE: 5}
    found = make_forecast(config, make_contract(), manifest, counts)
    flop = window_flop(config, [SMALL, WIDE])
    assert found.windows == 15
    assert found.flop == 10 * flop[SMALL] + 5 * flop[WIDE]
    assert found.seconds == pytest.approx(found.flop / 2e12 / 4)
    # 3 latent frames, 2 channels, 2x2 or 2x4 places, 2 bytes each
    mean = (10 * 3 * 2 * 4 + 5 * 3 * 2 * 8) * 2
    assert found.bytes == {"moments": 2 * mean, "mean": mean, "sample": mean}
    wide = make_forecast(config, make_contract(dtype="float32"), manifest, counts)
    assert wide.bytes["mean"] == 2 * mean


def test_nothing_to_do_takes_no_time(manifest):
    found = make_forecast(CONFIG, make_contract(), manifest, {})
    assert (found.windows, found.flop, found.seconds) == (0, 0, 0)
    assert set(found.bytes.values()) == {0}


# ---- rates


def run_row(run, hour, state="finished", flops=1e12):
    report = "" if state == "started" else json.dumps({"encoder_flops": flops})
    return {"run_id": run, "state": state, "at": EPOCH.replace(hour=hour), "report": report}


def test_the_rate_of_the_newest_finished_run(manifest):
    manifest.append(
        "runs",
        [
            run_row("new", 9, flops=3e12),
            run_row("old", 8),
            run_row("idle", 10, flops=None),
            run_row("stopped", 11, state="stopped", flops=9e12),
            run_row("now", 12, state="started"),
        ],
    )
    assert encoder_rate(CONFIG, manifest) == Rate.achieved(3e12, "new")


def test_only_the_newest_files_are_read(manifest, tmp_path):
    for hour in range(12):
        run = f"r{hour}"
        manifest.append("runs", [run_row(run, hour, state="started")])
        manifest.append("runs", [run_row(run, hour, flops=1e12 + hour if hour < 10 else None)])
    files = sorted((tmp_path / "runs").glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    newest = 6  # r11 and r10 found no rate, r9 did; two files each
    for path in files[:-newest]:
        path.unlink()
    assert encoder_rate(CONFIG, manifest) == Rate.achieved(1e12 + 9, "r9")
    files[-newest].unlink()
    with pytest.raises(UserError, match=files[-newest].name):
        encoder_rate(CONFIG, manifest)


def test_a_run_that_encoded_nothing_hands_the_rate_on(manifest):
    row = run_row("idle", 2)
    row["report"] = json.dumps({"encoder_flops": 5e12, "encoder_flops_run": "busy"})
    manifest.append("runs", [run_row("busy", 1, flops=5e12), row])
    assert encoder_rate(CONFIG, manifest) == Rate.achieved(5e12, "busy")


def test_a_configured_rate_wins(manifest):
    manifest.append("runs", [run_row("r", 1)])
    rate = encoder_rate(make_config(forecast__tflops_per_encoder=0.5), manifest)
    assert rate == Rate(5e11, "forecast.tflops_per_encoder")


def test_assumed_rates_say_so(manifest):
    cpu = encoder_rate(make_config(run__encoder_threads=4), manifest)
    assert cpu == Rate(ASSUMED_TFLOPS["cpu"] * 4e12, "assumed for 4 CPU thread(s)")
    gpu = encoder_rate(make_config(run__gpus_per_encoder=0.5), manifest)
    assert gpu.flops == ASSUMED_TFLOPS["cuda"] * 0.5e12
    assert "GPU" in gpu.origin


# ---- shards


def forecast(windows, seconds, stored):
    return Forecast(windows, {"moments": stored}, 1.0, seconds, Rate(1.0, ""))


def test_packs_fill_a_shard():
    contract, found = make_contract(), forecast(1000, 1.0, 10**9)
    for shard_bytes, packs in ((10**8, 20), (10**7, 2), (10**9, 200), (10**4, 1)):
        chosen = make_config(output__shard_bytes=shard_bytes, run__shard_seconds=10**6)
        assert packs_per_shard(chosen, contract, found, 200) == packs


def test_a_slow_encoder_writes_smaller_shards():
    contract = make_contract()
    slow = make_config(output__shard_bytes=10**9, run__shard_seconds=100)
    hundred = forecast(1000, seconds=2000.0, stored=10**9)  # 20 s a pack
    assert packs_per_shard(slow, contract, hundred, 100) == 5
    assert packs_per_shard(slow, contract, forecast(1000, 10**9, 10**9), 100) == 1
    assert packs_per_shard(slow, contract, forecast(0, 0.0, 0), 0) == 1


def test_what_a_window_takes_follows_from_the_rate(manifest):
    config = make_config(forecast__tflops_per_encoder=2)
    flop = window_flop(config, [SMALL, WIDE])
    found = window_seconds(config, manifest, [WIDE, SMALL, WIDE])
    assert found == {bucket: pytest.approx(flop[bucket] / 2e12) for bucket in flop}
    assert window_seconds(config, manifest, []) == {}
