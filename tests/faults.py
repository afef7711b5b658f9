"""A proxy before the S3 server that records every request and injects faults by rules.

Clients sign for the proxy's address; it passes path, query, ``Host`` and all signed headers on as
they are, so that the server finds the signature valid. A request that meets several rules suffers
the first whose turn it is.
"""

import asyncio
import contextlib
import functools
import os
import random
import re
import signal
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import aiohttp
import yarl
from aiohttp import web

from pipeline.config import StorageConfig
from tests import processes
from tests.s3 import S3

Kind = Literal["status", "latency", "reset", "truncate", "corrupt", "lost_answer", "call"]

_CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_CHUNK = 64 * 1024


@dataclass
class Rule:
    """What happens to which requests.

    ``status`` answers ``status`` (with ``code`` in the XML) and ``reset`` drops the connection,
    both without asking the server; ``latency`` waits ``seconds`` first; ``truncate`` sends half of
    the answer's body, ``corrupt`` flips a bit somewhere in it; ``lost_answer`` lets the
    server do it and drops the answer, or says ``status`` in its place; ``call`` runs ``action``
    (in a thread of its own) before the request goes on.

    With ``kill``, ``reset`` and ``lost_answer`` also kill the process that sent the request:
    before the server hears of it, or when the server has done it.

    ``method`` and ``key`` (``bucket/key``) are regular expressions, for a full match and a search;
    ``sender`` is one for the sending process's command line.
    Each request that meets them is hit with ``probability``, but not the first ``skip``, and at
    most ``times`` are. ``truncate`` and ``corrupt`` pass answers without a body by.
    """

    kind: Kind
    method: str = ".*"
    key: str = ""
    probability: float = 1.0
    skip: int = 0
    times: int | None = None
    seed: int = 0
    status: int | None = None
    code: str | None = None
    seconds: float = 0.02
    action: Callable[[], object] | None = None
    sender: str = ""
    kill: bool = False
    hits: int = 0
    _met: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self, stop: int) -> int:
        """A number below ``stop``."""
        return self._random.randrange(stop)

    def strikes(
        self, method: str, key: str, sender: Callable[[], int | None] = lambda: None
    ) -> bool:
        """Whether it is the turn of this request; each call draws.

        ``sender`` finds the process that sent it, which takes long: it is asked where it matters.
        """
        if self.times is not None and self.hits >= self.times:
            return False
        if not re.fullmatch(self.method, method) or not re.search(self.key, key):
            return False
        if self.sender:
            process = sender()
            if process is None or not re.search(self.sender, processes.command(process)):
                return False
        self._met += 1
        drawn = self._random.random() < self.probability
        return drawn and self._met > self.skip


@dataclass(frozen=True)
class Request:
    """A request as it reached the proxy, and what it sent back."""

    method: str
    key: str
    query: str
    range: str | None
    if_match: str | None
    if_none_match: str | None
    received: int = 0
    """Bytes of the request's body, as its header says."""
    sent: int = 0
    """Bytes of body that were sent back."""
    status: int | None = None
    """None where the connection was dropped before any answer."""
    fault: Kind | None = None
    began: float = 0.0


