"""The catalog: the only code that touches shardpool's own tables, in the schema ``shardpool_catalog`` of one database.

Routers read it at start and when told of a new epoch; between these they route from memory, so that the catalog may be
down while traffic goes on. Everything that changes placements or tables goes through here and raises the epoch.
"""

from shardpool.catalog.catalog import Catalog, ShardIdentity
from shardpool.catalog.listener import Listener

__all__ = ["Catalog", "Listener", "ShardIdentity"]
