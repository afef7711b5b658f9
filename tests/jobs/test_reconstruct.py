"""The job: real clips of several kinds, its files and figures, mistakes and exit codes."""

import functools
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jobs import reconstruct
from tests import clips
from tests.e2e.support import config_tree, write_config
from vae import AutoencoderKL, VAEConfig

WEIGHTS = Path(__file__).parents[1] / "data/goldens/v2_small/weights.safetensors"
WIDTHS = {
    "encoder_ch": 32,
    "encoder_ch_mult": (1, 2, 1, 1),
    "decoder_ch": 32,
    "decoder_ch_mult": (1, 2, 1, 1),
}
CHECKPOINT = [
    "--checkpoint",
    str(WEIGHTS),
    "--set",
    "vae.z_channels=2",
    *(part for key, value in WIDTHS.items() for part in ("--set", f"vae.widths.{key}={value}")),
]
CHECKPOINT = [part.replace("(", "[").replace(")", "]") for part in CHECKPOINT]


@pytest.fixture
def narrow(tmp_path) -> list[str]:
    """Options for a narrow VAE with random weights, and a folder for the files."""
    tree = config_tree("unused", "unused", windows__tail="pad")
    config = write_config(tmp_path / "config.yaml", tree)
    return ["--config", str(config), "--out", str(tmp_path / "out")]


def _run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = reconstruct.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _odd(folder: Path) -> Path:
    """A video of 67x35 pixels and 20 frames."""
    return clips.encode(folder / "odd.mp4", "libx264", size=(67, 35), pixels="yuv444p", count=20)


@pytest.mark.parametrize(
    ("name", "options", "size", "frames", "all_frames"),
    [
        ("bunny", ["--size", "32x48", "--max-windows", "1"], (32, 48), [17], None),  # has sound
        ("bikes", ["--size", "32x64", "--fps", "5", "--max-windows", "9"], (32, 64), 50, 50),
        ("rotated90", ["--max-windows", "1"], (160, 96), [17], None),
        ("odd", [], (32, 64), [17, 3], 20),
        ("short", ["--size", "48x48"], (48, 48), [11], 11),
        ("single", ["--size", "32x32"], (32, 32), [1], 1),
        (
            "seventeen",
            ["--size", "32x32", "--statistic", "sample", "--seed", "3"],
            (32, 32),
            17,
            17,
        ),
        ("city", ["--size", "32x48", "--tail", "overlap", "--fps", "4"], (32, 48), 31, 31),
        ("jpeg_turned", [], (160, 96), [1], 1),
        ("png", ["--size", "32x32"], (32, 32), [1], 1),
    ],
)
def test_real_clips(name, options, size, frames, all_frames, narrow, clip, capsys, tmp_path):
    path = _odd(tmp_path) if name == "odd" else clip(name)
    code, out, err = _run(capsys, path, *narrow, *options)
    assert code == 0, err
    assert "random" in err
    done = json.loads(out.splitlines()[-1])
    assert (done["height"], done["width"]) == size
    rows = done["windows"]
    if isinstance(frames, list):
        assert [row["frames"] for row in rows] == frames
    total = sum(frames) if isinstance(frames, list) else frames
    assert (done["frames"], done["clip_frames"]) == (total, all_frames)
    assert ("the clip goes on" in out) == (all_frames is None)
    assert done["mean_psnr"] == pytest.approx(
        sum(row["psnr"] for row in rows) / len(rows), abs=1e-3
    )
    table = re.findall(r"^ +(\d+) +(\d+)-(\d+) +([\d.]+) s +([\d.]+) dB$", out, re.MULTILINE)
    assert len(table) == len(rows)
    for (window, first, last, seconds, decibels), row in zip(table, rows, strict=True):
        assert (int(window), int(first)) == (row["window"], row["first_frame"])
        assert int(last) - int(first) + 1 == row["frames"]
        assert float(seconds) == pytest.approx(row["seconds"], abs=0.006)
        assert float(decibels) == pytest.approx(row["psnr"], abs=0.006)
    files = {file.name for file in (tmp_path / "out").iterdir()}
    image = Path(done["image"])
    assert Image.open(image).width >= 3 * size[1]
    if name in ("jpeg_turned", "png"):
        assert done["video"] is None
        assert files == {f"{path.stem}_reconstruction.png"}
        return
    assert files == {f"{path.stem}_reconstruction.{suffix}" for suffix in ("mp4", "png")}
    with av.open(done["video"]) as container:
        shown = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert len(container.streams) == 1
    assert len(shown) == total
    assert (shown[0].height, shown[0].width) == (size[0], 2 * size[1])


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("cuDNN: ALLOC_FAILED")]
)
def test_a_lack_of_memory_is_told_with_remedies(error, narrow, clip, capsys, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(AutoencoderKL, "posterior", fail)
    code, _, err = _run(capsys, clip("short"), *narrow, "--size", "32x48")
    assert code == 1
    assert "a window of 32x48 does not fit in memory; pass a smaller --size" in err


def test_originals_are_upright_and_on_the_left(narrow, clip, capsys):
    code, out, _ = _run(capsys, clip("rotated90"), *narrow, "--max-windows", "1")
    assert code == 0
    done = json.loads(out.splitlines()[-1])
    with av.open(str(clip("rotated90"))) as container:
        frame = next(container.decode(video=0))
        expected = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    with av.open(done["video"]) as container:
        found = next(container.decode(video=0)).to_ndarray(format="rgb24")[:, :96]
    assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("kind", ["image", "video"])
def test_decibels_are_those_of_the_model(kind, capsys, tmp_path):
    """Against the public model and the plain definition, for the golden weights."""
    vae = AutoencoderKL.from_file(WEIGHTS, VAEConfig(z_channels=2, **WIDTHS))
    if kind == "image":
        path = clips.image(tmp_path / "picture.png")
        frames = np.asarray(Image.open(path))[None]
    else:
        path = tmp_path / "clip.mkv"
        clips.encode(path, "libx264rgb", pixels="rgb24", count=17, size=(64, 32))
        with av.open(str(path)) as container:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    original = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)[None].double() / 255
    mean = vae.posterior((original * 2 - 1).float()).mean
    decoded = (vae.decode(mean).clamp(-1, 1).double() + 1) / 2
    expected = 10 * math.log10(1 / float((decoded - original).square().mean()))
    code, out, err = _run(capsys, path, *CHECKPOINT, "--out", tmp_path / "out")
    assert code == 0, err
    assert "random" not in err
    done = json.loads(out.splitlines()[-1])
    assert done["mean_psnr"] == pytest.approx(expected, abs=0.01)
    assert done["weights"] == str(WEIGHTS)


