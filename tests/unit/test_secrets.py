"""No part of an address that cannot be read is shown, since it may be the password."""

from __future__ import annotations

import contextlib
import io
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.config import parse_config
from esops.errors import EsopsError, UsageError
from esops.init import detect
from esops.postgres.connection import connect
from esops.settings.addresses import problem_of_dsn, problem_of_repository, problem_of_uri
from esops.stores.eventstoredb.connect import read_uri

SECRET = "s3cr3tM4rk"
_AROUND = st.text(alphabet="@:/?#%&='\"\\ [],;+~-.aZ9\n\t{}$é", max_size=6)
_PASSWORDS = st.builds(lambda before, after: f"{before}{SECRET}{after}", _AROUND, _AROUND)
_NOWHERE = "/nonexistent/esops"
_DSNS = st.builds(
    lambda form, password: form.replace("PASSWORD", password),
    st.sampled_from(
        [
            "postgresql://ann:PASSWORD@%2Fnonexistent%2Fesops/shop",
            "postgres://ann:PASSWORD@/shop?host=/nonexistent/esops",
            "postgresql://ann:PASSWORD",
            "postgresql:/ann:PASSWORD@localhost/shop",
            "postgresq://ann:PASSWORD@localhost/shop",
            "ann:PASSWORD@localhost/shop",
            f"host={_NOWHERE} user=ann password=PASSWORD dbname=shop",
            f"host={_NOWHERE} password='PASSWORD' user=ann",
            f"host={_NOWHERE} password = PASSWORD",
            f"host={_NOWHERE};password=PASSWORD",
            f"host={_NOWHERE} PASSWORD",
            f"host={_NOWHERE} dbname=postgresql://ann:PASSWORD@localhost/shop",
        ]
    ),
    _PASSWORDS,
    # What follows an @ or a comma is the name of a host, which may be shown.
).filter(lambda dsn: not re.fullmatch(r"postgresql://ann:[^@/?#]*[@,][^@]*", dsn) or "%2F" in dsn)
_URIS = st.builds(
    lambda form, password: form.replace("PASSWORD", password),
    st.sampled_from(
        [
            "esdb://admin:PASSWORD@localhost:1",
            "esdb+discover://admin:PASSWORD@a:2113,b:2113?tls=false",
            "esdb://admin:PASSWORD@localhost:1?tls=PASSWORD",
            "kurrentdb//admin:PASSWORD@localhost",
            "admin:PASSWORD@localhost:2113",
        ]
    ),
    _PASSWORDS,
)
_REPOSITORIES = st.builds(
    lambda form, password: form.replace("PASSWORD", password),
    st.sampled_from(
        [
            "s3://KEY:PASSWORD@bucket/prefix",
            "s3://PASSWORD@bucket/prefix",
            "s3:KEY:PASSWORD@bucket",
            "s3:/KEY:PASSWORD@bucket",
            "gs://KEY:PASSWORD@bucket",
            "az://container?sig=PASSWORD",
            "https://account.blob.core.windows.net/c?sig=PASSWORD",
            "abfss://container:PASSWORD@account/c",
        ]
    ),
    _PASSWORDS,
)


def shown(error: BaseException) -> str:
    """All that can be seen of an error: its sentence, its hint, and what --debug prints."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=False).format()
    return "\n".join([*lines, str(error), str(getattr(error, "hint", ""))])


def raised(call, *arguments) -> str:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            call(*arguments)
        except EsopsError as error:
            return shown(error) + out.getvalue() + err.getvalue()
    return out.getvalue() + err.getvalue()


def in_file(section: str, name: str, key: str, value: str, tmp_path) -> None:
    more = {"backend": "eventstoredb"} if key == "uri" else {}
    parse_config({section: {name: {key: value, **more}}}, tmp_path / "esops.toml")


@given(dsn=_DSNS)
def test_a_dsn_that_cannot_be_read_is_not_shown(dsn, tmp_path):
    # What can be read leads to a folder without a server, and libpq's text names only that.
    for call in (connect, lambda dsn, _: detect(dsn)):
        assert SECRET not in raised(call, dsn, "test")
    for section in ("stores", "readmodels"):
        text = raised(in_file, section, "shop", "dsn", dsn, tmp_path)
        assert SECRET not in text
        assert not text or f"{section}.shop.dsn" in text


@given(uri=_URIS)
def test_a_uri_that_cannot_be_read_is_not_shown(uri, tmp_path):
    for text in (
        raised(in_file, "stores", "shop", "uri", uri, tmp_path),
        raised(read_uri, "shop", uri),
    ):
        assert SECRET not in text
        assert not text or "stores.shop.uri" in text


@given(address=_REPOSITORIES)
def test_a_repository_with_credentials_is_refused_and_not_shown(address, tmp_path):
    text = raised(in_file, "archives", "cold", "repository", address, tmp_path)
    assert SECRET not in text
    assert "archives.cold.repository" in text


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://postgres:@/shop?host=/run/postgresql",
        "",
        "service=shop",
        "host=/tmp/x user=postgres dbname=shop",
        "host=db1,db2 port=5432,5433 target_session_attrs=read-write",
        "dbname = 'a b' password='it\\'s \\\\ fine' user=ann@server",
        "host=::1 options='-c search_path=shop -c geqo=off'",
        "postgresql://",
        "postgresql:///shop?host=/var/run/postgresql&port=5433",
        "postgresql://ann:p%40ss%2Fword%25@[::1]:5432,db2:5433/shop?sslmode=require",
        "postgres://ann%40server:x:y@%2Fvar%2Frun/shop",
    ],
)
def test_what_libpq_reads_is_read(dsn):
    assert problem_of_dsn(dsn) is None


def test_what_others_read_is_read():
    for uri in (
        "esdb://admin:changeit@a:2113,b:2113?tls=true&nodePreference=leader",
        "esdb+discover://cluster.example:2113",
        "kurrentdb://localhost:2113?tls=false",
    ):
        assert problem_of_uri(uri) is None
    for address in (
        "cold",
        "/srv/a@b:c",
        "file:///srv/cold",
        "s3://bucket/prefix",
        "abfss://container@account.dfs.core.windows.net/x",
        "http://localhost:9000/bucket",
    ):
        assert problem_of_repository(address) is None


def test_the_sentence_names_the_key_and_what_to_escape(tmp_path):
    document = {"stores": {"shop": {"dsn": "postgresql://ann:p@ss%word@db/shop"}}}
    with pytest.raises(UsageError, match=r"stores\.shop\.dsn: .*%25 for %.*%40 for @"):
        parse_config(document, tmp_path / "esops.toml")
