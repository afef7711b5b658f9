"""Messages between a process and its decoders: a letter, a payload, perhaps file descriptors.

What comes from a decoder is JSON, numbers and bytes, never a pickle: it has read untrusted files.
"""

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

_HEADER = struct.Struct("<cQ")

JOB = b"J"
"""To a decoder: a pickled ``Job``."""
DATA = b"D"
"""To a decoder: bytes of the file, as it asked for. From it: frames that are not shared."""
REFUSED = b"E"
"""To a decoder: reading failed; JSON of reason and message."""
TAKEN = b"T"
"""To a decoder: a segment was taken, another may come; JSON of pieces of memory that are free."""
READ = b"R"
"""From a decoder: offset and count that it wants of the file."""
SEGMENT = b"S"
"""From a decoder: JSON of a segment, with the descriptor of its frames, or none and ``DATA``."""
ANSWER = b"A"
"""From a decoder: JSON of anything else that it found."""
BROKEN = b"X"
"""From a decoder: it gives up, and ends; JSON of reason and message."""
DONE = b"."
"""From a decoder: the job is done."""
FORK = b"F"
"""To the server of decoders: a socket and a counter, for a new decoder; answered by its id."""
WAIT = b"W"
"""To the server of decoders: an id; answered by how that decoder ended, once it has."""

SPAN = struct.Struct("<QQ")
"""Offset and count of ``READ``."""
NUMBER = struct.Struct("<q")
"""A process id, or a wait status."""
COUNTER = struct.Struct("<d")
"""Seconds of video decoded so far, in the memory that a decoder shares."""

MOST_BYTES = 64 * 2**20
"""A payload that is longer is no message."""


class Message(NamedTuple):
    """What was received."""

    kind: bytes
    payload: bytes
    descriptors: list[int]


def send(
    sock: socket.socket, kind: bytes, payload: bytes = b"", descriptors: Sequence[int] = ()
) -> None:
    """Send a message. Raises ``OSError`` where the other end is gone."""
    header = _HEADER.pack(kind, len(payload))
    if descriptors:
        socket.send_fds(sock, [header], descriptors)
        sock.sendall(payload)
    else:
        sock.sendall(header + payload)


def receive(sock: socket.socket) -> Message:
    """Wait for a message. Raises ``EOFError`` or ``OSError`` where the other end is gone."""
    header, descriptors, _, _ = socket.recv_fds(sock, _HEADER.size, 4)
    header += _exactly(sock, _HEADER.size - len(header))
    kind, length = _HEADER.unpack(header)
    if length > MOST_BYTES:
        raise EOFError(f"a message of {length} bytes")
    return Message(kind, _exactly(sock, length), list(descriptors))


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view = memoryview(data)
    while view:
        got = sock.recv_into(view)
        if not got:
            raise EOFError("the other end is closed")
        view = view[got:]
    return bytes(data)
