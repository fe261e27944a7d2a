"""The process that moves a version on: the checkpoint and the rows of one transaction."""

from __future__ import annotations

import pytest

from esops.config import load_config
from esops.errors import Busy, PoisonEvent, Stopped
from esops.events import Position
from esops.readmodel import registry
from esops.running.follower import open_runner
from tests.fast.conftest import CODE


@pytest.fixture
def runner(shop):
    """A runner of version 1, which knows the events of the shop's beginning."""
    shop.ok("rebuild", "--blue-green")
    opened = []

    def make(stop=lambda: False):
        config = load_config(shop.project.folder / "esops.toml")
        version = registry.version(shop.connection, "carts", 1)
        opened.append(open_runner(config, version, stop=stop))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def checkpoint(shop) -> int:
    (position,) = shop.connection.execute("SELECT position FROM esops.versions").fetchone()
    return int(position)


def test_it_stops_exactly_where_it_is_told_to(shop, runner):
    shop.append(100)
    made = runner()
    made.run_until(Position((230,)))
    assert checkpoint(shop) == 230
    assert max(position for _, position in shop.table().values()) == 230
    made.run_until(Position((300,)))
    assert shop.table() == shop.truth


def test_what_it_has_is_not_applied_again(shop, runner):
    made = runner()
    made.run_until(Position((200,)))
    made.run_until(Position((150,)))
    assert shop.table() == shop.truth
    assert made.events == 0


def test_only_one_moves_a_version(shop, runner):
    runner()
    with pytest.raises(Busy):
        runner()


def test_asked_to_stop_it_leaves_a_checkpoint_of_what_it_did(shop, runner):
    shop.append(5_000)
    asked = []
    made = runner(lambda: bool(asked.append(1)) or len(asked) > 2)
    with pytest.raises(Stopped):
        made.run_until(Position((5_200,)))
    assert shop.table() == fold(shop, checkpoint(shop))


def fold(shop, until: int) -> dict[str, tuple[int, int]]:
    carts: dict[str, tuple[int, int]] = {}
    for event in shop.log.events[:until]:
        items = carts.get(event.stream, (0, 0))[0] + event.json()["items"]
        carts[event.stream] = (items, event.position[0])
    return carts


POISON = CODE.replace("    return", "    assert event.position[0] != 217, 'bad luck'\n    return")


def test_a_poison_event_stops_it_before_the_event(shop, runner):
    shop.module += "_poison"
    shop.configure(POISON)
    shop.append(50)
    made = runner()
    with pytest.raises(PoisonEvent) as poison:
        made.run_until(Position((250,)))
    assert "217" in poison.value.message
    assert checkpoint(shop) == 216
    assert shop.table() == fold(shop, 216)


def test_a_poison_event_becomes_a_dead_letter_and_the_rest_goes_on(shop, runner):
    shop.module += "_letters"
    shop.configure(POISON, on_error="dead-letter")
    shop.append(50)
    runner().run_until(Position((250,)))
    assert checkpoint(shop) == 250
    assert shop.connection.execute("SELECT position FROM esops.dead_letters").fetchall() == [
        ("217",)
    ]
    assert sum(items for items, _ in shop.table().values()) == 249
