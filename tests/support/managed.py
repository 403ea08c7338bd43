"""Databases as a managed service gives them: no superuser, nobody who sees the sessions of others.

The role that logs in has no rights of its own (NOINHERIT) and acts as another one (``ALTER ROLE .. SET role``), which
may create schemas in the database. It comes with what administrators set for roles.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.engine import make_url

from tests.support.backends import databases, plain_connection


@contextmanager
def managed_databases(server_urls: list[str], settings: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """Give the URLs of databases on these servers for a role with *settings* (name -> value as SQL)."""
    app, owner = (f"test_{uuid.uuid4().hex[:12]}_{what}" for what in ("app", "owner"))
    try:
        with databases(server_urls) as urls:
            name = make_url(urls[0]).database
            for url in urls:
                run(
                    url,
                    f"CREATE ROLE {owner} NOLOGIN",
                    f"CREATE ROLE {app} LOGIN NOINHERIT IN ROLE {owner}",
                    f"ALTER ROLE {app} SET role = {owner}",
                    *(f"ALTER ROLE {app} SET {key} = {value}" for key, value in (settings or {}).items()),
                    f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
                    f"GRANT CONNECT ON DATABASE {name} TO {app}",
                    f"GRANT CREATE, TEMPORARY ON DATABASE {name} TO {owner}",
                    "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
                )
            yield [make_url(url).set(username=app).render_as_string(hide_password=False) for url in urls]
    finally:  # after the databases, in which they own what there is
        for url in server_urls:
            run(url, f"DROP ROLE IF EXISTS {app}", f"DROP ROLE IF EXISTS {owner}")


def run(url: str, *statements: str) -> None:
    """Run statements one after another, by the role of *url*."""
    connection = plain_connection(url)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()
