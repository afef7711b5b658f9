"""The Dockerfile and the shell scripts, as far as they can be checked without building."""

import re
import subprocess
from pathlib import Path

import pytest

from infra.manifests.pods import USER
from infra.manifests.validate import find_tool
from infra.manifests.values import ROOT

DOCKERFILE = ROOT / "infra/docker/Dockerfile"
SCRIPTS = ["infra/slurm/on_ray.sh", "infra/slurm/encode.sbatch", ".ci/run", "tests/infra/bin/srun"]


def _check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing():
    _check(find_tool("hadolint"), str(DOCKERFILE))


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    _check(find_tool("shellcheck"), str(ROOT / script))


def test_only_what_is_copied_reaches_the_builder_and_it_exists():
    text = DOCKERFILE.read_text()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    ignore = Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
    assert ignore[1] == "*"
    assert sorted(copied) == sorted(line[1:] for line in ignore if line.startswith("!"))
    for source in copied:
        assert (ROOT / source).exists()


def test_both_images_run_as_the_user_of_the_pods():
    text = DOCKERFILE.read_text()
    last = text.rsplit("\nFROM ", 1)[1]
    assert f"\nUSER {USER}\n" in last
    assert {"gpu", "cpu"} <= set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
