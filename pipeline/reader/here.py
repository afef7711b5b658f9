"""Reading without threads: a local file needs no patience."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.shards import ShardError


class Read(Protocol):
    """A read that was begun, or will be: the part of a ``Future`` that is needed."""

    def result(self) -> None:
        """Wait until it is done. Raises what it raised."""

    def cancel(self) -> object:
        """Do not begin it, if that is possible."""


class Later:
    """A call that is made by the one who wants its result."""

    __slots__ = ("_arguments", "_function")

    def __init__(self, function: Callable[..., None], /, *arguments: Any) -> None:
        self._function, self._arguments = function, arguments

    def result(self) -> None:
        """Make the call."""
        self._function(*self._arguments)

    def cancel(self) -> None:
        """Nothing was begun."""


class Together:
    """One read for several clips, made once. Where it fails, each clip is read by itself."""

    __slots__ = ("_read", "_sound")

    def __init__(self, read: Read) -> None:
        self._read = read
        self._sound: bool | None = None

    @property
    def sound(self) -> bool:
        """Whether all of it could be read."""
        if self._sound is None:
            try:
                self._read.result()
                self._sound = True
            except ShardError:
                self._sound = False
        return self._sound


class Part:
    """A clip's share of a read that is made together; ``alone`` gives its own reads."""

    __slots__ = ("_alone", "_together")

    def __init__(self, together: Together, alone: Callable[[], Sequence[Read]]) -> None:
        self._together, self._alone = together, alone

    def result(self) -> None:
        """Read. Raises what the clip's own reads do."""
        if not self._together.sound:
            for read in self._alone():
                read.result()

    def cancel(self) -> None:
        """Nothing was begun."""
