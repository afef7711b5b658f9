"""Publishing what maintenance made: a further snapshot on top of the one it began with."""

import datetime
import secrets
from collections.abc import Mapping

from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.manifest import SNAPSHOT_FOLDER, Manifest, Snapshot, now


def new_maintenance_id(command: str) -> str:
    """What snapshots and segments name as their run: the command, UTC time and random digits."""
    return f"{command}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def publish_after(
    manifest: Manifest,
    base: Snapshot,
    run_id: str,
    contract: Contract,
    tables: Mapping[str, int],
) -> Snapshot:
    """Publish ``tables`` as the snapshot after ``base``, by conditional create.

    Raises ``UserError`` when another run published meanwhile: its state must not be hidden.
    """
    created = now().isoformat(timespec="seconds")
    snapshot = Snapshot(base.number + 1, run_id, created, contract, dict(tables))
    path = f"{SNAPSHOT_FOLDER}/{snapshot.number}.json"
    newest = manifest.snapshot().number
    if newest != base.number or not manifest.store.create(path, snapshot.to_json().encode()):
        raise UserError(
            f"{manifest.store.uri}: another run published snapshot {base.number + 1} meanwhile; "
            "nothing was published here. Run the command again"
        )
    return snapshot
