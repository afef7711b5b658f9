"""Reading without threads: a local file needs no patience."""

from concurrent.futures import Executor, Future
from typing import Any


class Here(Executor):
    """Does everything at once, in the calling thread."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """A future that is done, with the result or the error."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (the future raises it)
            future.set_exception(error)
        return future
