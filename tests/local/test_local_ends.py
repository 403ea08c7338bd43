"""Whatever ends the process that owns a cluster: no server and no temporary directory is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shardpool.local import LocalCluster, binaries, reaper
from tests.local.local_tools import sql
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).resolve().parents[2]

OWNER = """
import os, sys, json, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and that is inherited
from shardpool.local import LocalCluster
cluster = LocalCluster(shards=1, directory={directory!r}).start()
server = cluster.server("s0")
print(json.dumps([str(cluster.directory), server.pid, server.url]), flush=True)
{after}
"""
WAIT = "sys.stdin.read()"


class Owner:
    """A Python process that starts a cluster of one shard, and then does what `after` says."""

    started: ClassVar[list[Owner]] = []

    def __init__(
        self,
        after: str = WAIT,
        *,
        directory: Path | None = None,
        env: dict[str, str] | None = None,
        python: str = sys.executable,
        **popen: Any,
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        script = OWNER.format(after=after, directory=directory and str(directory))
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [python, "-c", script]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(command, cwd="/", env=environment, **pipes, **popen)
        self.started.append(self)

    def read(self) -> None:
        """Wait until the cluster runs."""
        line = self.line()
        assert line, self.process.communicate()[1].decode()
        directory, self.postmaster, self.url = json.loads(line)
        self.directory = Path(directory)
        self.family = {p.pid for p in reaper.processes() if self.postmaster in (p.pid, p.parent)}
        assert len(self.family) > 3

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, or let it run to its end; return its exit code."""
        if number is not None:
            self.process.send_signal(number)
            self.process.wait(20)
        self.process.communicate(timeout=20)
        return self.process.returncode

    def gone(self) -> bool:
        return not self.family & {process.pid for process in reaper.processes()} and not reaper.find(self.directory)


@pytest.fixture(autouse=True)
def no_owner_is_left() -> Iterator[None]:
    yield
    for owner in Owner.started:
        owner.process.kill()
        owner.process.communicate(timeout=20)
    Owner.started.clear()


def ends(how: Callable[[Owner], int], after: str = WAIT, **options: Any) -> int:
    """End an owner; check that nothing is left. Return what `how` returned: the owner's exit code."""
    owner = Owner(after, **options)
    owner.read()
    code = how(owner)
    eventually(owner.gone, "the servers have ended")
    eventually(lambda: not owner.directory.exists(), "the temporary directory is removed")
    return code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal(number: signal.Signals) -> None:
    assert ends(lambda owner: owner.end(number)) == -number


def test_ctrl_c_in_the_terminal() -> None:
    def press(owner: Owner) -> int:
        os.killpg(owner.process.pid, signal.SIGINT)
        return owner.end()

    assert ends(press, "sys.stdin.read()", start_new_session=True) == -signal.SIGINT


