"""What to grant where a database denied esops' role a right to look."""

from __future__ import annotations

import re

from psycopg import ProgrammingError, errors, sql
from psycopg.conninfo import conninfo_to_dict

from esops.errors import EsopsError

_DENIED = re.compile(r"permission denied for (schema|table|view|sequence) (\S+)")
_RIGHTS = {
    "schema": "GRANT USAGE ON SCHEMA {} TO {};",
    "sequence": "GRANT SELECT ON SEQUENCE {} TO {};",
}


def grant_for(error: EsopsError, dsn: str, schema: str | None = None) -> str | None:
    """The statement that gives the role of an address the right that an error is about; None where
    that is not known. `schema`: that of the table that it is about, which the server does not say.
    """
    cause = error.__cause__
    if not isinstance(cause, errors.InsufficientPrivilege):
        return None
    found = _DENIED.search(cause.diag.message_primary or "")
    try:
        role = conninfo_to_dict(dsn).get("user")
    except ProgrammingError:
        return None
    if found is None or not role:
        return None
    statement = sql.SQL(_RIGHTS.get(found[1], "GRANT SELECT ON {} TO {};"))
    within = [] if schema is None or found[1] == "schema" else [schema]
    what = sql.Identifier(*within, found[2])
    grant = statement.format(what, sql.Identifier(str(role))).as_string(None)
    return f"{grant}  -- all that it needs: esops doctor --grants {role}, run as the owner"
