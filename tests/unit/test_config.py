from __future__ import annotations

import string
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esops.config import Config, load_config, parse_config
from esops.errors import UsageError
from esops.settings import parse_duration
from esops.settings.base import parse_size

GOOD = {
    "stores": {"shop": {"dsn": "service=shop", "schema": "shop"}},
    "projections": {"carts": {"python": "a:b", "tables": ["carts"]}},
}


def parse(document) -> Config:
    return parse_config(document, Path("/x/esops.toml"))


def changed(*path, value):
    document = {
        section: {name: dict(keys) for name, keys in things.items()}
        for section, things in GOOD.items()
    }
    inner = document
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    return document


def test_what_is_left_out_has_its_default():
    config = parse(GOOD)
    assert config.store()[0] == "shop"
    assert config.readmodel_of("carts").dsn == "service=shop"
    assert config.projection("carts").switch == "view"
    assert config.projection("carts").live == "esops"


@pytest.mark.parametrize(
    ("path", "value", "message", "hint"),
    [
        (("stors",), {}, "stors: unknown key", "Did you mean 'stores'?"),
        (("stores", "shop", "dns"), "x", "stores.shop.dns: unknown key", "Did you mean 'dsn'?"),
        (
            ("stores", "shop", "schemas"),
            "x",
            "stores.shop.schemas: unknown key",
            "Did you mean 'schema'?",
        ),
        (
            ("projections", "carts", "tabels"),
            [],
            "projections.carts.tabels: unknown key",
            "Did you mean 'tables'?",
        ),
        (
            ("projections", "carts", "verify"),
            {"ignored": []},
            "projections.carts.verify.ignored: unknown key",
            "Did you mean 'ignore'?",
        ),
        (
            ("projections", "carts", "kind"),
            "flod",
            "projections.carts.kind: Input should be 'fold'",
            None,
        ),
        (
            ("projections", "carts", "switch"),
            "both",
            "projections.carts.switch: Input should be 'view', 'rename' or 'hook'",
            None,
        ),
        (("projections", "carts", "tables"), [], "projections.carts.tables:", None),
        (
            ("projections", "carts", "tables"),
            "carts",
            "projections.carts.tables: a list of texts is expected",
            None,
        ),
        (("projections", "carts", "events"), [3], "projections.carts.events.0: a text is", None),
        (("projections", "carts", "events"), [], "projections.carts.events: an empty list", None),
        (("projections", "carts", "verify"), 3, "projections.carts.verify: a section is", None),
        (("audit",), 3, "audit: a section is expected", None),
        (
            ("stores", "shop", "hole_threshold"),
            "3 sec",
            "stores.shop.hole_threshold: this is not a duration",
            None,
        ),
        (("path",), "x", "path: unknown key", None),
    ],
)
def test_an_error_names_file_key_and_the_nearest_known_key(path, value, message, hint):
    with pytest.raises(UsageError) as caught:
        parse(changed(*path, value=value))
    assert caught.value.message.startswith(f"/x/esops.toml: {message}")
    assert hint is None or caught.value.hint == hint
    assert caught.value.exit_code == 2


def test_a_missing_key_is_named():
    with pytest.raises(UsageError, match=r"projections\.carts\.python: .* needs this key"):
        parse({"projections": {"carts": {"tables": ["carts"]}}})


