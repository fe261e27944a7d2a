"""SQL that lives in `.sql` files beside the modules that run it.

Statements longer than a few lines are easier to read, to review and to paste into psql where they
are not broken into Python strings. A file holds either one script (`script`) or several statements
(`statements`), each under a line with its name and a sentence on why it is there:

    -- holder --
    -- Who holds an advisory lock now.
    SELECT …

A module loads its file once, when it is imported:

    _SQL = statements(__package__, "locks")
    connection.execute(_SQL["holder"], (name,))

Values are parameters (`%s`, `%(name)s`; a literal percent sign is `%%`, as psycopg asks for
whenever there are parameters). Identifiers are put in by `sql.SQL(_SQL["…"]).format(…)`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import LiteralString

_NAME = re.compile(r"^-- (\w+) --\n", re.MULTILINE)
_COMMENTS_ABOVE = re.compile(r"\A(?:\s*--[^\n]*\n)+")


def script(package: str, name: str) -> LiteralString:
    """The whole of `<name>.sql` in a package, comments included.

    Raises FileNotFoundError.
    """
    return files(package).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def statements(package: str, name: str) -> Mapping[str, LiteralString]:
    """The statements of `<name>.sql` in a package, by their names.

    The comments above a statement stay in the file: the server's log and the plans of a dry run
    show the statement alone. Raises ValueError for a file in which a statement has no name or two
    have the same one.
    """
    before, *rest = _NAME.split(script(package, name))
    found: dict[str, LiteralString] = {}
    if _COMMENTS_ABOVE.sub("", before + "\n").strip():
        raise ValueError(f"{package}/{name}.sql begins with a statement that has no name")
    for key, text in zip(rest[::2], rest[1::2], strict=True):
        if key in found:
            raise ValueError(f"{package}/{name}.sql has two statements named {key}")
        found[key] = _COMMENTS_ABOVE.sub("", text).strip().removesuffix(";")
    return found
