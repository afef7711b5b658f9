"""Tags: names for snapshots that are to stay, as files ``tags/NAME.json``."""

import json
import re
import secrets
from dataclasses import dataclass
from typing import Any

from pipeline.contract import FORMAT_VERSION
from pipeline.errors import UserError
from pipeline.manifest import Manifest, now

TAG_FOLDER = "tags"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Tag:
    """A name for a snapshot; while it is there, ``vacuum`` keeps the snapshot."""

    name: str
    snapshot: int


def check_name(name: str) -> None:
    """Raise ``UserError`` for a name that cannot be a tag."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"tag {name!r}: a name has 1 to 64 of the characters A-Z a-z 0-9 . _ -; choose another"
        )


def read_tags(manifest: Manifest) -> list[Tag]:
    """All tags, by name. Raises ``UserError`` for a file that is no tag."""
    tags = []
    for file in manifest.store.names(TAG_FOLDER):
        name = file.removesuffix(".json")
        if file.endswith(".json") and _NAME.fullmatch(name) and not file.endswith(".tmp"):
            tag = _read(manifest, name)
            if tag is not None:
                tags.append(tag)
    return tags


def _read(manifest: Manifest, name: str) -> Tag | None:
    path = f"{TAG_FOLDER}/{name}.json"
    try:
        fields: Any = json.loads(manifest.store.read(path))
        if fields["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{manifest.store.uri}/{path}: format_version {fields['format_version']!r} cannot "
                f"be read by this t2v-latents, which reads {FORMAT_VERSION}; install the version "
                "that wrote it, or a newer one"
            )
        return Tag(name, int(fields["snapshot"]))
    except FileNotFoundError:  # deleted since it was listed
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest.store.uri}/{path} is not a tag ({type(error).__name__}: {error}); delete "
            "the file, or set the tag again with --force"
        ) from error


def set_tag(manifest: Manifest, name: str, number: int | None, *, force: bool) -> Tag:
    """Tag a snapshot (default: the newest).

    Raises ``UserError`` for a bad name, a missing snapshot, or a tag that exists, but with
    ``force``, which moves it.
    """
    check_name(name)
    tag = Tag(name, manifest.snapshot(number).number)
    path = f"{TAG_FOLDER}/{name}.json"
    fields = {
        "format_version": FORMAT_VERSION,
        "tag": name,
        "snapshot": tag.snapshot,
        "created_at": now().isoformat(timespec="seconds"),
        "nonce": secrets.token_hex(8),  # tells our own file after a lost answer
    }
    data = (json.dumps(fields, indent=2) + "\n").encode()
    if force:
        manifest.store.write(path, data)
    elif not manifest.store.create(path, data):
        held = _read(manifest, name)
        raise UserError(
            f"{manifest.store.uri}: tag {name!r} exists"
            f"{'' if held is None else f' and names snapshot {held.snapshot}'}; choose another "
            "name, or move it with --force"
        )
    # A vacuum may have dropped the snapshot since; it looks for tags after dropping.
    if tag.snapshot not in manifest.snapshot_numbers():
        manifest.store.delete(path)
        raise UserError(
            f"{manifest.store.uri}: snapshot {tag.snapshot} was dropped by a vacuum at this "
            "moment; tag another one"
        )
    return tag


def delete_tag(manifest: Manifest, name: str) -> Tag:
    """Remove a tag; its snapshot stays until a vacuum drops it. Raises ``UserError``: no such."""
    check_name(name)
    held = {tag.name: tag for tag in read_tags(manifest)}
    if name not in held:
        known = ", ".join(sorted(held)) or "none"
        raise UserError(f"{manifest.store.uri}: there is no tag {name!r}; there are: {known}")
    manifest.store.delete(f"{TAG_FOLDER}/{name}.json")
    return held[name]