@pytest.mark.parametrize(("last", "code"), [("", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("os._exit(4)", 4)])
def test_the_end_of_the_program(last: str, code: int) -> None:
    assert ends(Owner.end, WAIT + "\n" + last) == code


@pytest.mark.parametrize("reached", ["", "/s0/data.new", "/s0/postgres.log"])
def test_sigkill_while_the_cluster_starts(reached: str, open_directory: Path) -> None:
    owner = Owner(env={"TMPDIR": str(open_directory)})
    eventually(lambda: any(open_directory.glob("shardpool-cluster-*" + reached)), reached)
    owner.end(signal.SIGKILL)
    eventually(lambda: not any(open_directory.glob("shardpool-cluster-*")), "the temporary directory is removed")
    eventually(lambda: not any(str(open_directory) in process.command for process in reaper.processes()), "all ended")


def test_a_forked_child_does_not_stop_the_cluster() -> None:
    owner = Owner(
        after="""
child = os.fork()
if not child:
    cluster.close()
    sys.exit(0)  # runs atexit
print(os.waitpid(child, 0)[1], flush=True)
sys.stdin.read()
"""
    )
    owner.read()
    assert owner.line() == b"0\n"
    assert sql(owner.url, "SELECT 1") == [(1,)]
    assert owner.end() == 0
    assert owner.gone()


def test_a_forked_child_that_lives_on_does_not_keep_the_cluster() -> None:
    owner = Owner("""
child = os.fork()
if not child:
    os.close(1); os.close(2); os.read(0, 1)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
""")
    owner.read()
    child = int(owner.line())
    owner.process.kill()
    owner.process.wait(20)
    eventually(owner.gone, "the servers have ended")
    eventually(lambda: not owner.directory.exists(), "the temporary directory is removed")
    assert child in {process.pid for process in reaper.processes()}
    owner.end()  # closes its standard input
    eventually(lambda: child not in {process.pid for process in reaper.processes()}, "the child has ended")


def test_a_directory_survives_sigkill_of_the_owner(tmp_path: Path) -> None:
    owner = Owner(directory=tmp_path / "kept")
    owner.read()
    sql(owner.url, "CREATE TABLE kept AS SELECT 7 AS id")
    owner.end(signal.SIGKILL)
    with LocalCluster(shards=1, directory=tmp_path / "kept") as cluster:  # waits for the watchdog
        assert owner.postmaster not in {process.pid for process in reaper.processes()}
        assert cluster.url("s0") == owner.url
        assert sql(owner.url, "SELECT id FROM kept") == [(7,)]


def test_a_directory_survives_sigkill_of_owner_and_watchdog(tmp_path: Path) -> None:
    owner = Owner(directory=tmp_path / "kept")
    owner.read()
    sql(owner.url, "CREATE TABLE kept AS SELECT 7 AS id")
    (watchdog,) = (
        process.pid
        for process in reaper.processes()
        if process.parent == owner.process.pid and "reaper.py" in process.command
    )
    os.kill(watchdog, signal.SIGKILL)
    owner.end(signal.SIGKILL)
    assert sql(owner.url, "SELECT 1") == [(1,)]
    with LocalCluster(shards=1, directory=tmp_path / "kept") as cluster:
        assert owner.postmaster not in {process.pid for process in reaper.processes()}
        assert sql(cluster.url("s0"), "SELECT id FROM kept") == [(7,)]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@needs_root
def test_a_normal_user(open_directory: Path) -> None:
    account = binaries.account_for(Path("/nonexistent"))
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [sys.executable, f"/usr/bin/{minor}", f"/usr/local/bin/{minor}"]
    python = next((python for python in pythons if binaries.may(account, "x", Path(python))), None)
    packages = Path(sysconfig.get_path("purelib"))
    if python is None or not binaries.may(account, "r", REPOSITORY / "shardpool", packages):
        pytest.skip("the unprivileged user cannot read the repository or Python")
    env = {"TMPDIR": str(open_directory), "PYTHONPATH": f"{REPOSITORY}:{packages}"}
    assert ends(lambda owner: owner.end(), WAIT, env=env, python=python, **binaries.run_as(account)) == 0
    code = ends(lambda owner: owner.end(signal.SIGKILL), env=env, python=python, **binaries.run_as(account))
    assert code == -signal.SIGKILL


@needs_root
def test_binaries_that_the_servers_user_cannot_reach(tmp_path: Path, open_directory: Path) -> None:
    installed = binaries._installed(18)
    site = tmp_path / "site"  # only root can enter tmp_path
    site.mkdir(mode=0o700)
    for source in (installed.parent, binaries._libraries(installed)):
        (site / source.name).mkdir()
        for part in source.iterdir():
            (site / source.name / part.name).symlink_to(part)
    owner = Owner(env={"TMPDIR": str(open_directory), "PYTHONPATH": f"{site}:{REPOSITORY}"})
    owner.read()
    executable = str(Path(f"/proc/{owner.postmaster}/exe").readlink())
    assert executable.startswith(f"{open_directory}/shardpool-postgres-")
    assert owner.end() == 0
    assert owner.gone()
