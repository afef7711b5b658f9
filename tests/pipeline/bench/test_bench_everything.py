"""All stages of one configuration: every command is called with what the configuration says."""

import json

import pytest

from jobs.benchmark import main
from pipeline.bench import everything
from pipeline.errors import UserError
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
    arguments += ["--dataset", "/videos"]
    assert main(["all", "--config", config, *arguments]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ("decode", "vae", "write", "read", "refresh", "pipeline")
    assert last == {name: {"command": name} for name in names}
    assert called["pipeline"].limit == 7
    assert called["pipeline"].output == "/elsewhere"
    assert called["read"].format == "parquet"
    assert {tuple(called[name].set) for name in names if name != "refresh"} == {
        ("run.decode_tasks=3", 'dataset.uri="/videos"', 'output.uri="/elsewhere"')
    }


def test_the_others_go_on_where_one_fails(tmp_path, called, capsys, monkeypatch):
    def run(args):
        raise UserError("no memory")

    monkeypatch.setattr(everything._MODULES["vae"], "run", run)
    config = write_config(tmp_path / "config.yaml", config_tree(tmp_path, tmp_path / "cache"))
    assert main(["all", "--config", str(config)]) == 1
    printed = capsys.readouterr()
    assert set(json.loads(printed.out.splitlines()[-1])) == set(everything._MODULES) - {"vae"}
    assert "error: vae: no memory" in printed.err
    assert printed.err.splitlines()[-1] == "error: vae failed; see the errors above"
