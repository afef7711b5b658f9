"""Train a small transformer on a cache by flow matching: a proof that it trains, and a template.

Examples:
  make demo
  python jobs/maintain_cache.py stats output/demo --out output/demo-stats.json
  python jobs/train_example.py output/demo --normalize output/demo-stats.json --out output/train
  torchrun --nproc-per-node 2 jobs/train_example.py output/demo --out output/train-2

A step prints {"step": …, "loss": …}: the mean over ranks of the squared error of the velocity, over
latent frames without repeated pixels. OUT/checkpoint.pt keeps model, optimizer, snapshot and the
reader's place. Run the same command again, with more --steps or after a crash, and it goes on at
the next batch: the losses are, to the last digit on a CPU, those of a run that never stopped.

It is no text-to-video model: captions come with each batch (columns=["caption"]), a trainer encodes
them. Exit codes: 0 done; 1 usage, or it cannot be done.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import Contract, LatentDataset
from pipeline.cli import Parser, add_store_options, not_negative, positive, storage_of
from pipeline.errors import UserError
from pipeline.shards import ShardError


class LatentTransformer(nn.Module):
    """Velocity ``(batch, t, C, h, w)`` of noisy latents of that shape, at times ``(batch,)``.

    A token is one place of the latent; sines tell where it lies, so that every bucket and clip
    length goes through the same weights. The time scales and shifts what enters each block.
    """

    def __init__(self, channels: int, width: int = 96) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Linear(channels, width)
        self.where = nn.Linear(3 * width, width)
        self.when = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 8 * width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", 1e-5, True, True)
            for _ in range(3)
        )
        self.blocks.append(nn.Linear(width, channels))

    def forward(self, latents: Tensor, times: Tensor) -> Tensor:
        """See the class."""
        batch, frames, channels, height, width = latents.shape
        axes = (torch.arange(n, device=latents.device) for n in (frames, height, width))
        places = torch.cartesian_prod(*axes).flatten()
        tokens: Tensor = self.enter(latents.movedim(2, 4).reshape(batch, -1, channels))
        tokens = tokens + self.where(sines(places, self.width).view(-1, 3 * self.width))
        changes = self.when(sines(1000 * times, self.width)).unsqueeze(1).chunk(8, dim=2)
        for block, scale, shift in zip(self.blocks, changes[::2], changes[1::2], strict=True):
            tokens = block(tokens * (1 + scale) + shift)
        return tokens.view(batch, frames, height, width, channels).movedim(4, 2)


def sines(numbers: Tensor, width: int) -> Tensor:
    """Numbers ``(n,)`` as sines and cosines of many wavelengths, ``(n, width)``."""
    rates = torch.exp(torch.linspace(0, -8, width // 2, device=numbers.device))
    angles = numbers[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def flow_loss(model: nn.Module, latents: Tensor, real: Tensor, seed: int) -> Tensor:
    """Mean squared error of the velocity from noise to ``latents``, where ``real`` (batch, t).

    Noise and times follow from ``seed``: nothing of a generator has to be kept for a resume.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    times = (torch.rand(1, generator=generator) + torch.arange(len(latents)) / len(latents)) % 1
    times = times.to(latents.device)
    share = times[:, None, None, None, None]
    found: Tensor = model((1 - share) * noise + share * latents, times)
    errors = (found - (latents - noise)).square().mean(dim=(2, 3, 4))
    return (errors * real).sum() / real.sum().clamp(min=1)


def train(args: argparse.Namespace, device: torch.device) -> None:
    """Up to ``args.steps`` steps, going on from the checkpoint where there is one."""
    path = Path(args.out) / "checkpoint.pt"
    kept: dict[str, Any] = {}
    if path.exists():
        kept = torch.load(path, map_location=device, weights_only=True)
    fields = {} if args.encoder_sha256 is None else {"encoder_sha256": args.encoder_sha256}
    dataset = LatentDataset(  # rank and world_size are those of torch.distributed
        args.uri,
        kept.get("snapshot", args.snapshot),  # pinned: a refresh changes nothing for this run
        clip_frames=args.clip_frames,
        batch_size=args.batch_size,
        expect=Contract.matching(**fields),
        statistic=args.statistic,
        normalize=args.normalize,
        dtype=torch.float32,
        seed=args.seed,
        allow_padded=True,
        storage=storage_of(args),
    )
    torch.manual_seed(args.seed)  # the same weights on all ranks
    model = LatentTransformer(dataset.contract.z_channels).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    step = 0
    if kept:
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        dataset.load_state_dict(kept["data"])
        step = kept["step"]
    ranks = dataset.world_size
    parallel = DistributedDataParallel(model) if ranks > 1 else model
    while step < args.steps:
        for batch in dataset.loader(num_workers=args.workers):  # what is left of the epoch
            latents, real = batch["latents"].to(device), batch["valid_mask"].to(device)
            seed = (args.seed << 40) + step * ranks + dataset.rank
            loss = flow_loss(parallel, latents, real, seed)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            total = loss.detach()
            if ranks > 1:
                dist.all_reduce(total)
            if dataset.rank == 0:
                print(json.dumps({"step": step, "loss": float(total) / ranks}), flush=True)
            if dataset.rank == 0 and (step % args.save_every == 0 or step == args.steps):
                state = {
                    "step": step,
                    "snapshot": dataset.snapshot.number,
                    "data": dataset.state_dict(),  # the same on all ranks
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                }
                save(path, state)
            if step == args.steps:
                break


def save(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all, so that a crash leaves the checkpoint before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train; returns the exit code."""
    args = _parser().parse_args(arguments)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "WORLD_SIZE" in os.environ:  # torchrun
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        train(args, device)
    except (UserError, ShardError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser("train_example.py", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("uri", metavar="URI", help="root of the cache: a path or s3://…")
    add("--out", metavar="DIR", required=True, help="local folder of the checkpoint")
    add("--snapshot", metavar="N", type=int, help="default: the checkpoint's, or the newest")
    add("--encoder-sha256", metavar="HASH", help="refuse latents of another VAE")
    add("--normalize", metavar="FILE", help="what maintain_cache.py stats wrote")
    add("--statistic", choices=("sample", "mean"), default="sample", help="default: sample")
    add("--clip-frames", metavar="F", type=positive, default=17, help="17, 34, … (default: 17)")
    add("--batch-size", metavar="N", type=positive, default=4, help="of each rank (default: 4)")
    add("--steps", metavar="N", type=positive, default=200, help="in all (default: 200)")
    add("--save-every", metavar="N", type=positive, default=50, help="steps (default: 50)")
    add("--lr", metavar="RATE", type=float, default=1e-3, help="default: 0.001")
    add("--seed", metavar="N", type=int, default=0, help="of order, draws, weights (default: 0)")
    add("--workers", metavar="N", type=not_negative, default=0, help="of the loader (default: 0)")
    add_store_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
