"""A page that is followed cannot say anything else than what happens."""

from __future__ import annotations

import pytest

from tests.support.pages import shows, steps

PAGE = """Text.

```toml title="esops.toml (add)"
[stores]
```

```console
$ esops status \\
    --verbose
ok
$ echo $?
1
```

```sh
not run
```
"""


def test_files_and_commands_come_out_in_their_order():
    found = steps(PAGE)
    assert [(step.title, step.adds) for step in found] == [
        ("esops.toml", True),
        ("", False),
        ("", False),
    ]
    assert [step.text for step in found[1:]] == ["esops status \\\n    --verbose", "echo $?"]
    assert [step.shown for step in found[1:]] == [["ok"], ["1"]]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("took 0.3 s (2,664 events/s) at 12:30:01", "took 14 s (9 events/s) at 07:00:59"),
        ("at 817:190, run 20261128T152426Z-old-b490ba", "at 9:8, run 20271128T152426Z-old-000fba"),
        ("first\n…\nlast", "first\na\nb\nlast"),
        ("first\n…\nlast", "first\nlast"),
        ("node …, leader", "node localhost:1, leader"),
        ("a  b", "a b"),
    ],
)
def test_what_differs_each_time_is_compared_by_its_form(shown, printed):
    assert shows(shown.split("\n"), printed.split("\n"))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("40 rows", "41 rows"),
        ("v1", "v2"),
        ("first\n…\nlast", "first\na"),
        ("ok", "ok\nwarning"),
        ("", "something"),
        ("…, leader", "localhost:1, follower"),
    ],
)
def test_anything_else_is_not_what_the_page_shows(shown, printed):
    assert not shows(shown.split("\n") if shown else [], printed.split("\n"))