def test_older_files_are_replaced_and_a_failure_leaves_them(narrow, clip, capsys, tmp_path):
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip("short").read_bytes())
    assert _run(capsys, source, *narrow, "--size", "32x32")[0] == 0
    files = sorted((tmp_path / "out").iterdir())
    before = [file.read_bytes() for file in files]
    source.write_bytes(clip("damaged").read_bytes())  # breaks behind the first windows
    code, out, err = _run(capsys, source, *narrow, "--size", "32x32", "--max-windows", "9")
    assert code == 1
    assert f"{source}: " in err
    assert not out.endswith("}\n")
    assert sorted((tmp_path / "out").iterdir()) == files
    assert [file.read_bytes() for file in files] == before
    source.write_bytes(clip("seventeen").read_bytes())
    assert _run(capsys, source, *narrow, "--size", "32x32")[0] == 0
    assert sorted((tmp_path / "out").iterdir()) == files
    assert all(file.read_bytes() != old for file, old in zip(files, before, strict=True))


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
def test_a_stop_leaves_no_file(number, code, narrow, clip, tmp_path):
    options = ["--size", "96x224", "--max-windows", "15"]
    job = [sys.executable, reconstruct.__file__, clip("bikes"), *narrow, *options]
    # Where the suite runs in the background, SIGINT is ignored, and processes inherit that.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(job, stdout=subprocess.PIPE, text=True, preexec_fn=heeding) as process:
        assert process.stdout is not None
        assert any(line.split()[:1] == ["0"] for line in process.stdout)
        process.send_signal(number)
        assert "{" not in process.stdout.read()
    assert process.returncode == code
    assert list((tmp_path / "out").iterdir()) == []


