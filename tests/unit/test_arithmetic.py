"""What a projection's import sets of decimals is in force for its code, and for nobody else's."""

from __future__ import annotations

import decimal
import sys
from pathlib import Path

import pytest

from esops.errors import Refused
from esops.projections import arithmetic
from esops.projections.definition import Definition, load_definition
from esops.settings import ProjectionSettings

FOLD = """
{imports}
from esops import fold

@fold(key="stream")
def carts(row, event):
    return row
"""
IMPORTS = {
    "plain": "",
    "coarse": "import decimal; decimal.getcontext().prec = 3",
    "setting_one": "import a_setting",
    "setting_two": "import a_setting",
    "late_plain": "",
}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arithmetic, "_known", {})
    monkeypatch.setattr(arithmetic, "_set_by", [])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_setting.py").write_text(
        "import decimal\ndecimal.getcontext().rounding = decimal.ROUND_UP\n"
    )
    outer = decimal.getcontext().copy()

    def loaded(name: str) -> Definition:
        (tmp_path / f"{name}.py").write_text(FOLD.format(imports=IMPORTS[name]))
        settings = ProjectionSettings(kind="fold", python=f"{name}:carts", tables=("carts",))
        return load_definition(settings, tmp_path, f"esops.toml: projections.{name}")

    yield loaded
    decimal.setcontext(outer)
    for name in ("a_setting", *IMPORTS):
        sys.modules.pop(name, None)


def of(definition: Definition) -> tuple[int, str]:
    arithmetic.use_arithmetic(definition)
    context = decimal.getcontext()
    return context.prec, context.rounding


def test_each_has_what_its_own_import_left_whatever_was_used_before(load):
    usual = (decimal.getcontext().prec, decimal.getcontext().rounding)
    plain = load("plain")
    # The code that runs may set it as well; that is not what another one begins with.
    decimal.getcontext().prec = 7
    coarse = load("coarse")
    assert decimal.getcontext().prec == 7
    for _ in range(2):
        assert of(coarse) == (3, usual[1])
        assert of(plain) == usual
    # The module says nothing when it is asked for again.
    assert of(load("coarse")) == (3, usual[1])


def test_what_a_shared_module_set_for_the_first_one_is_not_guessed_for_others(load):
    first = load("setting_one")
    assert of(first)[1] == decimal.ROUND_UP
    for name in ("setting_two", "late_plain"):
        with pytest.raises(Refused, match=rf"projections\.{name} calculates .* projections\.sett"):
            of(load(name))
    assert of(first)[1] == decimal.ROUND_UP
