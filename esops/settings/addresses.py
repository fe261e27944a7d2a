"""Whether an address can be read, found out without a library: what libraries say of an address
that they cannot read repeats it, and with it the password.

No sentence of this module contains any part of an address.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_TOPICS = re.compile(r"^(kafka|pulsar)(\+\w+)?://", re.IGNORECASE)
"""Addresses that are refused elsewhere, with the reason."""
_SCHEME = re.compile(r"postgres(ql)?://")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_HOST = re.compile(r"[A-Za-z0-9._~%-]*|\[[0-9A-Fa-f:.%]*\]")
_PORT = re.compile(r"\d{0,5}")
_PAIR = re.compile(
    r"\s*(?P<key>[^\s=]*)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s\\']|\\.)*)(?=\s|\Z)"
)
_KEYS = frozenset(
    re.findall(
        r"\w+",
        """
        service servicefile user password passfile channel_binding connect_timeout dbname host
        hostaddr port client_encoding options application_name fallback_application_name
        keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout
        sslmode requiressl sslnegotiation sslcompression sslcert sslkey sslpassword
        sslcertmode sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth
        min_protocol_version max_protocol_version ssl_min_protocol_version
        ssl_max_protocol_version gssencmode krbsrvname gsslib gssdelegation replication
        target_session_attrs load_balance_hosts scram_client_key scram_server_key
        sslkeylogfile oauth_issuer oauth_client_id oauth_client_secret oauth_scope ssl
        """,
    )
)
"""The settings that libpq knows."""
_SECRETS = ("password", "sslpassword", "oauth_client_secret")
_ALMOST_CLOUD = re.compile(r"(^|/)(s3a?|gs|az|adl|abfss?|wasbs?|azure|https?):")
"""An address that lacks a slash would be taken for a directory, and shown as one."""
_ESCAPES = (
    "In the user and the password, write %25 for %, %40 for @, %3A for :, %2F for /, "
    "%3F for ? and %20 for a space."
)
_QUOTES = "Put a value with spaces or quotes between single quotes, and write \\' and \\\\ in it."


class PublishedAddress(str):
    """The address of a Postgres database where esops may make tables that are published for logical
    replication. It is part of the address so that no way to a connection can lose it.
    """

    __slots__ = ()


def problem_of_dsn(dsn: str) -> str | None:
    """What is wrong with a libpq string or URL, in sentences; None where it can be read."""
    if _TOPICS.match(dsn):
        return None
    scheme = _SCHEME.match(dsn)
    if scheme is not None:
        wrong = _problem_of_url(dsn[scheme.end() :])
        return wrong and f"{wrong}. {_ESCAPES}"
    if re.fullmatch(r"[\w.-]*", dsn):
        return None  # libpq refuses a word alone, and connect says so
    if "=" not in dsn and dsn.strip():
        return (
            "this is not the address of a database. Write postgresql://user:password@host/database "
            "or host=… dbname=…"
        )
    wrong = _problem_of_pairs(dsn)
    return wrong and f"{wrong}. {_QUOTES}"


def _problem_of_url(rest: str) -> str | None:
    if re.search(r"[\s\x00-\x1f\x7f]", rest):
        return "the URL contains a space or a control character"
    if _PERCENT.search(rest):
        return "the URL contains a % without two hexadecimal digits"
    authority, _, behind = _split(rest)
    # libpq takes the first @ for the end of the password, and a / or ? for the end of the host.
    # After an empty password, what looks like a host may be a password that begins with @.
    if rest.count("@") > 1 or "@" in behind or re.search(":@.", authority):
        return "the URL contains an @, / or ? that is not where a URL has it"
    hosts = authority.rpartition("@")[2]
    for each in hosts.split(","):
        bracket = each.rfind("]")
        host, _, port = (
            (each[: bracket + 1], ":", each[bracket + 1 :].removeprefix(":"))
            if bracket >= 0
            else each.partition(":")
        )
        if not _HOST.fullmatch(host) or not _PORT.fullmatch(port):
            return "the host or the port in the URL cannot be read"
    query = behind.partition("?")[2]
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        if not equals or "=" in value or key not in _KEYS:
            return "the part of the URL behind the ? names a setting that libpq does not know"
        if _value_is_wrong(key, value):
            return "the part of the URL behind the ? cannot be read"
    return None


def _split(rest: str) -> tuple[str, str, str]:
    found = re.search(r"[/?]", rest)
    at = found.start() if found else len(rest)
    return rest[:at], rest[at : at + 1], rest[at:]


def _problem_of_pairs(dsn: str) -> str | None:
    at = 0
    while dsn[at:].strip():
        pair = _PAIR.match(dsn, at)
        if pair is None:
            return "the address is not made of key=value pairs"
        if pair["key"] not in _KEYS:
            return "the address names a setting that libpq does not know"
        value = re.sub(r"\\(.)", r"\1", pair["value"].strip("'"))
        if _value_is_wrong(pair["key"], value):
            return "the host, the port or the database in the address cannot be read"
        at = pair.end()
    return None


def _value_is_wrong(key: str, value: str) -> bool:
    """Whether a value cannot be what its key stands for, and so may be a part of something else."""
    if key in ("port", "connect_timeout", "tcp_user_timeout") or key.startswith("keepalives"):
        return re.fullmatch(r"[\d,\s-]*", value) is None
    if key not in _SECRETS and ";" in value:
        return True  # the next key, in the form of other libraries: Host=…;Password=…
    if key in ("host", "hostaddr"):
        return any(
            re.fullmatch(r"/[^@=\s]*|@[\w./-]+|[A-Za-z0-9._:%-]*", each) is None
            for each in value.split(",")
        )
    return key == "dbname" and ("://" in value or "=" in value)


def problem_of_uri(uri: str) -> str | None:
    """What is wrong with the URI of a node of EventStoreDB, in sentences; None where nothing is."""
    scheme = re.match(r"(esdb|kurrentdb|kurrent|eventstore)(\+discover)?://", uri)
    how = (
        "Write it like esdb://user:password@host:2113?tls=true, or esdb://host:2113?tls=false for "
        f"an insecure node. {_ESCAPES}"
    )
    if scheme is None:
        return None if _TOPICS.match(uri) else f"the URI does not begin with esdb://. {how}"
    rest = uri[scheme.end() :]
    authority, _, behind = _split(rest)
    if re.search(r"[\s\x00-\x1f\x7f]", rest) or _PERCENT.search(rest):
        return f"the URI contains a space, or a % without two hexadecimal digits. {how}"
    if rest.count("@") > 1 or "@" in behind or "#" in rest:
        return f"the URI contains an @, /, ? or # that is not where a URI has it. {how}"
    for each in authority.rpartition("@")[2].split(","):
        host, _, port = each.partition(":")
        if not _HOST.fullmatch(host) or not _PORT.fullmatch(port):
            return f"a host or a port in the URI cannot be read. {how}"
    return None


def problem_of_repository(address: str) -> str | None:
    """What is wrong with a repository's address, in a sentence; None where nothing is."""
    scheme, separator, rest = address.partition("://")
    if scheme == "file" or not (separator or _ALMOST_CLOUD.search(address)):
        return None
    authority, _, behind = _split(rest)
    container = scheme in ("abfs", "abfss", "adl", "azure", "az", "wasb", "wasbs")
    user, at, host = authority.rpartition("@")
    if (
        "@" in behind
        or "?" in rest
        or "#" in rest
        or ":" in user
        or not re.fullmatch(r"[a-z0-9+]+", scheme)
        or (at and not container)
        or not _PORT.fullmatch(host.partition(":")[2])
        or re.search(r"[\s\x00-\x1f\x7f]", rest)
    ):
        return (
            "the address of a repository holds no user, password, key or signature. Leave them "
            "out, and set them in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
        )
    return None


def _dsn(text: str) -> str:
    return _or_error(text, problem_of_dsn(text))


def _uri(text: str) -> str:
    return _or_error(text, problem_of_uri(text))


def _repository(text: str) -> str:
    return _or_error(text, problem_of_repository(text))


def _or_error(text: str, problem: str | None) -> str:
    if problem is not None:
        raise ValueError(problem)
    return text


Dsn = Annotated[str, AfterValidator(_dsn)]
Uri = Annotated[str, AfterValidator(_uri)]
RepositoryAddress = Annotated[str, AfterValidator(_repository)]
