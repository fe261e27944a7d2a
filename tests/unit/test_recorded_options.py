"""What of a command line is written down (esops history), and said where it failed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from esops.actions.action import Action
from esops.cli import recorded
from esops.errors import Unavailable
from esops.rebuild.load import executors

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("local", "--engine local"),
        (f"dask://tls://user:{SECRET}@host:1", "--engine …"),
        (f"dask://host:1?token={SECRET}", "--engine …"),
        (f"user:{SECRET}@host", "--engine …"),
    ],
)
def test_an_address_is_not_written_down(value, kept):
    parameter = SimpleNamespace(name="engine", opts=["--engine"], default=None)
    context = SimpleNamespace(command=SimpleNamespace(params=[parameter]), params={"engine": value})
    assert list(recorded._options(context, recorded.RECORDED["rebuild"])) == [kept]


@pytest.mark.parametrize("address", [f"tls://user:{SECRET}@127.0.0.1:1", f"127.0.0.1:1?t={SECRET}"])
def test_a_scheduler_that_cannot_be_reached_is_named_without_its_password(monkeypatch, address):
    distributed = pytest.importorskip("distributed")

    def refuse(given: str, **_: object) -> None:
        raise OSError(f"nobody listens at {given}")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(Unavailable, match="scheduler at .*127.0.0.1:1") as error:
        executors.Dask(address)
    assert SECRET not in error.value.message


def test_what_is_no_text_is_written_as_one():
    action = Action("projection pause", "a\udcff", ("a\udcff",), "b\udcff")
    assert (action.subject, action.projections, action.options) == (
        "a\\udcff",
        ("a\\udcff",),
        "b\\udcff",
    )
