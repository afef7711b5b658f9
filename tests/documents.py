"""The code blocks of the README and the docs, and which of them are run.

A block of ``sh`` or ``python`` is run, in the order of the text, unless the line above it says
``<!-- not run: REASON -->``. Blocks of other languages are output or files.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "vae" / "README.md")

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n)?"
    r"^```(?P<language>sh|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block, and why it is not run; None where it is."""

    place: str
    language: str
    text: str
    reason: str | None

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a block of ``sh``, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks() -> Iterator[Block]:
    """All of them."""
    for path in FILES:
        text = path.read_text()
        for found in _BLOCK.finditer(text):
            line = text[: found.start("text")].count("\n")
            place = f"{path.relative_to(ROOT)}:{line}"
            yield Block(place, found["language"], found["text"], found["reason"])


def calls(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Script and arguments, where a command is a Python script of this repository."""
    for index, word in enumerate(words):
        path = word.removeprefix("/app/")
        if re.fullmatch(r"(jobs|infra)/\w+\.py", path):
            yield path, words[index + 1 :]
            return
