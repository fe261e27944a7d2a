"""The guided tour: a read model with a mistake in it is rebuilt under load, step by step, with
every command shown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esops.demo.sandbox import HISTORY, READERS_QUERY, Person, Place
from esops.errors import EsopsError

Say = Callable[[str], None]


def tour(directory: Path, say: Say, heading: Say, *, aside: bool = False) -> dict[str, Any]:
    """Run the tour in a fresh demo folder, and clean up. Returns what happened, in figures.

    `aside`: what the commands print goes to stderr, since stdout is for the figures alone. Raises
    EsopsError if a step failed.
    """
    place = Place(directory, aside=aside)
    people: list[Person] = []
    follower: subprocess.Popen[str] | None = None
    try:
        heading("1. A shop, its events, and a read model")
        say(
            f"An embedded PostgreSQL in {place.folder.name}/, with {HISTORY:,} events in "
            "Marten's tables."
        )
        place.set_up(bug=True)
        say(
            "The read model cart_summary is a fold in Python (shop_projections.py). Its "
            "first build:"
        )
        _step(place, say, "rebuild", "cart_summary", "--blue-green", "--quiet")

        heading("2. Life: orders come in, pages are read, `esops run` keeps the read model fresh")
        follower = subprocess.Popen(
            [sys.executable, "-m", "esops", "run", "--quiet"], cwd=place.folder, text=True
        )
        people.append(place.person("writer", "--rate", "100"))
        people += [
            place.person("reader", "--pause", "0.002", "--query", READERS_QUERY, *prepared)
            for prepared in ([], ["--prepared"])
        ]
        time.sleep(3)
        _, wrong = _settled(place)
        say(
            f"But there is a mistake in it: removed items are not taken off. {wrong:,} carts show "
            "a wrong total."
        )

        heading("3. The mended projection is deployed, and rebuilt beside the one that serves")
        place.deploy(bug=False)
        say(
            "The verification compares green with what serves, at one position, and will not "
            "switch over a difference:"
        )
        _step(place, say, "rebuild", "cart_summary", "--blue-green", expected=1)
        say("\nThese are the rows that were wrong; the differences are what we want. So go on:")
        _step(
            place, say, "rebuild", "cart_summary", "--blue-green", "--resume", "--max-diff", "100%"
        )

        heading("4. Both versions are kept fresh; back and forth is one transaction each")
        _followed(place)
        _step(place, say, "projection", "show", "cart_summary")
        _step(place, say, "projection", "rollback", "cart_summary")
        _step(place, say, "projection", "switch", "cart_summary", "--to", "2")

        heading("5. What the shop noticed")
        reports = [person.stop() for person in people]
        people = []
        rows, wrong = _settled(place)
        follower.terminate()
        follower.wait(20)
        follower = None
        _step(place, say, "projection", "retire", "cart_summary", "--yes")
        return _figures(reports, rows, wrong)
    finally:
        for person in people:
            person.process.kill()
        if follower is not None:
            follower.terminate()
            follower.wait(20)
        place.down()


def _step(place: Place, say: Say, *arguments: str, expected: int = 0) -> None:
    say(f"\n$ esops {' '.join(arguments)}")
    code = place.esops(*arguments)
    if code != expected:
        raise EsopsError(
            f"`esops {' '.join(arguments)}` ended with {code} in the demo, not {expected}"
        )


def _settled(place: Place) -> tuple[int, int]:
    """Rows and wrong rows, when the read model has taken in all that is written (or nearly, while
    the writer is on).
    """
    rows, wrong = place.differences()
    for _ in range(40):
        time.sleep(0.1)
        again = place.differences()
        if again[1] >= wrong:
            return again
        rows, wrong = again
    return rows, wrong


def _followed(place: Place) -> None:
    """Give `esops run` the moment it needs to take the new version over."""
    time.sleep(2.5)
    assert place.server.running


def _figures(reports: list[dict[str, Any]], rows: int, wrong: int) -> dict[str, Any]:
    writer = next(each for each in reports if each["who"] == "writer")
    readers = [each for each in reports if each["who"] == "reader"]
    return {
        "events_written": writer["events"],
        "slowest_append_seconds": writer["slowest_seconds"],
        "reads": sum(each["reads"] for each in readers),
        "failed_reads": sum(each["failures"] for each in readers),
        "steps_back": sum(each["steps_back"] for each in readers),
        "slowest_read_seconds": max(each["slowest_seconds"] for each in readers),
        "carts": rows,
        "wrong_carts": wrong,
    }