def test_frames_left_out_are_told_of(narrow, clip, capsys):
    options = ["--size", "32x32", "--fps", "10", "--tail", "drop", "--max-windows", "9"]
    code, out, _ = _run(capsys, clip("h264_open"), *narrow, *options)
    done = json.loads(out.splitlines()[-1])
    assert code == 0
    assert done["clip_frames"] - done["frames"] == 40 % 17
    assert f"the last {40 % 17} frames" in out


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("/no/such/clip.mp4", [], ["/no/such/clip.mp4 does not exist", "check the path"]),
        ("/tmp", [], ["/tmp is a directory"]),
        ("text", [], ["text.mp4: ", "not a video", "ffmpeg"]),
        ("empty", [], ["empty.mp4 has no bytes"]),
        ("audio_only", [], ["audio_only.mp4: no video stream"]),
        ("gif_animated", [], ["gif_animated.gif: an animated GIF"]),
        ("short", ["--tail", "drop"], ["short.mp4: 11 frames", "17", "--tail pad"]),
        ("short", ["--out", "s3://bucket/out"], ["--out s3://bucket/out", "local folder"]),
        ("short", ["--out", "/proc/out"], ["--out /proc/out", "folder that can be written"]),
        ("short", ["--set", "vae.z_channels=3"], ["z_channels"]),
        ("short", ["--set", "vae.widht=3"], ["vae.widht", "widths"]),
        ("short", ["--fps", "fast"], ["windows.fps", "fast", "24"]),
        ("short", ["--checkpoint", "/no/weights"], ["/no/weights", "no such file"]),
        ("short", ["--checkpoint", str(WEIGHTS)], [str(WEIGHTS), "vae.checkpoint"]),
        ("http://[", [], ["http://["]),
    ],
)
def test_mistakes_give_one_clear_line(name, options, parts, narrow, clip, capsys):
    path = clip(name) if name in clips.DERIVED else name
    code, out, err = _run(capsys, path, *narrow, *options)
    assert code == 1
    assert "Traceback" not in err
    assert not out.endswith("}\n")
    assert all(part in err for part in parts), err
    lines = [line for line in err.splitlines() if not line.startswith("warning:")]
    assert lines[0].startswith("error: ")
    assert len(lines) == 1 or lines[0].endswith("mistake(s):") or "does not fit" in lines[0]


def test_a_clip_too_small_names_its_size_and_the_remedy(narrow, tmp_path, capsys):
    Image.new("RGB", (12, 40)).save(tmp_path / "small.png")
    code, _, err = _run(capsys, tmp_path / "small.png", *narrow)
    assert code == 1
    assert all(part in err for part in ("small.png: ", "height 40 and width 12", "--size"))
    assert _run(capsys, tmp_path / "small.png", *narrow, "--size", "48x16")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "CLIP"),
        (["clip.mp4"], "--checkpoint"),
        (["clip.mp4", "--set", "storage.region=here"], "--checkpoint"),
        (["clip.mp4", "--checkpoint", "x", "--size", "100x64"], "nearest: 96 and 112"),
        (["clip.mp4", "--checkpoint", "x", "--size", "64"], "544x992"),
        (["clip.mp4", "--checkpoint", "x", "--max-windows", "0"], "1 or more"),
        (["clip.mp4", "--checkpoint", "x", "--seed", "-1"], "--seed"),
        (["clip.mp4", "--checkpoint", "x", "--tail", "fold"], "overlap"),
        (["clip.mp4", "--checkpoint", "x", "--dtype", "int8"], "bfloat16"),
    ],
)
def test_usage_errors_exit_with_1(arguments, part, capsys):
    with pytest.raises(SystemExit) as stopped:
        reconstruct.main(arguments)
    assert stopped.value.code == 1
    err = capsys.readouterr().err
    assert "error:" in err
    assert part in err


def test_clip_and_weights_on_object_storage(s3, s3_prefix, clip, capsys, tmp_path):
    store = s3.filesystem()
    store.put_file(str(clip("short")), f"{s3_prefix}/a clip.mp4")
    store.put_file(str(WEIGHTS), f"{s3_prefix}/weights.safetensors")
    options = [
        *CHECKPOINT,
        *("--checkpoint", f"s3://{s3_prefix}/weights.safetensors"),
        *("--set", f"storage.endpoint_url={s3.endpoint}", "--size", "32x32"),
    ]
    out = ["--out", tmp_path / "out"]
    code, text, err = _run(capsys, f"s3://{s3_prefix}/a clip.mp4", *options, *out)
    assert code == 0, err
    assert json.loads(text.splitlines()[-1])["frames"] == 11
    assert (tmp_path / "out/a clip_reconstruction.mp4").is_file()
    code, _, err = _run(capsys, f"s3://{s3_prefix}/none.mp4", *options, *out)
    assert code == 1
    assert f"s3://{s3_prefix}/none.mp4 does not exist" in err
