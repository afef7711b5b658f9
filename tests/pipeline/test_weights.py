"""The configured VAE: told by its checkpoint, read by range, kept on the node, promised by hash."""

import multiprocessing
from pathlib import Path

import fsspec
import pytest
import torch
from helpers import LOCAL, NARROW, make_config
from safetensors.torch import load_file, save_file

from pipeline import weights
from pipeline.config import VAESection, WidthsConfig
from pipeline.errors import UserError
from pipeline.weights import (
    encoder_file,
    load_encoder,
    load_vae,
    make_contract,
    resolve_vae,
    vae_config,
    weights_sha256,
)
from tests.faults import Rule, fault_proxy
from vae import VAEConfig, encoder_sha256, seeded_state_dict

MODELS = {
    version: VAEConfig(
        version=version,
        z_channels=2,
        num_res_blocks=1,
        encoder_ch=8,
        encoder_ch_mult=(1, 2, 1, 1),
        decoder_ch=16,
        decoder_ch_mult=(1, 2, 1, 1),
        norm_groups=4,
    )
    for version in (1, 2)
}


@pytest.fixture(autouse=True)
def downloads(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(weights, "DOWNLOADS", tmp_path / "downloads")
    return tmp_path / "downloads"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[int, str]:
    """Narrow checkpoints by version."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for version, model in MODELS.items():
        save_file(seeded_state_dict(model, 1), folder / f"v{version}.safetensors")
    return {version: str(folder / f"v{version}.safetensors") for version in MODELS}


def section(checkpoint: str, **fields) -> VAESection:
    return VAESection(
        **{"checkpoint": checkpoint, "device": "cpu", "widths": {"norm_groups": 4}, **fields}
    )


@pytest.mark.parametrize("version", MODELS)
def test_the_checkpoint_tells_the_model(checkpoints, version):
    found = resolve_vae(section(checkpoints[version]), LOCAL)
    assert (found.version, found.z_channels) == (version, 2)
    assert vae_config(found) == MODELS[version]
    assert resolve_vae(found, LOCAL) == found
    given = found.widths.model_dump()
    assert resolve_vae(section(checkpoints[version], widths=given), LOCAL) == found


def test_random_weights_are_of_the_published_model_unless_told():
    auto = resolve_vae(VAESection(random_seed=0), LOCAL)
    assert (auto.version, auto.z_channels) == (2, 64)
    assert vae_config(auto) == VAEConfig()
    first = resolve_vae(VAESection(random_seed=0, version=1), LOCAL)
    assert vae_config(first) == VAEConfig(version=1, z_channels=16)
    narrow = resolve_vae(VAESection(**NARROW), LOCAL)
    assert narrow.z_channels == 2
    assert narrow.widths == WidthsConfig(**NARROW["widths"])


def test_an_open_model_is_not_guessed(checkpoints):
    with pytest.raises(ValueError, match="resolve_vae reads them"):
        vae_config(section(checkpoints[2]))


@pytest.mark.parametrize(
    ("stored", "fields", "remedy"),
    [
        (1, {"version": 2}, "vae.version is 2, but .* version 1 with 2 .* set vae.version: 1, or"),
        (2, {"version": 1}, "vae.version is 1, but .* version 2 with 2 .* set vae.version: 2, or"),
        (1, {"z_channels": 16}, "z_channels is 16, but .* version 1 .* set vae.z_channels: 2, or"),
        (2, {"z_channels": 64}, "z_channels is 64, but .* version 2 .* set vae.z_channels: 2, or"),
        (2, {"widths": {"norm_groups": 4, "encoder_ch": 16}}, "misshapen: encoder"),
        (2, {"widths": {"norm_groups": 4, "num_res_blocks": 2}}, "missing: encoder"),
        (2, {"widths": {}}, "32 groups in its norms"),
    ],
)
def test_what_contradicts_the_checkpoint_is_put_right(checkpoints, stored, fields, remedy):
    with pytest.raises(UserError, match=remedy) as caught:
        resolve_vae(section(checkpoints[stored], **fields), LOCAL)
    assert checkpoints[stored] in str(caught.value)


def test_all_numbers_given_are_checked_too(checkpoints):
    right = resolve_vae(section(checkpoints[1]), LOCAL)
    wrong = right.model_copy(update={"version": 2})
    for load in (load_encoder, load_vae):
        with pytest.raises(UserError, match="version 1 file"):
            load(wrong, LOCAL)


@pytest.mark.parametrize("version", MODELS)
def test_the_contract_is_of_the_checkpoint(checkpoints, version):
    config = make_config(vae={"checkpoint": checkpoints[version], "widths": {"norm_groups": 4}})
    contract = make_contract(config)
    assert contract.vae_version == version
    assert contract.z_channels == 2
    assert contract.latent_frames == {1: 5, 2: 3}[version]
    assert contract.encoder_sha256 == encoder_sha256(load_file(checkpoints[version]))
    resolved = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    assert make_contract(resolved) == contract


def test_the_contract_of_random_weights_is_that_of_their_encoder():
    config = make_config()
    assert make_contract(config).encoder_sha256 == encoder_sha256(
        load_vae(config.vae, config.storage).state_dict()
    )
    first = make_contract(make_config(vae={**NARROW, "version": 1}))
    assert (first.vae_version, first.z_channels, first.latent_frames) == (1, 2, 5)


@pytest.mark.parametrize("seeded", [False, True])
def test_the_encoder_is_that_of_the_whole_model(checkpoints, seeded):
    given = VAESection(**NARROW) if seeded else section(checkpoints[2])
    whole, encoder = load_vae(given, LOCAL), load_encoder(given, LOCAL)
    assert not hasattr(encoder, "decoder")
    state = whole.state_dict()
    assert len(state) > len(encoder.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_weights_other_than_promised_are_refused(checkpoints):
    given = section(checkpoints[2], compute_dtype="float16")
    promised = weights_sha256(given, LOCAL)
    assert load_encoder(given, LOCAL, promised).dtype == torch.float16
    with pytest.raises(UserError, match=f"SHA-256 {promised}, the contract {'0' * 64}"):
        load_encoder(given, LOCAL, "0" * 64)


@pytest.mark.parametrize("content", [None, b"", b"a pickle", b"\x02\0\0\0\0\0\0\0{}"])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_unusable_checkpoints_are_named(tmp_path, content, where):
    uri = str(tmp_path / "w.safetensors") if where == "local" else "memory://weights/w.safetensors"
    filesystem, path = fsspec.url_to_fs(uri)
    if filesystem.exists(path):
        filesystem.rm_file(path)
    if content is not None:
        filesystem.pipe_file(path, content)
    for use in (resolve_vae, load_encoder, load_vae):
        with pytest.raises(UserError, match=r"w\.safetensors"):
            use(section(uri), LOCAL)


def test_a_local_checkpoint_is_used_where_it_lies(checkpoints, downloads):
    assert encoder_file(checkpoints[2], LOCAL) == Path(checkpoints[2])
    assert not downloads.exists()


def test_a_folder_that_cannot_be_written_is_named(checkpoints, downloads):
    uri = "memory://weights/w.safetensors"
    fsspec.filesystem("memory").pipe_file(uri, Path(checkpoints[2]).read_bytes())
    downloads.write_bytes(b"in the way")
    with pytest.raises(UserError, match=r"cannot be kept in .*downloads.*set TMPDIR"):
        encoder_file(uri, LOCAL)


# ---- on S3


@pytest.fixture
def stored(s3, s3_prefix, tmp_path):
    """A checkpoint on S3 whose decoder is most of it: its URI and its tensors."""
    model = VAEConfig(
        z_channels=2,
        num_res_blocks=1,
        encoder_ch=64,
        encoder_ch_mult=(1, 1, 1, 1),
        decoder_ch=128,
        decoder_ch_mult=(1, 1, 1, 1),
        norm_groups=4,
    )
    tensors = seeded_state_dict(model, 1)
    save_file(tensors, tmp_path / "w.safetensors")
    s3.filesystem().put_file(str(tmp_path / "w.safetensors"), f"{s3_prefix}/w.safetensors")
    return f"s3://{s3_prefix}/w.safetensors", tensors


def _bytes(tensors: dict[str, torch.Tensor], prefix: str = "") -> int:
    return sum(value.nbytes for key, value in tensors.items() if key.startswith(prefix))


def test_only_the_header_and_the_encoder_travel_and_once_a_node(s3, stored):
    uri, tensors = stored
    encoder, whole = _bytes(tensors, "encoder."), _bytes(tensors)
    assert 4 * 2**20 < encoder < whole / 2
    with fault_proxy(s3) as proxy:
        resolved = resolve_vae(section(uri), proxy.storage)
        assert sum(r.sent for r in proxy.of("w.safetensors", "GET")) < 100_000
        proxy.clear()
        sha256 = weights_sha256(resolved, proxy.storage)
        gets = proxy.of("w.safetensors", "GET")
        assert encoder <= sum(r.sent for r in gets) < encoder + 100_000
        assert len(gets) <= 3 + encoder // (16 * 2**20)
        assert all(r.if_match is not None for r in gets)
        proxy.clear()
        vae = load_encoder(resolved, proxy.storage, sha256)
        assert weights_sha256(resolved, proxy.storage) == sha256
        assert proxy.of("w.safetensors", "GET") == []
    assert sha256 == encoder_sha256(tensors)
    assert all(torch.equal(value, tensors[key]) for key, value in vae.state_dict().items())


def test_the_whole_model_is_loaded_where_it_is_wanted(s3, stored):
    uri, tensors = stored
    state = load_vae(section(uri), s3.storage).state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[key]) for key, value in state.items())


@pytest.mark.parametrize("kind", ["truncate", "reset", "status"])
def test_requests_that_fail_are_repeated(s3, stored, kind):
    uri, tensors = stored
    with fault_proxy(s3) as proxy:
        rule = proxy.add(Rule(kind, method="GET", key="w.safetensors", status=503, skip=1, times=2))
        storage = proxy.storage.model_copy(update={"retry_seconds": 20})
        assert weights_sha256(section(uri), storage) == encoder_sha256(tensors)
        assert rule.hits == 2


def test_a_checkpoint_replaced_while_it_is_read_is_not_mixed(s3, stored, tmp_path, downloads):
    uri, tensors = stored
    other = {key: value + 1 for key, value in tensors.items()}
    save_file(other, tmp_path / "other.safetensors")

    def replace() -> None:
        s3.filesystem().put_file(str(tmp_path / "other.safetensors"), uri)

    with fault_proxy(s3) as proxy:
        proxy.add(Rule("call", method="GET", key="w.safetensors", skip=2, times=1, action=replace))
        with pytest.raises(UserError, match="replaced"):
            encoder_file(uri, proxy.storage)
        assert list(downloads.glob("*.safetensors")) == []
        assert weights_sha256(section(uri), proxy.storage) == encoder_sha256(other)


def _fetch(uri: str, storage, folder: Path) -> None:
    weights.DOWNLOADS = folder
    encoder_file(uri, storage)


def test_processes_that_ask_at_once_download_once(s3, stored, downloads):
    uri, tensors = stored
    context = multiprocessing.get_context("spawn")
    with fault_proxy(s3) as proxy:
        given = (uri, proxy.storage, downloads)
        processes = [context.Process(target=_fetch, args=given) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        sent = sum(r.sent for r in proxy.of("w.safetensors", "GET"))
    assert sent < _bytes(tensors, "encoder.") + 100_000
    [kept] = downloads.glob("*.safetensors")
    assert encoder_sha256(load_file(kept)) == encoder_sha256(tensors)
    assert list(downloads.glob("*.part")) == []
