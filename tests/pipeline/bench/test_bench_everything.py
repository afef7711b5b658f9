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
    tree = config_tree(tmp_path, tmp_path / "cache", output__format="parquet")
    config = str(write_config(tmp_path / "config.yaml", tree))
    arguments = ["--limit", "7", "--set", "run.decode_tasks=3", "--output", "/elsewhere"]
    assert main(["all", "--config", config, *arguments]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ("decode", "vae", "write", "read", "refresh", "pipeline")
    assert last == {name: {"command": name} for name in names}
    assert called["pipeline"].limit == 7
    assert called["write"].output == called["read"].output == "/elsewhere"
    assert called["read"].format == "parquet"
    assert {tuple(called[name].set) for name in names if name != "refresh"} == {
        ("run.decode_tasks=3",)
    }
