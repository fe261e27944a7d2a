"""Configurations, command lines, payloads and addresses made up at random, ten thousand in a soak run: a sentence
and the right exit code, and never a traceback.
"""

from __future__ import annotations

import json
import signal
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esops.cli.app import main
from esops.config import parse_config
from esops.errors import UsageError
from esops.events import Position
from esops.settings import STORE_SETTINGS, ProjectionSettings, ReadModelSettings, TableSettings
from esops.stores.eventstoredb.connect import read_uri
from esops.stores.payloads import decode_state
from esops.term import to_json
from esops.trace.log import event_as_dict
from tests.support.soak import rounds
from tests.unit.test_building_blocks import event

KEYS = sorted(
    {
        name
        for section in (
            *STORE_SETTINGS.values(),
            ReadModelSettings,
            ProjectionSettings,
            TableSettings,
        )
        for name in section.model_fields
    }
)
NAMES = st.sampled_from([*KEYS, "schema", "a", "1", ""])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["a:b", "3s", "fold", "server", "${HOME}"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
SECTIONS = st.dictionaries(
    st.sampled_from(["stores", "readmodels", "projections", "x"]),
    st.dictionaries(
        st.text(string.ascii_letters, min_size=1, max_size=3),
        st.dictionaries(NAMES, VALUES, max_size=5),
        max_size=2,
    )
    | VALUES,
    max_size=3,
)
WORDS = [
    *(
        "init",
        "doctor",
        "status",
        "metrics",
        "rebuild",
        "run",
        "projection",
        "events",
        "list",
        "show",
        "versions",
        "switch",
        "retire",
    ),
    *(
        "--blue-green",
        "--dry-run",
        "--resume",
        "--abort",
        "--yes",
        "--follow",
        "--limit",
        "--after",
        "--type",
        "--output",
        "json",
        "table",
    ),
    *(
        "--store",
        "--to",
        "--quiet",
        "--verbose",
        "--no-color",
        "--compare",
        "--max-diff",
        "--serve",
        "--output-file",
        "--dsn",
        "--uri",
    ),
    *(
        "shop",
        "carts",
        "0",
        "1",
        "-1",
        "x:y",
        "host=localhost port=1",
        "esdb://localhost:1?tls=false",
        "kafka://x",
        "--help",
        "--",
        "=",
    ),
]


@settings(max_examples=rounds(150, 4_000))
@given(SECTIONS)
def test_any_configuration_is_one_or_a_usage_error(document):
    try:
        parse_config(document, Path("/x/esops.toml"))
    except UsageError as error:
        assert error.message.startswith("/x/esops.toml: ")
        assert error.exit_code == 2


@settings(max_examples=rounds(100, 2_500))
@given(
    st.binary(max_size=60)
    | st.dictionaries(st.text(max_size=9), st.none() | st.text(max_size=9) | st.integers()).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_any_payload_is_shown(payload):
    state, micros = decode_state(payload)
    assert isinstance(state, bytes)
    assert micros is None or isinstance(micros, int)
    to_json(event_as_dict(event(data=payload, metadata=payload)))


@settings(max_examples=rounds(100, 2_000))
@given(
    st.sampled_from(["esdb://", "esdb+discover://", "kurrentdb://", ""]),
    st.text(string.printable, max_size=30),
)
def test_any_uri_is_one_or_a_usage_error(scheme, rest):
    try:
        read_uri("shop", scheme + rest)
    except UsageError as error:
        assert error.message.startswith("stores.shop.uri: ")


@settings(max_examples=rounds(150, 1_500))
@given(st.text(max_size=20))
def test_any_text_is_a_position_or_none(text):
    try:
        position = Position.parse(text)
    except ValueError:
        return
    assert Position.parse(str(position)) == position


@pytest.mark.slow
@settings(max_examples=rounds(40, 300))
@given(
    arguments=st.lists(st.sampled_from(WORDS) | st.text(string.printable, max_size=5), max_size=6)
)
def test_any_command_line_ends_with_a_documented_code(arguments, tmp_path_factory):
    folder = (
        tmp_path_factory.mktemp("fuzz")
        if not list(tmp_path_factory.getbasetemp().glob("fuzz*"))
        else next(tmp_path_factory.getbasetemp().glob("fuzz*"))
    )
    config = folder / "esops.toml"
    if not config.exists():
        config.write_text(
            '[stores.shop]\ndsn = "host=localhost port=1 dbname=x"\n[projections.carts]\npython = '
            '"nothing:carts"\ntables = ["carts"]\n'
        )
    if {"--follow", "--serve", "--output-file", "run", "demo"} & set(arguments):
        return  # these may go on, or write
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            main(
                [*arguments, "--config", str(config)]
                if "init" not in arguments
                else [*arguments, "--output-file", str(config)]
            )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert ended.value.code in (0, 1, 2, 3, 5, 6), arguments
