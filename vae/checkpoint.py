"""Reading weights: strict, safetensors only, tensor by tensor; and the identity of an encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from vae.config import VAEConfig
from vae.detect import detect_version, detect_z_channels
from vae.safetensors_file import (
    CheckpointError,
    Readable,
    SafetensorsFile,
    Shapes,
    open_safetensors,
)

Parts = Literal["all", "encoder"]
"""How much of a model is made and loaded."""

ALIASES = {
    "decoder.conv_out.conv.weight": "decoder.conv_out.weight",
    "decoder.conv_out.conv.bias": "decoder.conv_out.bias",
}
"""Names in the reference's module, and the names in the published file, which are ours."""

ENCODER_PREFIX = "encoder."
DECODER_PREFIX = "decoder."
_SHOWN = 5


class EncoderDigest:
    """The hash of :func:`encoder_sha256`, taken tensor by tensor in the order of their names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, key: str, tensor: Tensor) -> None:
        """Take the next tensor."""
        tensor = tensor.detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = ",".join(str(size) for size in tensor.shape)
        self._digest.update(f"{key}\0{dtype}\0{shape}\0".encode())
        self._digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """The hash of what was taken."""
        return self._digest.hexdigest()


def load_file(
    file: SafetensorsFile,
    config: VAEConfig,
    expected: Shapes,
    device: torch.device,
    dtype: torch.dtype,
    parts: Parts = "all",
    digest: EncoderDigest | None = None,
) -> dict[str, Tensor]:
    """The tensors of a file under our names, on ``device`` in ``dtype``.

    Names and shapes are checked against ``expected`` before any data is read; then each tensor
    goes to its place by itself, so that no second copy of the whole exists. ``digest`` takes the
    encoder as stored on the way.

    Raises:
        CheckpointError: the file does not hold exactly what is expected.
    """
    keys = match(file.shapes, config, expected, file.name, parts)
    names = {key: name for name, key in keys.items()}
    order = (key for key in file.tensors if key in names)  # as they lie in the file
    tensors = {}
    for key, tensor in file.read(order if digest is None else sorted(names)):
        if digest is not None and key.startswith(ENCODER_PREFIX):
            digest.add(key, tensor)
        _check_dtype(key, tensor, file.name)
        tensors[names[key]] = tensor.to(device=device, dtype=dtype)
    return tensors


def load_mapping(
    weights: Mapping[str, Tensor],
    config: VAEConfig,
    expected: Shapes,
    device: torch.device,
    dtype: torch.dtype,
    parts: Parts = "all",
) -> dict[str, Tensor]:
    """Copies of the tensors of a mapping under our names, on ``device`` in ``dtype``.

    Raises:
        CheckpointError: the mapping does not hold exactly what is expected.
    """
    source = "The weights"
    names = match(shapes_of(weights), config, expected, source, parts)
    tensors = {}
    for name, key in names.items():
        _check_dtype(key, weights[key], source)
        tensors[name] = weights[key].detach().to(device=device, dtype=dtype, copy=True)
    return tensors


def shapes_of(weights: Mapping[str, Tensor] | SafetensorsFile) -> Shapes:
    """Name → shape of the tensors of a mapping or file.

    Raises:
        CheckpointError: the mapping maps something else than names to tensors.
    """
    if isinstance(weights, SafetensorsFile):
        return weights.shapes
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"The weights must map names to tensors; {key!r} is mapped to "
                f"{type(value).__name__}. Pass the state dict itself, not a wrapper around it."
            )
    return {key: tuple(value.shape) for key, value in weights.items()}


def match(
    shapes: Shapes, config: VAEConfig, expected: Shapes, source: str, parts: Parts = "all"
) -> dict[str, str]:
    """Our name → the name in the checkpoint, for all that is ``expected``.

    With ``parts="encoder"`` nothing that is called ``decoder.…`` is looked at.

    Raises:
        CheckpointError: keys are missing, surplus or misshapen, or it is the checkpoint of another
            version or of another number of latent channels.
    """
    looked_at = {
        key: shape
        for key, shape in shapes.items()
        if parts == "all" or not key.startswith(DECODER_PREFIX)
    }
    found = {canonical_key(key): key for key in looked_at}
    missing = [key for key in expected if key not in found]
    surplus = [
        key for key in looked_at if canonical_key(key) not in expected or key not in found.values()
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
    digest = EncoderDigest()
    for name in _encoder_names(state_dict, "The state dict"):
        digest.add(name, state_dict[name])
    return digest.hexdigest()


def checkpoint_encoder_sha256(source: Readable) -> str:
    """:func:`encoder_sha256` of a safetensors file as stored, reading ``encoder.*`` alone.

    Equals ``vae.encoder_sha256()`` of a model that was loaded at the file's dtype.

    Raises:
        CheckpointError: the file is not safetensors, or has no ``encoder.*`` tensor.
    """
    with open_safetensors(source) as file:
        digest = EncoderDigest()
        for name, tensor in file.read(_encoder_names(file.tensors, file.name)):
            digest.add(name, tensor)
        return digest.hexdigest()


def _encoder_names(keys: Iterable[str], source: str) -> list[str]:
    names = sorted(key for key in keys if key.startswith(ENCODER_PREFIX))
    if not names:
        raise CheckpointError(f"{source} has no tensor whose name begins with {ENCODER_PREFIX!r}.")
    return names


def _check_dtype(key: str, tensor: Tensor, source: str) -> None:
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        raise CheckpointError(
            f"{source}: {key} has dtype {tensor.dtype}; the weights must be float16, bfloat16, "
            "float32 or float64. Quantised checkpoints are not read."
        )


def _hints(
    shapes: Shapes, found: dict[str, str], config: VAEConfig, surplus: list[str]
) -> list[str]:
    """What is probably wrong, in one line each."""
    version, z_channels = detect_version(shapes), detect_z_channels(shapes)
    if version is None:
        return ["No name begins with 'encoder.' or 'decoder.': this is no Step-Video VAE."]
    hints = []
    if version != config.version:
        mark = "patchify layers, the mark of" if version == 2 else "no patchify layers, so it is"
        hints.append(
            f"It has {mark} a version {version} file, the model was asked for version "
            f"{config.version}: pass version={version}"
            + ("." if z_channels is None else f", z_channels={z_channels}.")
        )
    elif z_channels not in (None, config.z_channels):
        hints.append(
            f"It has {z_channels} latent channels, the model was asked for {config.z_channels}: "
            f"pass z_channels={z_channels}."
        )
    if any(canonical_key(key) in found and found[canonical_key(key)] != key for key in surplus):
        hints.append("It names a tensor of decoder.conv_out twice, in both spellings.")
    return hints
