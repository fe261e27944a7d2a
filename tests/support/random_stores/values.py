"""Literals of every built-in type of Postgres that a column can have, and of types made of them."""

from __future__ import annotations

import random

LITERALS: dict[str, list[str]] = {
    "bool": ["t", "f"],
    "bytea": ["\\x", "\\x00ff5c", "\\x7b7d"],
    '"char"': ["a", "\\377", ""],
    "name": ["a name", 'qu"ote'],
    "int2": ["-32768", "7"],
    "int4": ["-2147483648", "0"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "int2vector": ["1 2 3", ""],
    "oidvector": ["1 2", ""],
    "oid": ["4294967295"],
    "tid": ["(4294967295,65535)"],
    "xid": ["4294967295"],
    "xid8": ["18446744073709551615", "7"],
    "cid": ["7"],
    "text": ["", "a\\b", "ü\u2028\n\t ", "NULL", "'\"{}", "%s %(a)s %%"],
    "varchar": ["", "blanks  ", "null"],
    "varchar(5)": ["ab   ", "abc"],
    "bpchar": ["", "ab   ", "a"],
    "char(5)": ["ab", "", "abcde"],
    "float4": ["1.1", "3.4028235e+38", "1e-45", "-0", "NaN", "-Infinity", "0.1"],
    "float8": ["0.1", "1.7976931348623157e+308", "5e-324", "-0", "NaN", "Infinity", "1e22"],
    "numeric": ["1.10", "NaN", "-Infinity", "1e-30", "99999999999999999999999999999.000"],
    "numeric(10,3)": ["1.1", "NaN", "-9999999.999"],
    "money": ["$1.50", "-92233720368547758.08"],
    "date": ["0001-01-01", "4713-01-01 BC", "infinity", "-infinity", "5874897-12-31", "2024-02-29"],
    "time": ["24:00:00", "00:00:00.000001"],
    "timetz": ["24:00:00+15:59", "12:00:00-08", "00:00:00+00:00:01"],
    "timestamp": ["0001-01-01", "infinity", "4713-11-24 BC", "294276-12-31 23:59:59.999999"],
    "timestamptz": ["0001-01-01 00:00+00", "-infinity", "0044-03-15 12:00+00 BC", "9999-12-31"],
    "timestamptz(3)": ["2024-01-01 12:00:00.1234567+02", "infinity"],
    "interval": ["1 mon -1 day 00:00:00.000001", "-178000000 years", "0", "infinity"],
    "uuid": ["00000000-0000-0000-0000-000000000000"],
    "json": ['{"b":  1, "a": 1.0, "b": 2}', "null", " [1 , 2]", '"\\u00fc"', "1e400"],
    "jsonb": ['{"b":  1, "a": 1.0, "b": 2}', "null", "-0", "1.10", '"\\u2028"'],
    "jsonpath": ["$.a[*] ? (@.b > 1)", "strict $"],
    "xml": ["<a>&lt; ü</a>", "text", "<?xml version='1.0'?><a/>"],
    "point": ["(0.1,-0)", "(NaN,Infinity)"],
    "line": ["{1,0.1,2}"],
    "lseg": ["[(0,0),(1,0.1)]"],
    "box": ["(1,1),(0,0.1)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,0.3))"],
    "polygon": ["((0,0),(1,1),(0.1,0))"],
    "circle": ["<(0.1,0),2>"],
    "inet": ["10.0.0.1", "10.0.0.1/8", "::1", "2001:db8::/32"],
    "cidr": ["10.0.0.0/8", "::/0"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(3)": ["101"],
    "varbit": ["", "1011"],
    "tsvector": ["'a''b':1A,2 'c\\\\d'", ""],
    "tsquery": ["'a b' & !c:*AB", "a <-> b"],
    "pg_lsn": ["FFFFFFFF/FFFFFFFF", "0/0"],
    "txid_snapshot": ["10:20:10,14"],
    "pg_snapshot": ["10:20:"],
    "aclitem": ["=r/postgres"],
    "refcursor": ["a cursor"],
    "regclass": ["pg_class", "pg_type"],
    "regtype": ["int4", "text[]"],
    "regproc": ["now"],
    "regprocedure": ["abs(int4)"],
    "regoper": ["||/"],
    "regoperator": ["+(int4,int4)"],
    "regnamespace": ["pg_catalog"],
    "regrole": ["pg_monitor"],
    "regconfig": ["simple"],
    "regdictionary": ["simple"],
    "regcollation": ['"C"'],
    "int4range": ["empty", "[1,3)", "(,)"],
    "int8range": ["[1,)"],
    "numrange": ["[1.10,2.0]", "(,1]"],
    "tsrange": ["[0001-01-01,infinity)", "empty"],
    "tstzrange": ["[-infinity,2024-01-01 00:00+00]"],
    "daterange": ["[2024-01-01,2024-01-03]", "[,infinity]"],
    "int4multirange": ["{}", "{[1,3),[5,7)}"],
    "int8multirange": ["{[1,3)}"],
    "nummultirange": ["{[1.10,2.0]}"],
    "tsmultirange": ["{[0001-01-01,infinity)}"],
    "tstzmultirange": ["{}"],
    "datemultirange": ["{[2024-01-01,2024-01-03)}"],
    "int4[]": ["{}", "{{1,NULL},{3,4}}", "[0:1]={1,2}", "[-1:-1][3:4]={{1,2}}"],
    "text[]": ['{"a,b","\\"",NULL,"NULL",""}', "{}"],
    "float8[]": ["{0.1,-0,NaN}"],
    "timestamptz[]": ["{infinity,0001-01-01 00:00+00}"],
    "bytea[]": ['{"\\\\x00",NULL}'],
    "bpchar[]": ['{"a  ",b}'],
    "jsonb[]": ['{"{\\"a\\": 1.0}"}'],
    "json[]": ['{"{\\"b\\":  1, \\"b\\": 2}"}'],
    "random_types.mood": ["sad", "very 'happy'"],
    "random_types.short": ["abc", ""],
    "random_types.pair": ['(1,"a ""b"" ")', "(,)", '(-0,"")'],
    "random_types.pair[]": ['{"(1,a)",NULL}'],
    "random_types.floats": ["[0.1,0.2]", "empty"],
}
TYPES = """
CREATE SCHEMA IF NOT EXISTS random_types;
DO $$ BEGIN
  IF to_regtype('random_types.mood') IS NULL THEN
    CREATE TYPE random_types.mood AS ENUM ('sad', 'very ''happy''');
    CREATE DOMAIN random_types.short AS varchar(5) CHECK (VALUE <> 'wrong');
    CREATE TYPE random_types.pair AS (number float8, word text);
    CREATE TYPE random_types.floats AS RANGE (subtype = float8);
  END IF;
END $$
"""


def literal(kind: str, chance: random.Random) -> str | None:
    """A literal of a type, or none."""
    return chance.choice([*LITERALS[kind], None])


def supported(connection) -> list[str]:
    """The types that this server takes all literals of: some depend on how it was built."""
    connection.execute(TYPES)
    found = []
    for kind, texts in LITERALS.items():
        try:
            for text in texts:
                connection.execute(f"SELECT %s::text::{kind}", (text,))
        except Exception as error:  # a test's own list: what is left out is told
            print(f"left out: {kind}: {str(error).splitlines()[0]}")
        else:
            found.append(kind)
    return found
