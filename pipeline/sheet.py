"""The contact sheet: windows as they went into the VAE, beside what their latents decode to."""

import io
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, ImageDraw

from pipeline.buckets import Bucket
from pipeline.cache import LatentCache
from pipeline.config import Config
from pipeline.errors import Reason, SourceError
from pipeline.isolated.choice import decode_file
from pipeline.manifest import Manifest
from pipeline.reading import open_source
from pipeline.recipe import Recipe
from pipeline.spans import find_place
from pipeline.video.decode import ClipRequest, FrameRecipe, Segment, Target
from pipeline.weights import load_vae
from vae import AutoencoderKL

_SHOWN = 5
_MARGIN = 4
_LABEL_HEIGHT = 16


def write_contact_sheet(config: Config, manifest: Manifest, snapshot: int, run_id: str) -> str:
    """Write ``reports/<run_id>/contact_sheet.png`` and return its URI.

    ``report.contact_sheet_windows`` windows, spread evenly over the snapshot; each takes two rows:
    frames that went in (decoded from the source once more) and frames decoded from the stored
    latents. A source that cannot be read any more is left out, with a word on stderr.
    """
    cache = LatentCache.open(config.output.uri, snapshot, config.storage)
    sources = {
        row["source_id"]: row for row in cache.sources().to_pylist() if row["status"] == "ok"
    }
    samples = cache.samples()
    samples = samples.filter(pc.is_in(samples["source_id"], pa.array(list(sources), pa.string())))
    count = min(config.report.contact_sheet_windows, samples.num_rows)
    picks = np.linspace(0, samples.num_rows - 1, count).round().astype(int).tolist()
    recipe = Recipe.from_config(config, cache.contract)
    vae = load_vae(config.vae, config.storage)
    strips = []
    for pick in picks:
        sample = samples.slice(pick, 1).to_pylist()[0]
        source = sources[sample["source_id"]]
        try:
            given = _frames_of(config, recipe, source, sample)
        except SourceError as error:  # the source changed or went away since it was encoded
            print(f"contact sheet: left out {source['uri']}: {error}", file=sys.stderr)
            continue
        decoded = _decoded(vae, cache.read(sample["sample_id"]))
        name = source["uri"].rsplit("/", 1)[-1]
        label = f"{name}  window {sample['window']}  {sample['start_time']:.2f} s: in / decoded"
        strips.append(_strip(label, given, decoded))
    note = (
        "RANDOM WEIGHTS: the decoded rows are noise by nature; set vae.checkpoint"
        if config.vae.checkpoint is None
        else f"weights {cache.contract.encoder_sha256[:12]}"
    )
    path = f"reports/{run_id}/contact_sheet.png"
    manifest.store.write(path, _png(_stack(note, strips)))
    return f"{manifest.store.uri}/{path}"


def _frames_of(
    config: Config, recipe: Recipe, source: dict[str, Any], sample: dict[str, Any]
) -> np.ndarray:
    """The window's frames, uint8 ``[T, H, W, 3]``, as the decode stage makes them."""
    window = sample["window"]
    request = ClipRequest(
        key="",
        start=source["start"],
        end=source["end"],
        ranges=((window, window + 1),),
        targets=(Target(Bucket.parse(sample["bucket"]), 1),),
    )
    frames = FrameRecipe(recipe.fps, recipe.grid, recipe.resize, recipe.filter)
    uri, version = source["uri"], source["version"]
    wanted = None if find_place(uri, version) is None else version  # says where in its tar it is
    with open_source(uri, wanted, config.storage) as file:
        for found in decode_file(file, [request], frames, config.decode):
            if isinstance(found, Segment):
                return np.array(found.frames[0])
    raise SourceError(Reason.SOURCE_CHANGED, f"window {window} is gone")


def _decoded(vae: AutoencoderKL, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """Frames that a stored latent decodes to, uint8 ``[T, H, W, 3]``."""
    latent = tensors["mean"] if "mean" in tensors else tensors["sample"]
    weight = next(vae.decoder.parameters())
    video = vae.decode(latent[None].to(weight.device, weight.dtype))[0].float().cpu()
    pixels = ((video.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def _strip(label: str, given: np.ndarray, decoded: np.ndarray) -> Image.Image:
    shown = np.unique(np.linspace(0, len(given) - 1, _SHOWN).round().astype(int))
    rows = [np.concatenate(list(frames[shown]), axis=1) for frames in (given, decoded)]
    picture = np.concatenate(rows, axis=0)
    strip = Image.new("RGB", (picture.shape[1], picture.shape[0] + _LABEL_HEIGHT), "white")
    ImageDraw.Draw(strip).text((2, 2), label, fill="black")
    strip.paste(Image.fromarray(picture), (0, _LABEL_HEIGHT))
    return strip


def _stack(note: str, strips: list[Image.Image]) -> Image.Image:
    width = max([strip.width for strip in strips] + [480]) + 2 * _MARGIN
    height = _LABEL_HEIGHT + sum(strip.height + _MARGIN for strip in strips) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(sheet).text((_MARGIN, 2), note, fill="black")
    top = _LABEL_HEIGHT
    for strip in strips:
        sheet.paste(strip, (_MARGIN, top))
        top += strip.height + _MARGIN
    return sheet


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
