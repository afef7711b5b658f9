"""Ranges of objects on S3 by URLs that are signed once, for a third of the CPU time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import botocore.config
import botocore.session
import urllib3.exceptions
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.reader.pieces import Piece
from pipeline.storage import Store

_SIGNED_SECONDS = 3600
_USED_SECONDS = 300.0
"""How long a URL is used: less than what credentials are still good for when they are renewed."""

_KEPT_URLS = 16_384
_PARTIAL = 206
_GIVEN_UP = frozenset({301, 302, 307, 400, 401, 403, 405, 501})
"""Answers after which no more is asked for this way: a policy may forbid signed URLs."""


class SignedRanges:
    """Reads ranges of a store's objects straight into memory; for any thread, of one process.

    A client's call takes about 1 ms of CPU time beyond moving the bytes: parameters, signature and
    answer are worked out anew each time, and then the bytes are copied. Here the URL of an object
    is signed once, and requests differ in their range alone. It never fails: it says that it did
    not read, and then the store's own way does, or tells why it cannot be.
    """

    def __init__(self, store: Store, connections: int) -> None:
        self.store, self._connections = store, connections
        self._lock = threading.Lock()
        self._client: Any = None
        self._urls: dict[str, tuple[str, float]] = {}
        self._given_up = False

    def fill(self, path: str, piece: Piece) -> bool:
        """Fill the buffers of a piece; false where that did not work, and they hold anything.

        Raises ``UserError`` for a path that leads out of the store.
        """
        if self._given_up:
            return False
        try:
            with self._answer(path, piece.begin, piece.end) as answer:
                if answer.status != _PARTIAL:
                    self._given_up = answer.status in _GIVEN_UP
                    return False
                return all(_fill(answer, buffer) for buffer in piece.into)
        except (BotoCoreError, ClientError, urllib3.exceptions.HTTPError):
            return False

    @contextmanager
    def _answer(self, path: str, begin: int, end: int) -> Iterator[Any]:
        """The answer's head was read; at the end its connection is free, or closed."""
        wanted = {"Range": f"bytes={begin}-{end - 1}"}
        request = AWSRequest("GET", self._url(path), headers=wanted, stream_output=True)
        # The client's own session: its proxies, certificates, time limits and connections.
        answer = self._client._endpoint.http_session.send(request.prepare()).raw
        try:
            yield answer
        finally:
            if answer.length_remaining:
                answer.close()
            answer.release_conn()

    def _url(self, path: str) -> str:
        url, made = self._urls.get(path, ("", 0.0))
        now = time.monotonic()
        if url and now - made < _USED_SECONDS:
            return url
        filesystem, full = self.store.locate(path)
        with self._lock:
            if self._client is None:
                self._client = _client(filesystem, self._connections)
            if len(self._urls) >= _KEPT_URLS:
                self._urls.clear()
        bucket, key, _ = filesystem.split_path(full)
        params = {"Bucket": bucket, "Key": key}
        url = str(
            self._client.generate_presigned_url(
                "get_object", Params=params, ExpiresIn=_SIGNED_SECONDS
            )
        )
        self._urls[path] = url, now
        return url


@lru_cache(maxsize=8)
def _client(filesystem: Any, connections: int) -> Any:
    """A client with the settings of an s3fs filesystem, of which each process has its own.

    It is kept: making one takes as long as reading 100 MB.
    """
    config = dict(filesystem.config_kwargs)
    config["max_pool_connections"] = connections
    # By itself botocore signs URLs of older regions in a way that encrypted objects refuse.
    config["signature_version"] = botocore.UNSIGNED if filesystem.anon else "s3v4"
    options = {
        "aws_access_key_id": filesystem.key,
        "aws_secret_access_key": filesystem.secret,
        "aws_session_token": filesystem.token,
        "endpoint_url": filesystem.endpoint_url,
        "use_ssl": filesystem.use_ssl,
        **filesystem.client_kwargs,
    }
    session = botocore.session.Session(**filesystem.kwargs)
    return session.create_client("s3", config=botocore.config.Config(**config), **options)


def _fill(answer: Any, buffer: memoryview) -> bool:
    at = 0
    while at < len(buffer):
        count = answer.readinto(buffer[at:])
        if not count:
            return False
        at += count
    return True
