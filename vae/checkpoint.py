"""Reading weights: strict, safetensors only, tensor by tensor; and the identity of an encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vae.config import VAEConfig

Shapes = dict[str, tuple[int, ...]]

ALIASES = {
    "decoder.conv_out.conv.weight": "decoder.conv_out.weight",
    "decoder.conv_out.conv.bias": "decoder.conv_out.bias",
}
"""Names in the reference's module, and the names in the published file, which are ours."""

ENCODER_PREFIX = "encoder."
_LATENT_WEIGHT = "decoder.conv_in.conv.weight"
_SHOWN = 5


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model it is loaded into."""


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file lazily; nothing else is ever read, pickles least of all.

    Raises:
        CheckpointError: the path is not a readable safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"The checkpoint {path} {kind}; give the path of a file such as vae_v2.safetensors."
        )
    try:
        handle = safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}). Pickled checkpoints (.pt, .pth, "
            ".ckpt, .bin) are never read, because they can run code: convert the file with "
            "safetensors.torch.save_file, or fetch vae_v2.safetensors anew."
        ) from error
    with handle as file:
        yield file


def load_file(
    path: str | Path,
    config: VAEConfig,
    expected: Shapes,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The tensors of a checkpoint file under our names, on ``device`` in ``dtype``.

    Names and shapes are checked against ``expected`` before any data is read; then each tensor
    goes to its place by itself, so that no second copy of the whole exists.

    Raises:
        CheckpointError: the file is not safetensors, or does not hold exactly what is expected.
    """
    with open_checkpoint(path) as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        names = match(shapes, config, expected, source=str(path))
        return _gather(names, file.get_tensor, device, dtype, source=str(path))


def check_file(path: str | Path, config: VAEConfig, expected: Shapes) -> None:
    """Check a file's names and shapes by its header alone.

    Raises:
        CheckpointError: the file is not safetensors, or does not hold exactly what is expected.
    """
    with open_checkpoint(path) as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        match(shapes, config, expected, source=str(path))


def load_mapping(
    weights: Mapping[str, Tensor],
    config: VAEConfig,
    expected: Shapes,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Copies of the tensors of a mapping under our names, on ``device`` in ``dtype``.

    Raises:
        CheckpointError: the mapping does not hold exactly what is expected.
    """
    source = "The weights"
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{source} must map names to tensors; {key!r} is mapped to "
                f"{type(value).__name__}. Pass the state dict itself, not a wrapper around it."
            )
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    names = match(shapes, config, expected, source)
    return _gather(names, weights.__getitem__, device, dtype, source)


def match(shapes: Shapes, config: VAEConfig, expected: Shapes, source: str) -> dict[str, str]:
    """Our name → the name in the checkpoint, for all that is ``expected``.

    Raises:
        CheckpointError: keys are missing, surplus or misshapen, or it is the checkpoint of another
            version or of another number of latent channels.
    """
    found = {canonical_key(key): key for key in shapes}
    missing = [key for key in expected if key not in found]
    surplus = [
        key for key in shapes if canonical_key(key) not in expected or key not in found.values()
    ]
    wrong = [
        f"{name} (expected {expected[name]}, found {shapes[key]})"
        for name, key in found.items()
        if name in expected and expected[name] != shapes[key]
    ]
    if not (missing or surplus or wrong):
        return {name: found[name] for name in expected}
    lines = [f"{source} does not fit the model (version {config.version})."]
    lines += _hints(shapes, found, config, surplus)
    for title, keys in (("missing", missing), ("unexpected", surplus), ("misshapen", wrong)):
        if keys:
            more = f", … ({len(keys) - _SHOWN} more)" if len(keys) > _SHOWN else ""
            lines.append(f"{len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}.")
    raise CheckpointError("\n".join(lines))


def canonical_key(key: str) -> str:
    """The name in the published file of a key of either spelling."""
    return ALIASES.get(key, key)


def encoder_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Identity of an encoder's weights: SHA-256 over its ``encoder.*`` tensors, as hex digits.

    For each key in sorted order, the digest takes the UTF-8 bytes of

        key NUL dtype NUL shape NUL

    (dtype as in ``float32`` or ``bfloat16``, shape as decimal sizes joined by commas) and then the
    elements in row-major order, little-endian. The prefix ``encoder.`` is part of the key. Neither
    the decoder nor the device has any influence, the dtype has.

    Raises:
        CheckpointError: there is no ``encoder.*`` tensor.
    """
    return _digest(list(state_dict), state_dict.__getitem__, "The state dict")


def checkpoint_encoder_sha256(path: str | Path) -> str:
    """:func:`encoder_sha256` of a safetensors file as stored, reading ``encoder.*`` alone.

    Equals ``vae.encoder_sha256()`` of a model that was loaded at the file's dtype.

    Raises:
        CheckpointError: the file is not safetensors, or has no ``encoder.*`` tensor.
    """
    with open_checkpoint(path) as file:
        return _digest(list(file.keys()), file.get_tensor, str(path))


def _digest(keys: list[str], read: Callable[[str], Tensor], source: str) -> str:
    names = sorted(key for key in keys if key.startswith(ENCODER_PREFIX))
    if not names:
        raise CheckpointError(f"{source} has no tensor whose name begins with {ENCODER_PREFIX!r}.")
    digest = hashlib.sha256()
    for name in names:
        tensor = read(name).detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(str(size) for size in tensor.shape)
        digest.update(f"{name}\0{dtype}\0{shape}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _gather(
    names: dict[str, str],
    read: Callable[[str], Tensor],
    device: torch.device,
    dtype: torch.dtype,
    source: str,
) -> dict[str, Tensor]:
    tensors = {}
    for name, key in names.items():
        tensor = read(key).detach()
        if not tensor.is_floating_point() or tensor.element_size() == 1:
            raise CheckpointError(
                f"{source}: {key} has dtype {tensor.dtype}; the weights must be float16, bfloat16, "
                "float32 or float64. Quantised checkpoints are not read."
            )
        tensors[name] = tensor.to(device=device, dtype=dtype, copy=True)
    return tensors


def _hints(
    shapes: Shapes, found: dict[str, str], config: VAEConfig, surplus: list[str]
) -> list[str]:
    """What is probably wrong, in one line each."""
    if not any(key.startswith((ENCODER_PREFIX, "decoder.")) for key in shapes):
        return ["No name begins with 'encoder.' or 'decoder.': this is no Step-Video VAE."]
    hints = []
    if not any("patchify" in key for key in shapes):
        hints.append(
            "It has no patchify layers, which is the mark of a version 1 file (vae.safetensors): "
            "use vae_v2.safetensors with version=2."
        )
    elif len(shape := shapes.get(_LATENT_WEIGHT, ())) == 5 and shape[1] != config.z_channels:
        hints.append(
            f"It has {shape[1]} latent channels, the model was asked for {config.z_channels}: "
            f"pass z_channels={shape[1]}."
        )
    if any(canonical_key(key) in found and found[canonical_key(key)] != key for key in surplus):
        hints.append("It names a tensor of decoder.conv_out twice, in both spellings.")
    return hints