def test_variables_are_read_and_a_missing_one_is_named_by_its_key(monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", "s3cret")
    config = parse({"stores": {"shop": {"dsn": "password=${SHOP_PASSWORD} host=x"}}})
    assert config.stores["shop"].dsn == "password=s3cret host=x"
    assert "s3cret" not in repr(config)
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(
        UsageError, match=r"stores\.shop\.dsn: the environment variable SHOP_PASSWORD is not set"
    ):
        parse({"stores": {"shop": {"dsn": "password=${SHOP_PASSWORD}"}}})


def test_the_key_of_an_erasure_need_not_be_known_to_other_commands(tmp_path, monkeypatch):
    monkeypatch.delenv("ERASE_KEY", raising=False)
    rule = '[erase.{}]\nmask = {{ "$.name" = "hash" }}\nsecret = "{}"\n'
    file = tmp_path / "esops.toml"
    file.write_text(rule.format("customer", "${ERASE_KEY}") + rule.format("other", "x" * 16))
    assert [*load_config(file).erase] == ["other"]
    with pytest.raises(UsageError, match=r"erase\.customer\.secret: .* ERASE_KEY is not set"):
        load_config(file, erases=True)


def test_an_unknown_name_gets_the_nearest_one():
    config = parse(GOOD)
    with pytest.raises(UsageError) as caught:
        config.projection("cart")
    assert caught.value.hint == "Did you mean 'carts'?"
    with pytest.raises(UsageError, match="there is no store named 'shoop'"):
        config.store("shoop")


def test_several_stores_or_none_want_a_name():
    with pytest.raises(UsageError, match="there is no store"):
        parse({}).store()
    with pytest.raises(UsageError, match="there are several stores"):
        parse({"stores": {"a": {"dsn": "x"}, "b": {"dsn": "y"}}}).store()


def test_the_read_model_is_the_only_one_or_the_named_one():
    document = {**GOOD, "readmodels": {"main": {"dsn": "service=read", "schema": "r"}}}
    assert parse(document).readmodel_of("carts").db_schema == "r"
    document["readmodels"] = {**document["readmodels"], "other": {"dsn": "service=other"}}
    with pytest.raises(UsageError, match="several read models"):
        parse(document).readmodel_of("carts")


def test_it_is_found_in_a_parent_by_environment_or_by_option(tmp_path, monkeypatch):
    monkeypatch.delenv("ESOPS_CONFIG", raising=False)
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    with pytest.raises(UsageError, match="there is no esops.toml"):
        load_config()
    (tmp_path / "esops.toml").write_text('[stores.above]\ndsn = "x"')
    assert load_config().store()[0] == "above"
    (tmp_path / "other.toml").write_text('[stores.other]\ndsn = "x"')
    monkeypatch.setenv("ESOPS_CONFIG", str(tmp_path / "other.toml"))
    assert load_config().store()[0] == "other"
    assert load_config(tmp_path / "esops.toml").store()[0] == "above"
    with pytest.raises(UsageError, match="no configuration file"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "other.toml").write_text("[stores\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_config()


def test_the_name_that_it_was_found_by_keeps_its_links(tmp_path, monkeypatch):
    """Those of the folder that we are in are known from the shell, if that is where we still are."""
    monkeypatch.delenv("ESOPS_CONFIG", raising=False)
    (tmp_path / "release" / "inner").mkdir(parents=True)
    path = tmp_path / "release" / "esops.toml"
    path.write_text('[stores.shop]\ndsn = "x"')
    (tmp_path / "current").symlink_to("release")
    named = tmp_path / "current" / "esops.toml"
    monkeypatch.chdir(tmp_path / "current" / "inner")

    def found(explicit=None):
        config = load_config(explicit)
        assert config.path == path
        return config.named

    for shell in (None, "", "inner", str(tmp_path), str(tmp_path / "gone")):
        monkeypatch.delenv("PWD") if shell is None else monkeypatch.setenv("PWD", shell)
        assert found() == path
        assert found(named) == named
        assert found(Path("../esops.toml")).resolve() == path
    monkeypatch.setenv("PWD", str(tmp_path / "current" / "inner"))
    assert found() == named
    monkeypatch.chdir(tmp_path)
    assert found(Path("current/esops.toml")) == named
    monkeypatch.setenv("ESOPS_CONFIG", "current/esops.toml")
    assert found() == named
    with pytest.raises(UsageError, match="named: unknown key"):
        parse({"named": "x"})


@given(st.integers(0, 10_000), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations(number, unit):
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert parse_duration(f"{number}{unit}") == timedelta(seconds=number * seconds)
    with pytest.raises(ValueError, match="too long"):
        parse_duration(f"{10**30}{unit}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(string.printable, max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "stores",
                        "projections",
                        "readmodels",
                        "shop",
                        "dsn",
                        "tables",
                        "verify",
                        "versions",
                        "1",
                        "python",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_stands_in_the_file_it_is_a_config_or_a_usage_error(document):
    if not isinstance(document, dict):
        document = {"stores": document}
    try:
        parse(document)
    except UsageError as error:
        assert error.message.startswith("/x/esops.toml: ")


@pytest.mark.parametrize(
    ("text", "size"),
    [("64kB", 65_536), ("256MB", 256 << 20), ("1.5 GB", 3 << 29), ("1TB", 1 << 40)],
)
def test_sizes_are_in_the_units_of_postgres(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "256", "256mb", "-1MB", "1 MB or so", True, None, 1.5])
def test_what_is_no_size_is_a_value_error(text):
    with pytest.raises(ValueError, match="like 512kB"):
        parse_size(text)
