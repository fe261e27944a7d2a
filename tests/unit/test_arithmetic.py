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
    "coarse_setting": "import a_setting, decimal; decimal.getcontext().prec = 3",
    "needing": "import needs",
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
    for name in ("a_setting", "needs", *IMPORTS):
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


def test_what_a_shared_module_set_for_the_first_one_holds_for_all_that_import_it(load):
    first, usual = load("setting_one"), decimal.getcontext().rounding
    assert of(first) == (28, decimal.ROUND_UP)
    assert of(load("setting_two")) == (28, decimal.ROUND_UP)
    assert of(load("late_plain")) == (28, usual)
    assert of(load("coarse")) == (3, usual)
    assert of(load("coarse_setting")) == (3, decimal.ROUND_UP)
    assert of(first) == (28, decimal.ROUND_UP)


def test_a_module_that_fails_without_the_others_is_not_guessed(load, tmp_path):
    load("coarse")
    (tmp_path / "needs.py").write_text("import sys\nassert 'coarse' in sys.modules\n")
    with pytest.raises(
        Refused, match=r"how projections\.needing calculates .* projections\.coarse"
    ):
        of(load("needing"))


def test_a_program_that_imported_the_module_itself_changes_nothing(load, monkeypatch):
    load("setting_one")
    arithmetic._known.clear()
    arithmetic._set_by.clear()
    decimal.getcontext().rounding = decimal.ROUND_UP
    assert of(load("setting_one")) == (28, decimal.ROUND_UP)
    assert of(load("late_plain"))[1] == decimal.ROUND_HALF_EVEN
