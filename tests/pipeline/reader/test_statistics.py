"""Statistics of latents, against numpy, and normalisation by them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import LatentDataset
from pipeline.contract import ContractError
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.reader.draw import Normalization
from pipeline.reader.measure import measure
from pipeline.reader.spread import Spread
from pipeline.reader.statistics import Statistics
from tests.pipeline.helpers import LOCAL, WIDE, make_contract, make_segment
from tests.pipeline.maintain import builder
from tests.pipeline.maintain.builder import Builder

pytestmark = pytest.mark.filterwarnings("ignore:.*has no index:UserWarning")


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    centre=st.sampled_from([0.0, 1.0, 1e4, -3e6]),
    width=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_parts_add_up_to_the_whole(seed, sizes, centre, width):
    """However the numbers are divided: also where they are large and hardly differ."""
    rng = np.random.default_rng(seed)
    parts = [centre + width * rng.normal(size=(3, n)) for n in sizes]
    whole = np.concatenate(parts, axis=1)
    found = Spread.of(parts[0])
    for part in parts[1:]:
        found = found + Spread.of(part)
    assert found.count == whole.shape[1]
    np.testing.assert_array_equal(found.low, whole.min(axis=1))
    np.testing.assert_array_equal(found.high, whole.max(axis=1))
    np.testing.assert_allclose(found.mean, whole.mean(axis=1), rtol=1e-13, atol=1e-13 * width)
    wanted = (whole - centre).var(axis=1)
    noise = (np.finfo(float).eps * max(abs(centre), width)) ** 2
    np.testing.assert_allclose(
        found.variance, wanted, rtol=1e-6 if abs(centre) > 1e5 else 1e-9, atol=100 * noise
    )


def build(folder: Path, form: str = "safetensors") -> Builder:
    cache = Builder(folder / "cache", form)
    cache.encode(
        {(stable_hash(n), 1): w for n, w in zip("abcdef", (3, 5, 1, 4, 2, 7), strict=True)}
    )
    cache.encode(
        {(stable_hash(n), 1): w for n, w in zip("gh", (9, 2), strict=True)}, buckets=(WIDE,)
    )
    cache.encode({(stable_hash("image"), 1): 1}, frames=1)
    cache.publish()
    return cache


def stored(cache: Builder) -> dict[str, np.ndarray]:
    """All numbers of a cache by tensor, ``(channels, n)``, by the other reader."""
    opened = cache.open()
    samples = [opened.read(i) for i in opened.samples()["sample_id"].to_pylist()]
    return {
        name: np.concatenate(
            [np.moveaxis(s[name].double().numpy(), 1, 0).reshape(2, -1) for s in samples], axis=1
        )
        for name in ("mean", "logvar")
    }


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_against_numpy(tmp_path, form):
    cache = build(tmp_path, form)
    found = measure(cache.uri, local_dir=tmp_path / "local")
    numbers = stored(cache)
    mean, logvar = numbers["mean"], numbers["logvar"]
    assert (found.windows, found.of, found.count) == (34, 34, mean.shape[1])
    assert found.contract_id == cache.open().contract.contract_id
    told = {n: {k: np.array(v) for k, v in rows.items()} for n, rows in found.latents.items()}
    np.testing.assert_allclose(told["mean"]["mean"], mean.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(told["mean"]["std"], mean.std(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(told["mean"]["min"], mean.min(axis=1))
    np.testing.assert_array_equal(told["mean"]["max"], mean.max(axis=1))
    total = np.sqrt(mean.var(axis=1) + np.exp(logvar).mean(axis=1))
    np.testing.assert_allclose(told["sample"]["mean"], mean.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(told["sample"]["std"], total, rtol=1e-12)


def test_workers_and_a_part(tmp_path):
    cache = build(tmp_path)
    alone = measure(cache.uri, local_dir=tmp_path / "local")
    assert measure(cache.uri, local_dir=tmp_path / "local", workers=2) == alone
    seen = []
    part = measure(
        cache.uri,
        local_dir=tmp_path / "local",
        windows=10,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert 10 <= part.windows < 18
    assert part.of == 34
    assert part.count < alone.count
    assert seen[-1] == (part.windows, 10)


def test_repeated_frames_are_left_out(tmp_path, monkeypatch):
    """Of the last window 3 frames are real: its first latent is, the two behind it are not."""

    def padded(source, first, windows, bucket, frames):
        real = [frames] * (windows - 1) + [3 if first + windows == 3 else frames]
        return make_segment(source, first, windows, bucket, frames, valid_frames=real)

    monkeypatch.setattr(builder, "make_segment", padded)
    cache = Builder(tmp_path / "cache")
    cache.encode([(stable_hash("a"), 1)])
    cache.publish()
    found = measure(cache.uri, local_dir=tmp_path / "local")
    opened = cache.open()
    windows = [opened.read(i)["mean"].double() for i in opened.samples()["sample_id"].to_pylist()]
    real = torch.cat([*windows[:2], windows[2][:1]])
    assert found.windows == 3
    assert found.count == real.numel() // 2
    np.testing.assert_allclose(found.latents["mean"]["mean"], real.mean(dim=(0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("statistic", ["mean", "sample"])
def test_normalised_by_a_file(tmp_path, statistic):
    """Every channel gets mean 0 and standard deviation 1, and it can be undone."""
    cache = build(tmp_path)
    path = tmp_path / "stats.json"
    measure(cache.uri, local_dir=tmp_path / "local").write(str(path), LOCAL)
    options = {
        "local_dir": tmp_path / "local",
        "clip_frames": (1, 17),
        "batch_size": 4,
        "statistic": statistic,
        "dtype": torch.float32,
    }
    plain = LatentDataset(cache.uri, **options)
    scaled = LatentDataset(cache.uri, normalize=path, **options)
    numbers = []
    for left, right in zip(plain, scaled, strict=True):
        numbers.append(right["latents"].movedim(2, 0).reshape(2, -1))
        undone = scaled.normalization.undo(right["latents"])
        torch.testing.assert_close(undone, left["latents"], rtol=1e-5, atol=1e-5)
    whole = torch.cat(numbers, dim=1)
    drawn = 0.0 if statistic == "mean" else 5 / whole.shape[1] ** 0.5
    assert whole.mean(dim=1).abs().max() < 1e-5 + drawn
    assert (whole.std(dim=1, correction=0) - 1).abs().max() < 1e-5 + 2 * drawn
    one = LatentDataset(cache.uri, normalize=str(path), **options).map_style()[0]
    assert any(
        torch.equal(one["latents"], x)
        for b in scaled
        for x in b["latents"]
        if x.shape == one["latents"].shape
    )


def test_never_twice():
    """A cache that stores normalised latents is refused, by file and by numbers."""
    contract = make_contract(scale=0.5)
    with pytest.raises(ContractError, match=r"normalised already \(scale 0.5, shift 0.0\)"):
        Normalization(2.0).check(contract)
    numbers = {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
    found = Statistics("/cache", 1, contract.contract_id, 1, 1, 12, {"mean": numbers})
    with pytest.raises(ContractError, match="normalised already"):
        found.normalization("mean", contract).check(contract)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"scale": 0.0}, "normalize.scale 0.0"),
        ({"scale": [1.0, float("nan")]}, "normalize.scale nan"),
        ({"shift": float("inf")}, "normalize.shift inf"),
    ],
)
def test_numbers_that_cannot_be_undone(given, told):
    with pytest.raises(UserError, match=told):
        Normalization(**given).check(make_contract())


def test_files_that_do_not_fit(tmp_path):
    contract = make_contract()
    numbers = {"mean": [0.0, 0.0], "std": [1.0, 0.0]}
    found = Statistics("/cache", 3, contract.contract_id, 1, 1, 12, {"mean": numbers})
    with pytest.raises(UserError, match="channel 1 never varies"):
        found.normalization("mean", contract)
    with pytest.raises(UserError, match="tell of mean, and not of 'sample'"):
        found.normalization("sample", contract)
    with pytest.raises(ContractError, match="snapshot 3, are of latents under another contract"):
        found.normalization("mean", make_contract(encoder_sha256="cd" * 32))
    path = tmp_path / "stats.json"
    for text in ("", "[]", "{}", json.dumps({**json.loads(found.to_json()), "format_version": 2})):
        path.write_text(text)
        with pytest.raises(UserError, match=r"stats.json: these are no statistics.*stats"):
            Statistics.read(str(path), LOCAL)
    found.write(str(path), LOCAL)
    assert Statistics.read(str(path), LOCAL) == found
    with pytest.raises(UserError, match=r"missing.json cannot be read"):
        Statistics.read(str(tmp_path / "missing.json"), LOCAL)
