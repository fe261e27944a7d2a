"""What the threads have in common by which a process follows many versions (group.py, turns.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from esops.config import Config
from esops.errors import EsopsError
from esops.running.followed_version import Key
from esops.running.heads import HeadWatch
from esops.running.orders import Orders


@dataclass(frozen=True, slots=True)
class Says:
    """Whom the threads tell what has become of a version."""

    ended: Callable[[Key, EsopsError | None], None]
    """It is not followed any more: for good, or because of an error."""
    declined: Callable[[Key], None]
    """It is not followed here, but by a new process, which loads its code again."""
    began: Callable[[Key], None]
    """It is followed here."""
    loaded: Callable[[], None]
    """The code of one was loaded."""


@dataclass
class Shared:
    """What the threads of a process have in common."""

    config: Config
    store: str | None
    stop: threading.Event
    heads: Callable[[str], HeadWatch]
    says: Says
    orders: dict[str, Orders] = field(default_factory=dict)
    """By the address of the read model."""
    opening: threading.Lock = field(default_factory=threading.Lock)
    """One version is opened at a time: code is imported."""
    far: threading.Lock = field(default_factory=threading.Lock)
    """One version at a time reads for itself, over a connection that the others do without."""
