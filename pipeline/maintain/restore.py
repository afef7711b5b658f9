"""Restore: an earlier state becomes the newest snapshot again."""

from pipeline.errors import UserError
from pipeline.maintain.republish import new_maintenance_id, publish_after
from pipeline.manifest import Manifest, Snapshot


def restore(manifest: Manifest, number: int) -> Snapshot:
    """Publish a new snapshot equal to an earlier one.

    The tables stay as they are, so the next refresh brings the dataset's state again. Raises
    ``UserError`` when there is no such snapshot, or when it is what readers see already.
    """
    wanted, newest = manifest.snapshot(number), manifest.snapshot()
    if wanted.tables == newest.tables and wanted.contract == newest.contract:
        raise UserError(
            f"{manifest.store.uri}: snapshot {newest.number}, the newest, equals snapshot "
            f"{number} already; nothing to restore"
        )
    return publish_after(
        manifest, newest, new_maintenance_id("restore"), wanted.contract, wanted.tables
    )
