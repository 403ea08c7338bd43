"""The fence: the source's schema gets another name, so that every statement for the partition fails there.

Renaming a schema locks no table. It is done while the move still holds the EXCLUSIVE locks under which it copied, and
without asking for more: an upgrade to ACCESS EXCLUSIVE would be in a deadlock with every transaction that has read the
partition and now waits to write it. Once the rename is committed,

- whoever takes a lock on one of the tables for the first time in his transaction learns of the new name and gets 42P01
  `undefined_table`. This is every write, because no transaction had a lock for writing; it is every statement of a
  transaction that had not touched the table, whatever its isolation level and its snapshot;
- but a transaction that had *read* a table keeps its ACCESS SHARE lock, and a prepared statement or a PL/pgSQL function
  with a cached plan may go on reading that table: PostgreSQL takes note of changes when it acquires a lock, and here it
  has it. In READ COMMITTED such a read would be stale once the target is written.

So after the rename the move waits, in `drain`, until all transactions that had read are gone, and only then flips. A
long report would make the partition unavailable meanwhile; therefore the rename waits for those that are old already.
"""

from __future__ import annotations

from shardpool.errors import CutoverTimeout, OwnershipAmbiguous
from shardpool.moves.holders import OLD, Ages, Holder, read_holders, readers, wait_until_none
from shardpool.moves.layout import schemas_of
from shardpool.moves.move import Move
from shardpool.topology.names import quote

#: So long the fence of a block move waits for old readers before it renames, in seconds.
READER_PATIENCE = 5.0
#: How long the partition may be on neither side, in seconds, while readers end.
DRAIN_PATIENCE = 3.0


def fence(move: Move) -> None:
    """Rename the source's schema. Raise `CutoverTimeout` if long transactions read the partition."""
    record, source = move.record, move.servers.source
    ages = Ages()

    def old() -> list[Holder]:
        # Those that wait for the move's own locks end when they get 42P01.
        found = ages.older(read_holders(source, record.schema), OLD)
        return [holder for holder in readers(found) if not holder.waits]

    wait_until_none(old, min(READER_PATIENCE, move.patience) if record.online else READER_PATIENCE, _busy(move))
    with source.cursor() as cursor:
        cursor.execute(f"ALTER SCHEMA {quote(record.schema)} RENAME TO {quote(record.moved)}")
    source.commit()


def drain(move: Move) -> None:
    """Wait for the end of the transactions that had read before the rename: none can read any more after this."""
    record, source = move.record, move.servers.source

    def remaining() -> list[Holder]:
        found = readers(read_holders(source, record.moved))
        source.rollback()
        return found

    before = {holder.transaction for holder in remaining()}
    patience = min(DRAIN_PATIENCE, move.patience) if record.online else DRAIN_PATIENCE
    wait_until_none(lambda: [it for it in remaining() if it.transaction in before], patience, _busy(move))
    if record.online and not move.patience:
        limit = move.router.config.moves.cutover_timeout
        raise CutoverTimeout(f"{record}: the cutover took longer than {limit:g} s, nothing was moved")


def take_fence_down(move: Move) -> None:
    """Give the source's schema its name back, if it has lost it. Raise `OwnershipAmbiguous` if that is unclear."""
    record, source = move.record, move.servers.source
    found = schemas_of(source, [record.schema, record.moved])
    if found == {record.moved}:
        with source.cursor() as cursor:
            cursor.execute(f"ALTER SCHEMA {quote(record.moved)} RENAME TO {quote(record.schema)}")
    elif found != {record.schema}:
        raise OwnershipAmbiguous(
            f"{record} is to be undone, but shard {record.source} has {_these(found)}, where it should have exactly "
            f"one of {record.schema} and {record.moved}. Compare their rows, keep the right ones as {record.schema}"
        )
    source.commit()


def _busy(move: Move) -> str:
    return f"{move.record}: long transactions read the partition, nothing was moved; try again when they have ended"


def _these(schemas: set[str]) -> str:
    return " and ".join(sorted(schemas)) or "neither"
