"""All stages of one configuration: every command is called with what the configuration says."""

import json

import pytest

from jobs.benchmark import main
from pipeline.bench import everything
from tests.e2e.support import config_tree, write_config


@pytest.fixture
def called(monkeypatch):
    """The parsed arguments of each command, which only prints a line."""
    found = {}
    for name, module in everything._MODULES.items():

        def run(args, name=name):
            found[name] = args
            print(f"table of {name}")
            print(json.dumps({"command": name}))

        monkeypatch.setattr(module, "run", run)
    return found


def test_every_stage_and_the_whole(tmp_path, called, capsys):
    tree = config_tree(tmp_path, tmp_path / "cache", run__compile=True)
    config = str(write_config(tmp_path / "config.yaml", tree))
    arguments = ["--limit", "7", "--set", "run.decode_tasks=3", "--output", "/elsewhere"]
    assert main(["all", "--config", config, *arguments]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {name: {"command": name} for name in ("decode", "vae", "write", "pipeline")}
    assert called["pipeline"].limit == 7
    assert called["write"].output == "/elsewhere"
    assert {tuple(called[name].set) for name in ("decode", "write", "pipeline")} == {
        ("run.decode_tasks=3",)
    }
    vae = called["vae"]
    assert (vae.height, vae.width, vae.threads, vae.compile) == (32, 64, 1, True)
