"""What one would write without this project, against it: DataLoader workers, the VAE, torch.save.

  python tests/benchmarks/plain.py --config CONFIG.yaml [--limit N] [--turns 3]

The plain way decodes in the workers of a DataLoader (as many as `run.decode_tasks`), takes the
frames nearest to the asked rate, lets swscale resize them, encodes window after window, and saves
each. It checks nothing, resumes nothing and keeps no manifest. Both ways encode the same sources to
the same bucket with the same threads, in turns, in fresh processes. Windows a second count from the
end of the first pack or window to that of the last; start-up is told apart.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.bench.apart import apart
from pipeline.bench.measure import conditions
from pipeline.bench.pipeline import dataset_arguments, load_dataset_config, whole_run
from pipeline.bench.write import removed
from pipeline.catalog import read_catalog
from pipeline.config import Config
from pipeline.stages.encode import make_vae_encoder
from pipeline.weights import load_encoder, resolve_vae
from pipeline.windows import WINDOW_FRAMES


class Windows(IterableDataset):
    """Windows of 17 frames, uint8 (17, H, W, 3), of the videos in turn."""

    def __init__(self, files: list[str], fps: float, height: int, width: int) -> None:
        self.files, self.fps, self.size = files, fps, (width, height)

    def __iter__(self) -> Iterator[np.ndarray]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for path in self.files[first::step]:
            frames: list[np.ndarray] = []
            with av.open(path) as container:
                wanted = 0.0
                for frame in container.decode(video=0):
                    while frame.time >= wanted - 0.5 / self.fps:
                        image = frame.reformat(*self.size, format="rgb24", interpolation="BICUBIC")
                        frames.append(image.to_ndarray())
                        wanted += 1 / self.fps
                    if len(frames) >= WINDOW_FRAMES:
                        yield np.stack(frames[:WINDOW_FRAMES])
                        del frames[:WINDOW_FRAMES]


def plain(config: Config, folder: Path) -> tuple[int, float, float]:
    """Encode; windows, windows a second, and seconds until the first one was saved."""
    began = time.perf_counter()
    torch.set_num_threads(config.run.encoder_threads or 1)
    bucket = config.bucket_list[0]
    files = read_catalog(config, keep=False).sources["uri"].to_pylist()
    dataset = Windows(files, float(config.windows.fps or 24), bucket.height, bucket.width)
    encoder = load_encoder(config.vae, config.storage)
    folder.mkdir(parents=True)
    moments: list[float] = []
    loader = DataLoader(dataset, batch_size=1, num_workers=config.run.decode_tasks)
    with torch.inference_mode():
        for number, frames in enumerate(loader):
            x = frames.permute(0, 1, 4, 2, 3).float().div(127.5).sub(1)
            latent = encoder.posterior(x)
            both = {"mean": latent.mean.half(), "logvar": latent.logvar.half()}
            torch.save(both, folder / f"{number}.pt")
            moments.append(time.perf_counter())
    rate = (len(moments) - 1) / (moments[-1] - moments[0])
    return len(moments), rate, moments[0] - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    dataset_arguments(parser)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    config = load_dataset_config(args)
    config = config.model_copy(update={"vae": resolve_vae(config.vae, config.storage)})
    ratios, turns = [], []
    print(f"{'plain/s':>9} {'ours/s':>9} {'ratio':>7}   windows, start-up seconds")
    with removed(config):
        for turn in range(args.turns):
            uri = f"{config.output.uri}/{turn}"
            count, rate, start = apart(plain, config, Path(f"{uri}-plain"))
            output = config.output.model_copy(update={"uri": uri})
            ours = apart(whole_run, config.model_copy(update={"output": output}), make_vae_encoder)
            ratios.append(ours.windows_per_second / rate)
            turns.append({"plain": rate, "ours": ours.windows_per_second})
            print(
                f"{rate:>9.4g} {ours.windows_per_second:>9.4g} {ratios[-1]:>7.3f}   plain {count}, "
                f"{start:.1f} s; ours {ours.windows}, {ours.seconds['start-up']:.1f} s",
                flush=True,
            )
    print(f"ours is {statistics.median(ratios):.2f} times as fast")
    print(json.dumps({**conditions(), "ratio": statistics.median(ratios), "turns": turns}))


if __name__ == "__main__":
    main()
