"""Tar files in the WebDataset convention: which samples they hold, and where in the file.

Members with one key form a sample: ``key.mp4`` with ``key.json`` (a mapping of columns) and
``key.txt`` (a caption). The key is the name without its last suffix, or else up to the first dot
of its last part. Only headers and text members are read, hopping over the videos.
"""

import dataclasses
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipeline.config import StorageConfig
from pipeline.errors import Reason, SourceError, UserError
from pipeline.identity import stable_hash
from pipeline.reading import Source, open_source
from pipeline.storage import Store

INDEX_VERSION = 1

_THREADS = 16
_MOST_TEXT = 2**20
"""Bytes of a json or txt member, or of an extended header, at the most."""


@dataclass(frozen=True)
class Sample:
    """A video or image of a tar file; ``member`` is empty where the tar file itself is at fault.

    ``columns`` are those of its json, ``text`` is its txt; ``reason`` and ``message`` say why it
    cannot be read.
    """

    member: str
    offset: int = 0
    size: int = 0
    columns: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    reason: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class TarIndex:
    """What one version of a tar file holds. ``note`` tells of what is odd but does no harm."""

    samples: tuple[Sample, ...]
    note: str | None = None


@dataclass(frozen=True)
class Shelf:
    """Where what was found in a dataset is kept between runs: the cache's folder ``listings``."""

    store: Store
    writes: bool

    def _path(self, uri: str, version: str) -> str:
        return f"listings/{stable_hash(['tar', INDEX_VERSION, uri, version])}.json"

    def get(self, uri: str, version: str) -> TarIndex | None:
        """The index that an earlier run kept, or None."""
        try:
            fields = json.loads(self.store.read(self._path(uri, version)))
            samples = tuple(Sample(**sample) for sample in fields["samples"])
            return TarIndex(samples, fields["note"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none is kept, or not a whole one: the tar file is read

    def put(self, uri: str, version: str, index: TarIndex) -> None:
        """Keep an index. Raises ``UserError``: the cache cannot be written."""
        fields = {"tar": uri, "version": version, **dataclasses.asdict(index)}
        self.write(self._path(uri, version), json.dumps(fields).encode())

    def write(self, path: str, data: bytes) -> None:
        """Keep a file, where the run is one that writes. Raises ``UserError``."""
        if not self.writes:
            return
        try:
            self.store.write(path, data)
        except OSError as error:
            raise UserError(
                f"output.uri {self.store.uri} cannot be written: {error}; check its access rights"
            ) from error


def index_tars(
    files: Sequence[tuple[str, str]],
    suffixes: frozenset[str],
    storage: StorageConfig,
    shelf: Shelf | None,
) -> list[TarIndex]:
    """Indexes of tar files, given as (URI, version), in the same order.

    Raises ``UserError`` where a tar file cannot be reached, or changed since it was listed: a part
    of a dataset must not pass for the whole.
    """

    def index(file: tuple[str, str]) -> TarIndex:
        uri, version = file
        found = None if shelf is None else shelf.get(uri, version)
        if found is None:
            found = _index(uri, version, suffixes, storage)
            if shelf is not None:
                shelf.put(uri, version, found)
        return found

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(index, files))


def _index(uri: str, version: str, suffixes: frozenset[str], storage: StorageConfig) -> TarIndex:
    try:
        with open_source(uri, version, storage, "probe") as file:
            found = _walk(file, suffixes)
            file.verify()
    except SourceError as error:
        if error.reason is Reason.EMPTY_FILE:
            return TarIndex((_fault(error.message, Reason.EMPTY_FILE),))
        raise UserError(
            f"dataset.uri: the tar file {uri} cannot be listed ({error.reason}): {error.message}; "
            "run again when it is there and no longer written to"
        ) from error
    return found


def _fault(message: str, reason: Reason = Reason.INVALID_DATA) -> Sample:
    return Sample("", reason=str(reason), message=message)


class _Headers:
    """The file as ``tarfile`` sees it: reads as long as no honest header needs are refused."""

    def __init__(self, file: Source) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MOST_TEXT:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return _exactly(self._file, count)


def _exactly(file: Source, count: int) -> bytes:
    parts = []
    while count > 0 and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@dataclass
class _Found:
    """Members of one tar file, while it is walked through."""

    suffixes: frozenset[str]
    media: list[tarfile.TarInfo] = field(default_factory=list)
    texts: dict[str, bytes | None] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)

    def add(self, member: tarfile.TarInfo, file: Source) -> None:
        suffix = PurePosixPath(member.name).suffix.lower()
        is_text = suffix in (".json", ".txt")
        if not (is_text or suffix in self.suffixes) or member.isdir():
            return
        name = _with_low_suffix(member.name) if is_text else member.name
        self.names[name] += 1
        if not is_text:
            self.media.append(member)
            return
        self.texts[name] = None
        if member.isreg() and member.size <= _MOST_TEXT:
            file.seek(member.offset_data)
            data = _exactly(file, member.size)
            self.texts[name] = data if len(data) == member.size else None


