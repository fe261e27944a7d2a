"""Whose death shows that a lease is free: a process that can be seen from here, and no other."""

from __future__ import annotations

import os
import subprocess
import sys

import orjson
import pytest

from esops.archive_format import lease as leases
from esops.archive_format.lease import Lease, is_there, this_process
from esops.archive_format.repository import Repository
from esops.errors import Busy, Stopped
from esops.settings import ArchiveSettings


@pytest.fixture
def ended():
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {**this_process(), "pid": process.pid, "started": "1"}


@pytest.fixture
def repository(tmp_path):
    return Repository(ArchiveSettings(repository=str(tmp_path)))


def held(repository: Repository, record: dict[str, object]) -> Lease:
    """A lease that somebody took a moment ago."""
    now = leases._now()
    content = {**record, "since": now, "renewed": now, "released": False}
    repository.put("locks/cold/old/000001.json", orjson.dumps(content))
    return Lease(repository, "cold/old")


def test_a_process_that_has_ended_here_holds_nothing(repository, ended):
    with held(repository, ended) as lease:
        assert lease.number == 2


@pytest.mark.parametrize("other", [{"pids": "pid:[4026530000]"}, {"pids": None}, {"boot": "b"}])
def test_a_holder_in_another_container_of_one_host_name_counts_until_its_time_is_up(
    repository, ended, other, monkeypatch
):
    """Its process id is not in this container, or is that of another process."""
    # One of an older esops says nothing of its container.
    record = {name: said for name, said in {**ended, **other}.items() if said is not None}
    lease = held(repository, record)
    assert is_there(record) is None
    with pytest.raises(Busy):
        lease.__enter__()
    monkeypatch.setattr(leases, "EXPIRES_AFTER", 0 * leases.EXPIRES_AFTER)
    with lease:
        assert lease.number == 2


def test_who_did_not_renew_in_time_stops_where_another_one_took_over(repository, monkeypatch):
    with Lease(repository, "cold/old") as mine:
        mine.check()
        monkeypatch.setattr(leases, "_may_be_alive", lambda record: False)
        with Lease(repository, "cold/old") as other:
            other.check()
            with pytest.raises(Stopped):
                mine.check()


def test_a_process_that_the_system_hides_may_live(ended, monkeypatch):
    """As with hidepid=2 or ProtectProc=invisible, and a process of another user."""
    hidden = ended["pid"]

    def kill(pid: int, signal: int) -> None:
        assert (pid, signal) == (hidden, 0)
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert is_there(ended) is None


def test_without_the_number_of_the_boot_a_process_may_be_another_machines(ended, monkeypatch):
    """As with ProcSubset=pid: all machines call their outermost namespace alike."""
    monkeypatch.setattr(leases, "_boot", lambda: "unknown")
    assert is_there({**ended, "boot": "unknown"}) is None
