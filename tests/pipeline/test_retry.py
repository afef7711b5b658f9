"""Retrying: which errors may pass, and one budget for all attempts."""

import errno
from types import SimpleNamespace

import aiohttp
import botocore.exceptions
import botocore.parsers
import pytest
from fsspec.exceptions import FSTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from s3fs.utils import FileExpired

from pipeline.retry import LONGEST_DELAY_S, Retry, may_pass


def s3_error(status, code="", kind=OSError):
    """An error of s3fs with the answer that caused it."""
    error = kind(errno.EIO, "told by the server")
    error.__cause__ = botocore.exceptions.ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )
    return error


def http_error(status):
    return aiohttp.ClientResponseError(
        SimpleNamespace(real_url="http://x"),  # type: ignore[arg-type]
        (),
        status=status,
    )


def delta_error(status):
    """An error of delta-rs, which tells the status in its text alone."""
    return OSError(
        "Generic S3 error\n  \x1b[31m↳\x1b[0m Error performing GET http://x in 2ms - "
        f"Server returned non-2xx status code\n   \x1b[31m↳\x1b[0m {status} Words\n"
    )


NO_HTTP = OSError(
    "Kernel error -> Generic S3 error\n  \x1b[31m↳\x1b[0m Error performing GET http://x in 5ms - "
    "HTTP error\n   \x1b[31m↳\x1b[0m builder error\n    \x1b[31m↳\x1b[0m URL scheme is not "
    "allowed\n"
)

PASSING = [
    TimeoutError(),
    FSTimeoutError(),
    ConnectionResetError(),
    OSError(errno.EIO, "bare"),
    aiohttp.ClientPayloadError(),
    aiohttp.ServerDisconnectedError(),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
    botocore.exceptions.ConnectionClosedError(endpoint_url="http://x"),
    botocore.exceptions.ConnectTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
    botocore.exceptions.FlexibleChecksumError(error_msg="differs"),
    botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    botocore.parsers.ResponseParserError("cut short"),
    *(s3_error(status) for status in (408, 425, 429, 500, 502, 503, 504)),
    s3_error(400, "RequestTimeout"),
    s3_error(409, "OperationAborted"),
    s3_error(409, "ConditionalRequestConflict"),
    *(http_error(status) for status in (408, 429, 500, 503)),
    *(delta_error(status) for status in (429, 500, 503)),
    OSError("Generic S3 error: connection error"),
]
PERMANENT = [
    FileNotFoundError(),
    PermissionError(),
    FileExistsError(),
    IsADirectoryError(),
    NotADirectoryError(),
    FileExpired("x", "etag"),
    ValueError(),
    KeyError(),
    botocore.exceptions.NoCredentialsError(),
    *(s3_error(status) for status in (301, 400, 403, 404, 409, 412, 416)),
    s3_error(403, "AccessDenied", PermissionError),
    s3_error(404, "NoSuchKey", FileNotFoundError),
    *(http_error(status) for status in (400, 401, 403, 404, 410)),
    *(delta_error(status) for status in (400, 403, 412)),
    NO_HTTP,
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_errors_that_may_pass(error):
    assert may_pass(error)


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_errors_that_stay(error):
    assert not may_pass(error)


class Time:
    """A clock that only sleeping and the function's own work move."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def retry(self, seconds):
        return Retry(seconds, sleep=self.sleep, clock=lambda: self.now)


class Function:
    """Fails with one error after the other, then answers; each call takes ``work`` seconds."""

    def __init__(self, time, errors, work=0.0):
        self.time, self.errors, self.work = time, list(errors), work
        self.calls = 0

    def __call__(self):
        self.calls += 1
        self.time.now += self.work
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_the_answer_comes_after_errors_that_pass():
    time = Time()
    function = Function(time, PASSING[:5])
    assert time.retry(60).call(function) == "answer"
    assert function.calls == 6
    assert len(time.slept) == 5


@pytest.mark.parametrize("error", PERMANENT, ids=repr)
def test_a_permanent_error_is_met_once(error):
    time = Time()
    function = Function(time, [error])
    with pytest.raises(type(error)) as met:
        time.retry(60).call(function)
    assert met.value is error
    assert (function.calls, time.slept) == (1, [])


def test_a_permanent_error_ends_what_began_with_a_passing_one():
    time = Time()
    function = Function(time, [TimeoutError(), PermissionError(), TimeoutError()])
    with pytest.raises(PermissionError):
        time.retry(60).call(function)
    assert function.calls == 2


def test_interruptions_are_no_errors():
    function = Function(Time(), [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        Retry(60).call(function)
    assert function.calls == 1


@given(
    budget=st.floats(0, 120),
    work=st.floats(0, 30),
    failures=st.integers(0, 60),
)
def test_waiting_stays_within_the_budget(budget, work, failures):
    time = Time()
    begun = time.now
    errors = [TimeoutError(str(number)) for number in range(failures)]
    function = Function(time, errors, work)
    outcome = "answer"
    try:
        assert time.retry(budget).call(function) == outcome
    except TimeoutError as error:
        outcome = str(error)
    assert outcome in ("answer", str(function.calls - 1))  # else the last one
    assert sum(time.slept) <= budget + 1e-6
    assert time.now - begun <= budget + work + 1e-6  # no attempt begins after the budget
    assert len(time.slept) == function.calls - 1
    for number, wait in enumerate(time.slept):
        assert 0 <= wait <= min(0.1 * 2**number, LONGEST_DELAY_S)


def test_without_a_budget_there_is_one_attempt():
    time = Time()
    function = Function(time, [TimeoutError()] * 3)
    with pytest.raises(TimeoutError):
        time.retry(0).call(function)
    assert function.calls == 1


def test_many_workers_come_back_at_different_times():
    waits = set()
    for _ in range(20):
        time = Time()
        time.retry(60).call(Function(time, [TimeoutError()]))
        waits.add(time.slept[0])
    assert len(waits) > 15
