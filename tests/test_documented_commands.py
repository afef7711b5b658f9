"""The commands of the README, the docs and the jobs' help: they run, or at least parse."""

import argparse
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import FILES, ROOT, Block, blocks, calls

SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "jobs").glob("*.py"))
BLOCKS = list(blocks())
SHELL = [block for block in BLOCKS if block.language == "sh"]

_BY_CI = {"test"}
"""Targets of make that continuous integration runs, which runs this."""


class _ParsedError(Exception):
    """The command line was understood."""


@pytest.fixture
def parse(monkeypatch):
    """Gives a script its arguments, and stops it when it has parsed them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(*args, **kwargs):
        original(*args, **kwargs)
        raise _ParsedError

    def run(script, arguments):
        module = _load(script)
        with monkeypatch.context() as patched:
            patched.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            try:
                module.main([word for word in arguments if word != "..."])
            except _ParsedError:
                return
            except SystemExit as error:
                pytest.fail(f"{script} {shlex.join(arguments)}: exit code {error.code}")
        pytest.fail(f"{script} does not parse its arguments by argparse")

    return run


def _load(script):
    """The module of a script, which need not lie in a package."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_is_found():
    """A fence that is written otherwise would never be looked at."""
    text = "".join(path.read_text() for path in FILES)
    assert len(re.findall(r"^```(?:sh|bash|shell|console|python|py)\b", text, re.MULTILINE)) == len(
        BLOCKS
    )
    assert text.count("<!-- not run: ") == sum(block.reason is not None for block in BLOCKS)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_are_understood(block, parse):
    """Also those that are not run: the jobs parse them, and make has the targets."""
    makefile = (ROOT / "Makefile").read_text()
    for words in block.commands:
        for script, arguments in calls(words):
            parse(script, arguments)
        if words[0] == "make":
            for target in words[1:]:
                assert "=" in target or re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python"], ids=lambda b: b.place
)
def test_python_compiles_and_finds_what_it_imports(block):
    compile(block.text, block.place, "exec")
    imports = re.findall(r"^(?:from|import) .*$", block.text, re.MULTILINE)
    exec("\n".join(imports), {})


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_the_help_of_a_job_is_a_page_with_examples_that_parse(script, parse, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        _load(script).main(["--help"])
    assert ended.value.code == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 100
    about, _, options = page.partition("\noptions:\n")
    assert "JSON" in about or "Exit codes: " in about
    groups = re.findall(r"^[\w /-]+:$", options, re.MULTILINE)
    usage = about.partition("\n\n")[0]
    assert groups or usage.endswith("...")  # the options of commands are in groups of their own
    assert str(script) in _parsed_examples(about, parse)


@pytest.mark.parametrize(
    "command", ["history", "tag", "restore", "index", "stats", "vacuum", "compact"]
)
def test_the_help_of_a_command_of_maintenance_too(command, parse, capsys):
    script = "jobs/maintain_cache.py"
    with pytest.raises(SystemExit):
        _load(script).main([command, "--help"])
    assert script in _parsed_examples(capsys.readouterr().out, parse)


def _parsed_examples(page, parse):
    """The scripts that the examples of a page call, which understand them."""
    text = re.split(r"Examples?:\n", page)[1].split("\n\n")[0]
    found = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        for called, arguments in calls(shlex.split(line.split("   ")[0])):
            parse(called, arguments)
            found.append(called)
    return found


@pytest.mark.slow
def test_what_is_not_excused_runs(tmp_path):
    """In a copy of what is checked in, one block after the other."""
    checked_in = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, checked_in.stdout.split("\0")):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
        target.chmod((ROOT / name).stat().st_mode)
    (tmp_path / ".venv").symlink_to((ROOT / ".venv").resolve())
    ran = [block for block in BLOCKS if block.reason is None]
    for block in ran:
        done = subprocess.run(
            _program(block),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}\n{done.stdout}\n{done.stderr}"
    assert len(ran) >= 4
    assert (tmp_path / "output" / "demo" / "snapshots" / "1.json").is_file()


def _program(block: Block) -> list[str]:
    if block.language == "python":
        return [sys.executable, "-c", block.text]
    lines = []
    for words in block.commands:
        if words[0] == "make":  # what sets up was made before the tests
            dry = ["--dry-run"] if _BY_CI & set(words) else []
            words = ["make", *dry, "--old-file=.venv/.setup-done", *words[1:]]
        lines.append(shlex.join(words))
    return ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