class FaultProxy:
    """A running proxy. ``requests`` grows as answers end, in this order."""

    def __init__(self, server: S3) -> None:
        self._server = server
        self._rules: list[Rule] = []
        self._session: aiohttp.ClientSession | None = None
        self._requests: list[Request] = []
        self._answering = 0
        self.endpoint = ""

    @property
    def storage(self) -> StorageConfig:
        """The server's settings with the proxy's address."""
        return self._server.storage.model_copy(update={"endpoint_url": self.endpoint})

    @property
    def requests(self) -> list[Request]:
        """The requests so far: a client has the last byte before the proxy has ended an answer."""
        self._settle()
        return list(self._requests)

    def _settle(self) -> None:
        """Give answers that are under way a second to end."""
        deadline = time.monotonic() + 1
        while self._answering and time.monotonic() < deadline:
            time.sleep(0.002)

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force, behind the earlier ones; returns it, to look at its ``hits``."""
        self._rules = [*self._rules, rule]
        return rule

    def clear(self) -> None:
        """Forget all rules and the requests so far."""
        self._settle()
        self._rules = []
        self._requests = []

    def of(self, key: str, method: str = ".*") -> list[Request]:
        """Requests whose key contains the regular expression ``key``."""
        return [
            r for r in self.requests if re.search(key, r.key) and re.fullmatch(method, r.method)
        ]

    # ---- in the proxy's thread

    async def serve(self, sock: socket.socket, stop: asyncio.Event) -> None:
        """Answer requests until ``stop``."""
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            runner = web.ServerRunner(web.Server(self._handle, auto_decompress=False))
            await runner.setup()
            site = web.SockSite(runner, sock)
            await site.start()
            await stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        seen = Request(
            method=request.method,
            key=urllib.parse.unquote(path).lstrip("/"),
            query=query,
            range=request.headers.get("Range"),
            if_match=request.headers.get("If-Match"),
            if_none_match=request.headers.get("If-None-Match"),
            received=request.content_length or 0,
            began=time.monotonic(),
        )
        # Every rule draws, so that its sequence does not depend on the others.
        sender = functools.cache(lambda: _sender(request))
        due = [rule for rule in self._rules if rule.strikes(seen.method, seen.key, sender)]
        rule = due[0] if due else None
        process = sender() if rule is not None and rule.kill else None
        self._answering += 1
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            return await self._answer(request, seen, rule, process)
        except (aiohttp.ClientError, ConnectionError):
            _drop(request)
            return web.Response()
        finally:
            self._answering -= 1

    async def _answer(
        self, request: web.BaseRequest, seen: Request, rule: Rule | None, process: int | None
    ) -> web.StreamResponse:
        kind = None if rule is None else rule.kind
        if rule is not None and kind not in ("truncate", "corrupt"):
            rule.hits += 1
            seen = replace(seen, fault=kind)
        if rule is not None and kind == "latency":
            await asyncio.sleep(rule.seconds)
        if rule is not None and kind == "call" and rule.action is not None:
            await asyncio.to_thread(rule.action)
        if rule is not None and kind == "status":
            await request.read()
            return self._refuse(seen, rule)
        if rule is not None and kind == "reset":
            _kill(rule, process)
            self._requests.append(seen)
            _drop(request)
            return web.Response()
        async with self._forwarded(request) as answer:
            if rule is not None and kind == "lost_answer":
                await answer.read()
                _kill(rule, process)
                if rule.status is not None:
                    return self._refuse(seen, rule)
                self._requests.append(seen)
                _drop(request)
                return web.Response()
            return await self._pass_on(request, seen, answer, rule)

    def _forwarded(self, request: web.BaseRequest) -> aiohttp.client._RequestContextManager:
        assert self._session is not None
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP]
        return self._session.request(
            request.method,
            yarl.URL(self._server.endpoint + request.raw_path, encoded=True),
            headers=headers,
            data=request.content if request.body_exists else None,
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            allow_redirects=False,
        )

    def _refuse(self, seen: Request, rule: Rule) -> web.Response:
        status = rule.status or 503
        code = rule.code or _CODES.get(status, "InternalError")
        text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self._requests.append(replace(seen, status=status, sent=len(text)))
        return web.Response(status=status, text=text, content_type="application/xml")

    async def _pass_on(
        self,
        request: web.BaseRequest,
        seen: Request,
        answer: aiohttp.ClientResponse,
        rule: Rule | None,
    ) -> web.StreamResponse:
        length = answer.content_length or 0
        stop = length // 2
        strike = rule.kind if rule is not None and length and request.method != "HEAD" else None
        if rule is not None and strike in ("truncate", "corrupt"):
            rule.hits += 1
            seen = replace(seen, fault=rule.kind)
        if rule is not None and strike == "corrupt":
            stop = rule.draw(length)
        headers = [(k, v) for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP]
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        response.force_close()
        await response.prepare(request)
        sent = 0
        try:
            if request.method != "HEAD":
                async for chunk in answer.content.iter_chunked(_CHUNK):
                    part = chunk
                    here = stop - sent
                    if strike == "corrupt" and 0 <= here < len(chunk):
                        part = chunk[:here] + bytes([chunk[here] ^ 1]) + chunk[here + 1 :]
                    if strike == "truncate" and here <= len(chunk):
                        part = chunk[:here]
                    await response.write(part)
                    sent += len(part)
                    if strike == "truncate" and sent >= stop:
                        break
        finally:
            self._requests.append(replace(seen, status=answer.status, sent=sent))
        if strike == "truncate":
            assert request.transport is not None
            request.transport.close()  # orderly, but early
            return response
        await response.write_eof()
        return response


def _drop(request: web.BaseRequest) -> None:
    """Reset the connection."""
    if request.transport is None:
        return
    sock = request.transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def _sender(request: web.BaseRequest) -> int | None:
    if request.transport is None:
        return None
    port = request.transport.get_extra_info("peername")[1]
    return processes.sender(port, request.transport.get_extra_info("sockname")[1])


def _kill(rule: Rule, process: int | None) -> None:
    if rule.kill:
        assert process is not None, "who sent the request is not known"
        os.kill(process, signal.SIGKILL)


@contextlib.contextmanager
def fault_proxy(server: S3) -> Iterator[FaultProxy]:
    """A proxy before ``server`` on a free loopback port, in a thread of its own.

    Some functions of delta-rs (``history``, ``is_deltatable``) keep Python's lock while they wait
    for an answer, which then cannot come from this thread: they end by their time limit.
    """
    proxy = FaultProxy(server)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(128)
        proxy.endpoint = f"http://127.0.0.1:{sock.getsockname()[1]}"
        thread = threading.Thread(
            target=lambda: loop.run_until_complete(proxy.serve(sock, stop)), name="fault proxy"
        )
        thread.start()
        try:
            yield proxy
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()
