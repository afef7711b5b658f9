"""Caption files beside videos: read once for each version, and kept with the cache."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import StorageConfig
from pipeline.errors import UserError
from pipeline.identity import stable_hash
from pipeline.retry import Retry
from pipeline.storage import open_filesystem, protocol_of
from pipeline.tars import Shelf

KEPT = pa.schema([("uri", pa.string()), ("version", pa.string()), ("text", pa.string())])

_THREADS = 16


def read_captions(
    dataset: str, files: pa.Table, storage: StorageConfig, shelf: Shelf | None
) -> pa.Table:
    """The texts of caption files, with the columns of ``KEPT``, in order.

    ``files`` has the columns uri and version. Those of a remote store are kept on the shelf, one
    file for a dataset, so that only new versions are read. Raises ``UserError``: not UTF-8, or the
    cache cannot be written.
    """
    remote = shelf is not None and protocol_of(dataset) != "file"
    path = f"listings/{stable_hash(['captions', dataset])}.parquet"
    known = _kept(shelf, path) if shelf is not None and remote else KEPT.empty_table()
    at = pc.index_in(_keys(files), _keys(known).combine_chunks())
    texts = known["text"].take(at).to_pylist()
    uris = files["uri"].to_pylist()
    unknown = [row for row, text in enumerate(texts) if text is None]
    retry = Retry(storage.retry_seconds)

    def read(row: int) -> str:
        filesystem, name = open_filesystem(uris[row], storage)
        return _decode(retry.call(lambda: filesystem.cat_file(name)), uris[row])

    with ThreadPoolExecutor(_THREADS) as pool:
        for row, text in zip(unknown, pool.map(read, unknown), strict=True):
            texts[row] = text
    found = pa.table([files["uri"], files["version"], pa.array(texts, pa.string())], schema=KEPT)
    if shelf is not None and remote and (unknown or found.num_rows != known.num_rows):
        shelf.write(path, _as_parquet(found))
    return found


def _keys(files: pa.Table) -> pa.ChunkedArray:
    """URI and version as one text; null, which equals nothing, where the version is unknown."""
    keys = pc.binary_join_element_wise(files["version"], files["uri"], " ")
    return keys if isinstance(keys, pa.ChunkedArray) else pa.chunked_array([keys])


def _kept(shelf: Shelf, path: str) -> pa.Table:
    """What an earlier run kept; nothing where that is not there or not whole."""
    try:
        table = pq.read_table(pa.BufferReader(shelf.store.read(path)), schema=KEPT)
    except (OSError, pa.ArrowException):
        return KEPT.empty_table()
    return table.filter(pc.is_valid(table["version"]))


def _as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _decode(data: bytes, uri: str) -> str:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"the caption file {uri} is not UTF-8 text: {error}") from error
