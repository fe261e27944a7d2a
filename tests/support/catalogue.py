"""What the catalogue says about a table or view, by names and without oids, so that two states of
one name can be compared as a tool that compares schemas does.
"""

from __future__ import annotations

from typing import Any

_QUERIES = {
    "relation": """
        SELECT c.relkind::text, c.relpersistence::text, pg_get_userbyid(c.relowner), am.amname,
               c.relreplident::text, c.relrowsecurity, c.relforcerowsecurity,
               (SELECT array_agg(o ORDER BY o) FROM unnest(c.reloptions) o),
               (SELECT array_agg(o ORDER BY o) FROM unnest(t.reloptions) o),
               s.spcname, pg_get_partkeydef(c.oid), c.relispartition
          FROM pg_class c LEFT JOIN pg_am am ON am.oid = c.relam
          LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
          LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
         WHERE c.oid = %(oid)s""",
    "columns": """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               a.attgenerated::text, a.attstorage::text, a.attcompression::text, a.attcollation,
               nullif(a.attstattarget, -1), a.attoptions, pg_get_expr(d.adbin, d.adrelid),
               col_description(a.attrelid, a.attnum),
               CASE WHEN c.relkind IN ('r', 'p')
                    THEN pg_get_serial_sequence(a.attrelid::regclass::text, a.attname) END
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
    "constraints": """
        SELECT conname, contype::text, pg_get_constraintdef(oid), convalidated,
               obj_description(oid, 'pg_constraint')
          FROM pg_constraint WHERE conrelid = %(oid)s ORDER BY 1""",
    "indexes": """
        SELECT pg_get_indexdef(i.indexrelid), i.indisprimary, i.indisclustered, i.indisreplident,
               i.indisvalid, obj_description(i.indexrelid, 'pg_class'), s.spcname,
               (SELECT array_agg(nullif(a.attstattarget, -1) ORDER BY a.attnum)
                  FROM pg_attribute a WHERE a.attrelid = i.indexrelid)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
          LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
         WHERE i.indrelid = %(oid)s ORDER BY 1""",
    "statistics": """
        SELECT pg_get_statisticsobjdef(oid), obj_description(oid, 'pg_statistic_ext'),
               nullif(stxstattarget, -1), pg_get_userbyid(stxowner)
          FROM pg_statistic_ext WHERE stxrelid = %(oid)s ORDER BY 1""",
    "sequences": """
        SELECT a.attname, s.seqtypid::regtype::text, s.seqmax, obj_description(c.oid, 'pg_class'),
               pg_get_userbyid(c.relowner),
               (SELECT array_agg(x::text ORDER BY x::text)
                  FROM unnest(coalesce(c.relacl, acldefault('s', c.relowner))) x)
          FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
          JOIN pg_sequence s ON s.seqrelid = c.oid
          JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
           AND d.refobjid = %(oid)s AND d.deptype = 'i' ORDER BY 1""",
    "partitions": """
        SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid)
          FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
         WHERE h.inhparent = %(oid)s ORDER BY 1""",
    "triggers": """
        SELECT pg_get_triggerdef(oid), tgenabled::text, obj_description(oid, 'pg_trigger')
          FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal ORDER BY 1""",
    "policies": """
        SELECT polname, polpermissive, polcmd::text, polroles::regrole[]::text,
               pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid),
               obj_description(oid, 'pg_policy')
          FROM pg_policy WHERE polrelid = %(oid)s ORDER BY 1""",
    "rights": """
        SELECT * FROM (
            SELECT NULL::name, a.privilege_type, a.grantee::regrole::text, a.is_grantable,
                   pg_get_userbyid(a.grantor)
              FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
             WHERE c.oid = %(oid)s
            UNION ALL
            SELECT t.attname, a.privilege_type, a.grantee::regrole::text, a.is_grantable,
                   pg_get_userbyid(a.grantor)
              FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = %(oid)s) AS rights
         ORDER BY 1, 2, 3""",
    "comment": "SELECT obj_description(%(oid)s, 'pg_class')",
}


def catalogue(connection, name: str) -> dict[str, list[Any]]:
    """All properties of a table or view, each as rows that can be compared."""
    (oid,) = connection.execute("SELECT %s::regclass::oid", (name,)).fetchone()
    return {
        what: connection.execute(query, {"oid": oid}).fetchall() for what, query in _QUERIES.items()
    }


def changes(connection, name: str, before: dict[str, list[Any]]) -> list[str]:
    """What the catalogue says about a name differently than before, each in one line."""
    now = catalogue(connection, name)
    return [
        f"{what} {sign} {row}"
        for what in _QUERIES
        for sign, rows, others in (("-", before[what], now[what]), ("+", now[what], before[what]))
        for row in rows
        if row not in others
    ]
