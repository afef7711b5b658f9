"""Reading without threads: a local file needs no patience."""

from collections.abc import Callable
from typing import Any, Protocol


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
