"""A decoder that sleeps, spins, allocates or kills itself: see ``sitecustomize.py``."""

from pathlib import Path

FOLDER = str(Path(__file__).parent)
"""On the path of a process, it makes that process's decoders obey."""


def marked(clip: Path, path: Path, when: str, how: str, count: int = 0) -> Path:
    """A copy of a video that makes the stand-in break down.

    ``when`` is ``look`` or ``decode``, and then behind ``count`` results; ``how`` a key of
    ``sitecustomize.WAYS``, or ``once``: the next file that this decoder gets kills it.
    """
    order = f"STAND-IN:{when}:{how}:{count}".encode().ljust(64, b"\0")
    path.write_bytes(clip.read_bytes() + order)
    return path
