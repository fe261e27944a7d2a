"""The application's own projections, which neither removed nor restored events reach.

A library's own rebuild reads what is in the store: rows of streams that have left are dropped, or
made of what stays. And restored events lie behind the positions of its processors, which do not
read them again: what was dropped or made before stays as it is until that projection is rebuilt.
"""

from __future__ import annotations

import re

from esops.stores.base import EventStore

_ASIDE = re.compile(r"__v\d+$")
"""A version that esops has put aside has the form of the library's tables, and nobody writes it."""


def own_projections(store: EventStore) -> list[str]:
    """The processors of the application, by the names that `esops status` shows, and the tables
    that it writes with each append.
    """
    # A server's own, such as $by_category, link each event once, and drop nothing with it.
    found = [
        each.name
        for each in store.checkpoints()
        if each.kind == "processor" and not each.name.startswith("$")
    ]
    if store.inline is not None:
        found += [
            f"{each.schema}.{each.name}"
            for each in store.inline.tables()
            if not _ASIDE.search(each.name)
        ]
    return list(dict.fromkeys(found))
