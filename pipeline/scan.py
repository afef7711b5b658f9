"""Delta tables as Arrow datasets, whose threads hand back what they borrow before Python ends."""

import atexit
import re
import time
import weakref
from collections.abc import Iterable
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from pipeline.errors import UserError

T = TypeVar("T")

_LONGEST_WAIT_S = 5.0
_LOOK_S = 0.001

_lent: list["weakref.ref[Any]"] = []
"""Each object of Python that Arrow's threads may hold, for as long as it lives."""


def open_dataset(table: DeltaTable) -> ds.Dataset:
    """The rows of a table, to be scanned.

    Files and their bytes are objects of Python. Arrow's threads let go of the last of them after a
    scan has given its result, and need the interpreter for it: were that gone, the process would
    abort. So it waits for them at its end. Raises ``UserError`` where the log names a file outside
    of the table, or one twice.
    """
    sizes = table._table.get_add_file_sizes()
    check_inside(table.table_uri, sizes)
    if len(table.file_uris()) != len(sizes):
        raise UserError(
            f"{table.table_uri}: its log names a file twice, as with a deletion vector, which no "
            "run writes: something else changed the cache. Go back to a copy of its _delta_log"
        )
    files = _lend(_Files.from_table(table._table, table._storage_options, sizes))
    return table.to_pyarrow_dataset(filesystem=pa_fs.PyFileSystem(files))


_OUTSIDE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*:|(.*/)?\.\.(/|$)")
"""Paths from the root, URIs, and paths that lead up."""


def check_inside(table_uri: str, paths: Iterable[str]) -> None:
    """Raise ``UserError`` where a table's log names a file that is none of the table's.

    Nothing of this project writes such a name, and nothing would open it: delta-rs keeps to the
    table's folder.
    """
    for path in paths:
        if _OUTSIDE.match(path) or "\0" in path or "\\" in path:
            raise UserError(
                f"{table_uri}: its log names the file {path!r}, which lies outside of the table: "
                "something else changed the cache. Go back to a copy of its _delta_log"
            )


class _Files(DeltaStorageHandler):
    """The files of a table, as delta-rs reads them; each is lent."""

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(_lend(_File(self._handler.open_input_file(path))), mode="r")


class _File:
    """An open file whose bytes are lent."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def read(self, count: int) -> memoryview:
        return _lend(memoryview(self._raw.read(count)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _lend(thing: T) -> T:
    # The callback runs no line of Python: a thread at the end of its work could lose the
    # interpreter between two of them, when nothing is lent any more.
    _lent.append(weakref.ref(thing, _lent.remove))
    return thing


@atexit.register
def _wait() -> None:
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while _lent and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