def _walk(file: Source, suffixes: frozenset[str]) -> TarIndex:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    found = _Found(suffixes)
    broken, note, end = None, None, 0
    try:
        tar = tarfile.TarFile(
            fileobj=_Headers(file),  # type: ignore[arg-type]
            encoding="utf-8",
            errors="backslashreplace",
        )
        while (member := tar.next()) is not None:
            if member.size < 0 or tar.offset <= end:
                raise tarfile.ReadError("a member of negative size")
            end = tar.offset
            found.add(member, file)
            if member.isreg() and member.offset_data + member.size > size:
                broken = f"is cut off within its member {member.name}"
                break
        else:
            end = tar.offset
            file.seek(end)
            block = _exactly(file, tarfile.BLOCKSIZE)
            if not block:
                note = "ends without an end marker; it may be cut off"
            elif block.strip(b"\0"):
                broken = f"has no header of a member at byte {end}, where one must be"
    except (tarfile.TarError, ValueError, OverflowError, LookupError, EOFError) as error:
        broken = f"is damaged behind byte {end}: {error}" if end else f"is no tar file: {error}"
        if file.seek(0) == 0 and file.read(2) == b"\x1f\x8b":
            broken = "is compressed, so that no part can be read by itself; uncompress it"
    samples = [_sample(found, member, size) for member in _once(found.media)]
    if broken is not None:
        samples.append(_fault(f"the tar file {broken}"))
    elif not samples:
        note = "holds no videos or images"
    return TarIndex(tuple(samples), note)


def _once(members: Sequence[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    return list({member.name: member for member in members}.values())


def _sample(found: _Found, member: tarfile.TarInfo, size: int) -> Sample:
    sample = Sample(member.name, member.offset_data, member.size)
    stem = str(PurePosixPath(member.name).with_suffix(""))
    folder, slash, base = member.name.rpartition("/")
    key = f"{folder}{slash}{base.split('.', 1)[0]}"
    try:
        _check(found, member, size)
        text, columns = None, {}
        for suffix in (".json", ".txt"):
            beside = next((k + suffix for k in (stem, key) if k + suffix in found.texts), None)
            if beside is None:
                continue
            if found.names[beside] > 1:
                raise _bad(f"the tar file holds {beside} {found.names[beside]} times")
            if suffix == ".json":
                columns = _columns(found.texts[beside], beside)
            else:
                text = _text(found.texts[beside], beside)
    except SourceError as error:
        return dataclasses.replace(sample, reason=str(error.reason), message=error.message)
    return dataclasses.replace(sample, columns=columns, text=text)


def _bad(message: str) -> SourceError:
    return SourceError(Reason.INVALID_DATA, message)


def _check(found: _Found, member: tarfile.TarInfo, size: int) -> None:
    """Refuse what is no plain, whole, unique member."""
    if found.names[member.name] > 1:
        raise _bad(f"the tar file holds {member.name} {found.names[member.name]} times")
    if not member.isreg():
        raise _bad(f"{member.name} is a link or a special file, which are not followed")
    if member.issparse():
        raise _bad(f"{member.name} is stored as a sparse file; store it whole")
    if member.offset_data + member.size > size:
        raise _bad(f"the tar file is cut off within {member.name}")


def _with_low_suffix(name: str) -> str:
    return re.sub(r"\.[^.]*$", lambda found: found[0].lower(), name)


def _text(data: bytes | None, name: str) -> str:
    if data is None:
        raise _bad(f"{name} is cut off, a link, or longer than {_MOST_TEXT} bytes")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise _bad(f"{name} is not UTF-8 text: {error}") from error


def _columns(data: bytes | None, name: str) -> dict[str, Any]:
    try:
        columns = json.loads(_text(data, name))
    except (ValueError, RecursionError) as error:
        raise _bad(f"{name} is not JSON: {error}") from error
    if not isinstance(columns, dict):
        raise _bad(f"{name} is not a JSON object of columns")
    return columns
