"""The fingerprint of code: each way in which code can change is seen, and what changes nothing is
not.
"""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from esops import fold
from esops.errors import UsageError
from esops.projections import other_process
from esops.projections.definition import Handlers, SqlDefinition, load_definition
from esops.projections.fingerprint import Code
from esops.projections.first_fingerprint import first_fingerprint
from esops.projections.other_process import unsteady
from esops.settings.projections import ProjectionSettings

FOLD = """
from esops import fold
@fold()
def cart(row, event):
    return {"n": work(event)}
"""


def settings(**more):
    return ProjectionSettings(python="app.carts:cart", tables=("cart",), **more)


def code_of(folder: Path, files: dict[str, str], **more) -> Code:
    """The code of a small project, imported anew."""
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for name in [each for each in sys.modules if each.partition(".")[0] in {"app", "shared"}]:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        return Code(load_definition(settings(), folder, "test"), settings(**more), folder)
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def differ(tmp_path):
    """Whether two texts of a module, with other files beside it, have different fingerprints."""

    calls = itertools.count()

    def of(before, after, others=None, others_after=None):
        both = []
        # A folder each: Python does not see a change of a file within a second.
        for text, more in ((before, others), (after, others_after or others)):
            files = {"app/__init__.py": "", "app/carts.py": text}
            code = code_of(tmp_path / str(next(calls)), {**files, **(more or {})})
            both.append(code.fingerprint)
        return both[0] != both[1]

    return of


CHANGES = {
    "the function itself": ("def work(e): return 1", "def work(e): return 2"),
    "an operator": ("def work(e): return 1 + 2", "def work(e): return 1 - 2"),
    "a default": ("def work(e, n=1): return n", "def work(e, n=2): return n"),
    "a computed default": (
        "N = 1\ndef work(e, *, n={'a': [N]}): return n",
        "N = 2\ndef work(e, *, n={'a': [N]}): return n",
    ),
    "a helper's helper": (
        "def third(): return 1\ndef second(): return third()\ndef work(e): return second()",
        "def third(): return 2\ndef second(): return third()\ndef work(e): return second()",
    ),
    "a constant": ("N = 1\ndef work(e): return N", "N = 2\ndef work(e): return N"),
    "a type of constant": ("N = 1\ndef work(e): return N", "N = True\ndef work(e): return N"),
    "a dictionary": ("N = {'a': 1}\ndef work(e): return N", "N = {'a': 2}\ndef work(e): return N"),
    "the order of a dictionary": (
        "N = {'a': 1, 'b': 2}\ndef work(e): return N",
        "N = {'b': 2, 'a': 1}\ndef work(e): return N",
    ),
    "a set in a dictionary": (
        "N = {'a': {'x', 'y'}}\ndef work(e): return N",
        "N = {'a': {'x', 'z'}}\ndef work(e): return N",
    ),
    "a statement that fills a dictionary": (
        "N = {}\nN['a'] = len\ndef work(e): return N",
        "N = {}\nN['a'] = max\ndef work(e): return N",
    ),
    "a function in a dictionary": (
        "def inner(): return 1\nN = {'a': [inner]}\ndef work(e): return N['a'][0]()",
        "def inner(): return 2\nN = {'a': [inner]}\ndef work(e): return N['a'][0]()",
    ),
    "functions in a dictionary change places": (
        "def make(n): return lambda: n\nN = {'a': make(1), 'b': make(2)}\ndef work(e): return N",
        "def make(n): return lambda: n\nN = {'a': make(2), 'b': make(1)}\ndef work(e): return N",
    ),
    "a method": (
        "class C:\n    def m(self): return 1\ndef work(e): return C().m()",
        "class C:\n    def m(self): return 2\ndef work(e): return C().m()",
    ),
    "what a method uses": (
        "def f(): return 1\nclass C:\n    def m(self): return f()\ndef work(e): return C().m()",
        "def f(): return 2\nclass C:\n    def m(self): return f()\ndef work(e): return C().m()",
    ),
    "a base class": (
        "class B:\n    def m(self): return 1\nclass C(B): pass\ndef work(e): return C().m()",
        "class B:\n    def m(self): return 2\nclass C(B): pass\ndef work(e): return C().m()",
    ),
    "a metaclass": (
        "class M(type):\n    def m(s): return 1\nclass C(metaclass=M): pass\ndef work(e): return C.m()",
        "class M(type):\n    def m(s): return 2\nclass C(metaclass=M): pass\ndef work(e): return C.m()",
    ),
    "an attribute of a class": (
        "class C:\n    rate = 1\ndef work(e): return C.rate",
        "class C:\n    rate = 2\ndef work(e): return C.rate",
    ),
    "a property": (
        "class C:\n    @property\n    def m(self): return 1\ndef work(e): return C().m",
        "class C:\n    @property\n    def m(self): return 2\ndef work(e): return C().m",
    ),
    "a class method": (
        "class C:\n    @classmethod\n    def m(cls): return 1\ndef work(e): return C.m()",
        "class C:\n    @classmethod\n    def m(cls): return 2\ndef work(e): return C.m()",
    ),
    "a method that is added later": (
        "class C: pass\nC.m = lambda self: 1\ndef work(e): return C().m()",
        "class C: pass\nC.m = lambda self: 2\ndef work(e): return C().m()",
    ),
    "a field of a dataclass": (
        (
            "from dataclasses import dataclass\n@dataclass\nclass C:\n    n: int = 1\n"
            "def work(e): return C().n"
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass C:\n    n: int = 2\n"
            "def work(e): return C().n"
        ),
    ),
    "a class that a field names": (
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\nclass D:\n"
            "    def m(self): return 1\n@dataclass\nclass C:\n    d: D\ndef work(e): return C"
        ),
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\nclass D:\n"
            "    def m(self): return 2\n@dataclass\nclass C:\n    d: D\ndef work(e): return C"
        ),
    ),
    "a made dataclass": (
        (
            "import dataclasses\nC = dataclasses.make_dataclass('C', [('n', int, 1)])\n"
            "def work(e): return C()"
        ),
        (
            "import dataclasses\nC = dataclasses.make_dataclass('C', [('n', int, 2)])\n"
            "def work(e): return C()"
        ),
    ),
    "a named tuple": (
        "from collections import namedtuple\nC = namedtuple('C', 'a b')\ndef work(e): return C(1, 2)",
        "from collections import namedtuple\nC = namedtuple('C', 'b a')\ndef work(e): return C(1, 2)",
    ),
    "an enumeration": (
        "from enum import Enum\nclass C(Enum):\n    A = 1\ndef work(e): return C.A",
        "from enum import Enum\nclass C(Enum):\n    A = 2\ndef work(e): return C.A",
    ),
    "an object's state": (
        "class C:\n    def __init__(self, n): self.n = n\nN = C(1)\ndef work(e): return N.n",
        "class C:\n    def __init__(self, n): self.n = n\nN = C(2)\ndef work(e): return N.n",
    ),
    "an object's state in slots": (
        "class C:\n    __slots__ = ('n',)\nN = C()\nN.n = 1\ndef work(e): return N.n",
        "class C:\n    __slots__ = ('n',)\nN = C()\nN.n = 2\ndef work(e): return N.n",
    ),
    "a bound method": (
        "class C:\n    def __init__(s, n): s.n = n\n    def m(s, e): return s.n\nwork = C(1).m",
        "class C:\n    def __init__(s, n): s.n = n\n    def m(s, e): return s.n\nwork = C(2).m",
    ),
    "an object that can be called": (
        "class C:\n    def __call__(self, e): return 1\nwork = C()",
        "class C:\n    def __call__(self, e): return 2\nwork = C()",
    ),
    "a partial's function": (
        "import functools\ndef f(n, e): return n\nwork = functools.partial(f, 1)",
        "import functools\ndef f(n, e): return -n\nwork = functools.partial(f, 1)",
    ),
    "a partial's argument": (
        "import functools\ndef f(n, e): return n\nwork = functools.partial(f, 1)",
        "import functools\ndef f(n, e): return n\nwork = functools.partial(f, 2)",
    ),
    "a closure": (
        "def make(n):\n    def work(e): return n\n    return work\nwork = make(1)",
        "def make(n):\n    def work(e): return n\n    return work\nwork = make(2)",
    ),
    "one of two lambdas of a line": (
        "work, other = lambda e: 1, lambda e: 2",
        "work, other = lambda e: 3, lambda e: 2",
    ),
    "a decorator": (
        (
            "def twice(f):\n    def inner(e): return 2 * f(e)\n    return inner\n"
            "@twice\ndef work(e): return 1"
        ),
        (
            "def twice(f):\n    def inner(e): return 3 * f(e)\n    return inner\n"
            "@twice\ndef work(e): return 1"
        ),
    ),
    "a decorator that wraps": (
        (
            "import functools\ndef d(f):\n    @functools.wraps(f)\n    def inner(e): return f(e)\n"
            "    return inner\n@d\ndef work(e): return 1"
        ),
        (
            "import functools\ndef d(f):\n    @functools.wraps(f)\n    def inner(e): return -f(e)\n"
            "    return inner\n@d\ndef work(e): return 1"
        ),
    ),
    "a decorator that leaves the function as it is": (
        "def d(f):\n    f.n = 1\n    return f\n@d\ndef work(e): return work.n",
        "def d(f):\n    f.n = 2\n    return f\n@d\ndef work(e): return work.n",
    ),
    "behind a cache": (
        "import functools\n@functools.cache\ndef work(e): return 1",
        "import functools\n@functools.cache\ndef work(e): return 2",
    ),
    "by type of argument": (
        (
            "import functools\n@functools.singledispatch\ndef work(e): return 1\n"
            "@work.register\ndef _(e: int): return 1"
        ),
        (
            "import functools\n@functools.singledispatch\ndef work(e): return 1\n"
            "@work.register\ndef _(e: int): return 2"
        ),
    ),
    "a registry that decorators fill": (
        (
            "R = {}\ndef on(name): return lambda f: R.setdefault(name, f)\n"
            "@on('a')\ndef f(): return 1\ndef work(e): return R['a']()"
        ),
        (
            "R = {}\ndef on(name): return lambda f: R.setdefault(name, f)\n"
            "@on('a')\ndef f(): return 2\ndef work(e): return R['a']()"
        ),
    ),
    "a registry that classes fill": (
        (
            "R = []\nclass B:\n    def __init_subclass__(cls): R.append(cls)\n"
            "class C(B):\n    def m(self): return 1\ndef work(e): return R[0]().m()"
        ),
        (
            "R = []\nclass B:\n    def __init_subclass__(cls): R.append(cls)\n"
            "class C(B):\n    def m(self): return 2\ndef work(e): return R[0]().m()"
        ),
    ),
    "a pattern": (
        "import re\nN = re.compile('a')\ndef work(e): return N",
        "import re\nN = re.compile('b')\ndef work(e): return N",
    ),
    "a value of Python's library": (
        (
            "from decimal import Decimal\nfrom datetime import timedelta\n"
            "N = (Decimal('1.0'), timedelta(1))\ndef work(e): return N"
        ),
        (
            "from decimal import Decimal\nfrom datetime import timedelta\n"
            "N = (Decimal('1.00'), timedelta(1))\ndef work(e): return N"
        ),
    ),
    "a dictionary with a default": (
        "from collections import defaultdict\nN = defaultdict(lambda: 1)\ndef work(e): return N[e]",
        "from collections import defaultdict\nN = defaultdict(lambda: 2)\ndef work(e): return N[e]",
    ),
    "an object that hides its state": (
        "import threading\nN = threading.local()\nN.n = 1\ndef work(e): return N.n",
        "import threading\nN = threading.local()\nN.n = 2\ndef work(e): return N.n",
    ),
    "code without source": (
        "names = {}\nexec('def work(e): return 1', names)\nwork = names['work']",
        "names = {}\nexec('def work(e): return 2', names)\nwork = names['work']",
    ),
    "by its name at run time": (
        "def f(): return 1\ndef work(e): return globals()['f']()",
        "def f(): return 2\ndef work(e): return globals()['f']()",
    ),
    "functions that call each other": (
        "def f(n): return n and g(n - 1)\ndef g(n): return n and f(n - 1)\ndef work(e): return f(3)",
        "def f(n): return n and g(n - 1)\ndef g(n): return n and f(n - 2)\ndef work(e): return f(3)",
    ),
    "an inner function": (
        "def work(e):\n    def inner(): return N\n    return inner()\nN = 1",
        "def work(e):\n    def inner(): return N\n    return inner()\nN = 2",
    ),
    "a generator": (
        "def work(e): return sum(n * N for n in range(3))\nN = 1",
        "def work(e): return sum(n * N for n in range(3))\nN = 2",
    ),
}


def long(body: str) -> str:
    """A function with more names than fit into one byte of Python's instructions."""
    names = "".join(f"    if e == {n}: return x{n}\n" for n in range(260))
    return f"def work(e):\n{names}    import app.rules\n    return {body}"


LAZY = """
class Lazy:
    @property
    def __class__(self): raise RuntimeError("not configured")
    def __getattr__(self, name): raise RuntimeError("not configured")
LAZY = Lazy()
"""
RULES = "R = {}\ndef rule(n): return lambda f: R.setdefault(n, f)\n"
A, B = "@rule('a')\ndef a(e): return 1\n", "@rule('b')\ndef b(e): return 2\n"
VARIABLE = "import contextvars\nN = contextvars.ContextVar('n')\n"
MODEL = "import pydantic\nC = pydantic.create_model('C', n=(int, 1))\ndef work(e): return C().n"
SET_LATER = "class C: pass\nn = {}\nexec('def m(self): return 1', n)\nC.m = n['m']\n"
TEMPLATE = """
TEXT = "def m(self): return 1"
class C: pass
def make(text):
    names = {}
    exec(text, names)
    return names["m"]
for n in ("m",): setattr(C, n, make(TEXT))
def work(e): return C().m()
"""
ENTRY = "import sys\ndef work(e): return getattr(sys.modules[__name__], 'f')()\ndef f(): return 1"
CHANGES |= {
    "a private function": (
        "def __vat(e): return 1\ndef work(e): return __vat(e)",
        "def __vat(e): return 2\ndef work(e): return __vat(e)",
    ),
    "a private constant": (
        "__RATES = {'a': 1}\ndef work(e): return __RATES",
        "__RATES = {'a': 2}\ndef work(e): return __RATES",
    ),
    "beside an object that may not be looked at": (
        f"{LAZY}def work(e): return LAZY.x if e else 1",
        f"{LAZY}def work(e): return LAZY.x if e else 2",
    ),
    "beside a list with such an object": (
        f"{LAZY}N = [LAZY, 1]\ndef work(e): return N",
        f"{LAZY}N = [LAZY, 2]\ndef work(e): return N",
    ),
    "an object that may not be looked at": (
        f"{LAZY}def work(e): return LAZY.x",
        f"{LAZY}LAZY.__dict__['x'] = 1\ndef work(e): return LAZY.x",
    ),
    "a long function": (long("1"), long("2")),
    "a model that is made by a call": (MODEL, MODEL.replace("(int, 1)", "(int, 2)")),
    "the order of a registry that decorators fill": (
        f"{RULES}{A}{B}def work(e): return next(iter(R.values()))(e)",
        f"{RULES}{B}{A}def work(e): return next(iter(R.values()))(e)",
    ),
    "the order of calls": (
        "R = {}\ndef put(k): R[k] = k\nput(1)\nput(2)\ndef work(e): return next(iter(R))",
        "R = {}\ndef put(k): R[k] = k\nput(2)\nput(1)\ndef work(e): return next(iter(R))",
    ),
    "an object that a loop fills": (
        f"{VARIABLE}for n in (1,): N.set(n)\ndef work(e): return N.get()",
        f"{VARIABLE}for n in (2,): N.set(n)\ndef work(e): return N.get()",
    ),
    "an object that a condition fills": (
        f"{VARIABLE}if True: N.set(1)\ndef work(e): return N.get()",
        f"{VARIABLE}if True: N.set(2)\ndef work(e): return N.get()",
    ),
    "what a decorator registers with an object of another package": (
        "import weakref\nN = weakref.WeakSet()\n@N.add\ndef f(): return 1\ndef work(e): return N",
        "import weakref\nN = weakref.WeakSet()\n@N.add\ndef f(): return 2\ndef work(e): return N",
    ),
    "a setting of Python": (
        "import decimal\ndecimal.getcontext().prec = 28\ndef work(e): return decimal.Decimal(1)",
        "import decimal\ndecimal.getcontext().prec = 27\ndef work(e): return decimal.Decimal(1)",
    ),
    "a patch of another module": (
        "import colorsys as a\na.x = lambda e: 1\ndef work(e): return a.x(e)",
        "import colorsys as a\na.x = lambda e: 2\ndef work(e): return a.x(e)",
    ),
    "a method from a text": (
        f"{SET_LATER}def work(e): return C().m()",
        f"{SET_LATER.replace('1', '2')}def work(e): return C().m()",
    ),
    "a method from a text elsewhere": (TEMPLATE, TEMPLATE.replace("return 1", "return 2")),
    "by its name in its module": (ENTRY, ENTRY.replace("return 1", "return 2")),
    "subclasses that are looked for": (
        "class B: pass\nclass C(B): n = 1\ndef work(e): return B.__subclasses__()[0].n",
        "class B: pass\nclass C(B): n = 2\ndef work(e): return B.__subclasses__()[0].n",
    ),
    "a documentation string that is read": (
        "import inspect\ndef f(): '1'\ndef work(e): return inspect.getdoc(f)",
        "import inspect\ndef f(): '2'\ndef work(e): return inspect.getdoc(f)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_code_is_seen(change, differ):
    before, after = CHANGES[change]
    assert differ(f"{before}\n{FOLD}", f"{after}\n{FOLD}")


@pytest.mark.parametrize(
    "used",
    [
        "from app.rules import vat\ndef work(e): return vat(e)",
        "from app import rules\ndef work(e): return rules.vat(e)",
        "import app.rules\ndef work(e): return app.rules.vat(e)",
        "from . import rules as r\ndef work(e): return r.vat(e)",
        "def work(e):\n    from app.rules import vat\n    return vat(e)",
        "def work(e):\n    from .rules import vat\n    return vat(e)",
        "def work(e):\n    import app.rules\n    return app.rules.vat(e)",
        "import app.rules as r\ndef work(e): return getattr(r, 'v' + 'at')(e)",
        "from app.rules import TABLE\ndef work(e): return TABLE['vat'](e)",
        "from app.rules import *\ndef work(e): return vat(e)",
        "from shared.money import vat\ndef work(e): return vat(e)",
        "import shared.money\nfrom functools import partial\nwork = partial(shared.money.vat)",
    ],
)
def test_a_change_in_another_module_of_the_project_is_seen(used, differ):
    def others(n):
        text = f"def vat(e): return {n}\nTABLE = {{'vat': vat}}\n"
        return {"app/rules.py": text, "shared/__init__.py": "", "shared/money.py": text}

    text = f"{used}\n{FOLD}"
    assert differ(text, text, others(1), others(2))
    assert not differ(text, text, others(1))


@pytest.mark.parametrize(
    ("used", "before", "after"),
    [
        ("from app.rules import *", "N = {'a': 1, 'b': 2}", "N = {'b': 2, 'a': 1}"),
        ("from app.rules import N", "N = 1", "N = 2"),
        ("import app.rules\nfrom app import N", "import app\napp.N = 1", "import app\napp.N = 2"),
    ],
)
def test_how_another_module_makes_a_value_is_seen(used, before, after, differ):
    text = f"{used}\ndef work(e): return N\n{FOLD}"
    assert differ(text, text, {"app/rules.py": before}, {"app/rules.py": after})


BESIDE = """
import json, functools, dataclasses
from typing import TYPE_CHECKING
from esops import Handlers, fold
if TYPE_CHECKING:
    from app.absent import N
@fold()
def other(row, event): return {"n": 2}
handlers = Handlers()
@handlers.on("a")
def on_a(event, write): write
@functools.cache
def cached(): return 1
@dataclasses.dataclass
class D: n: int = 1
if __name__ == "__main__":
    print(other)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def work(e): return 1", "def work(e):\n\n    # why\n    return (1)"),
        ("def work(e): return 1", 'def work(e):\n    """Docs."""\n    return 1'),
        (
            "class C: n = 1\ndef work(e): return C",
            'class C:\n    "Docs."\n    n = 1\ndef work(e): return C',
        ),
        ("def work(e): return 1", "def other(e): return 2\nN = 3\ndef work(e): return 1"),
        ("def work(e): return 1", f"{BESIDE}def work(e): return 1"),
        (
            "N = {'a', 'b'}\ndef work(e): return 'a' in N",
            "N = {'a', 'b'}  # two\ndef work(e): return 'a' in N",
        ),
    ],
)
def test_what_changes_nothing_is_not_seen(before, after, differ):
    assert not differ(f"{before}\n{FOLD}", f"{after}\n{FOLD}")


def test_the_key_and_the_handlers_count(differ):
    fold_by = "@fold(key=lambda event: event.{})\ndef cart(row, event): return row\n"
    fold_by = f"from esops import fold\n{fold_by}"
    assert differ(fold_by.format("stream"), fold_by.format("type"))

    def handlers(n, kind):
        found = Handlers()
        found.on(kind)(lambda event, write: n)
        return Code(found, settings(), Path()).fingerprint

    assert len({handlers(1, "a"), handlers(2, "a"), handlers(1, "b")}) == 3
    assert handlers(1, "a") == handlers(1, "a")


SEEDED = """
import enum, functools, re
from collections import defaultdict
from dataclasses import dataclass

N = {"a": {"x", "y", "z"}, "b": frozenset({"p", "q", "r"}), "c": {("k", n) for n in "abcdef"}}
D = {each: len for each in {"d", "e", "f", "g"}}
S = {len, max, min, sum}

class Kind(enum.Enum):
    A = frozenset({"u", "v"})

@dataclass
class C:
    tags = {"m", "n", "o"}
    def m(self): return self.tags & {"h", "i", "j"}

def f(n): return n and g(n - 1)
def g(n): return n and f(n - 1)
R = {f, g}
O = C()
P = functools.partial(f, n={"1", "2", "3"})

def work(e, n={"r", "s", "t"}):
    return N, D, S, Kind.A, C().m(), R, O, P, e in {"1", "2", "3"}, re.compile("x")
"""


def in_processes(folder, *seeds, **environment):
    """The fingerprints of the project of a folder in processes of their own."""
    program = (
        "from pathlib import Path\n"
        "from tests.unit.test_fingerprint import code_of\n"
        f"print(code_of(Path({str(folder)!r}), {{}}).fingerprint)"
    )
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, **environment},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in seeds
    }


def test_processes_that_hash_differently_agree(tmp_path):
    code_of(tmp_path, {"app/__init__.py": "", "app/carts.py": f"{SEEDED}{FOLD}"})
    assert len(in_processes(tmp_path, "1", "2")) == 1


@pytest.mark.thorough
def test_a_decorator_that_names_a_function_has_the_same_hash_in_every_process(tmp_path):
    named = FOLD.replace("@fold()", "@fold(key=kf)")
    assert named != FOLD
    code_of(
        tmp_path, {"app/__init__.py": "", "app/carts.py": f"def kf(e): return e.stream\n{named}"}
    )
    assert len(in_processes(tmp_path, "1", "2")) == 1


UNSTEADY = """
import re, time

class Metrics:
    def __init__(self): self.started = time.time()
METRICS = Metrics()
PATTERN = re.compile("|".join({"a", "b", "c"}))
RATE = 1
print("a line at the start")
def work(e): return METRICS, PATTERN, RATE
"""
READ = "import os\nRATE = os.environ.get('RATE')\ndef work(e): return RATE"


def test_values_that_differ_by_process_are_no_change_of_code(tmp_path):
    files = {"app/__init__.py": "", "app/carts.py": f"{UNSTEADY}{FOLD}"}
    code = code_of(tmp_path / "1", files)
    (noted,) = in_processes(tmp_path / "1", "1")
    noted = noted.split()[-1]
    assert noted != code.fingerprint
    assert code.made(noted)
    names = unsteady(code.definition, code.settings, tmp_path / "1")
    assert set(names) <= {"app.carts.METRICS", "app.carts.PATTERN"}
    assert "app.carts.METRICS" in names
    files["app/carts.py"] = files["app/carts.py"].replace("RATE = 1", "RATE = 2")
    assert not code_of(tmp_path / "2", files).made(noted)


def test_a_steady_value_from_outside_is_a_change_of_code(tmp_path, monkeypatch):
    monkeypatch.setattr(other_process, "_SEEDS", ("1",))
    monkeypatch.setenv("RATE", "2")
    code = code_of(tmp_path, {"app/__init__.py": "", "app/carts.py": f"{READ}\n{FOLD}"})
    (noted,) = in_processes(tmp_path, "1", RATE="1")
    assert not code.made(noted)
    assert code.made(code.fingerprint)


def test_a_version_of_an_installed_package_counts(monkeypatch, differ):
    from esops.projections import code_origin

    text = f"import orjson\ndef work(e): return orjson.loads('1')\n{FOLD}"
    assert not differ(text, text)
    versions = iter(["1.0", "2.0"])
    monkeypatch.setattr(code_origin, "_distributions", lambda top: f"{top}=={next(versions)}")
    assert differ(text, text)


def test_the_event_filter_and_named_files_count(tmp_path):
    files = {
        "app/__init__.py": "",
        "app/carts.py": f"def work(e): return 1\n{FOLD}",
    }
    plain = code_of(tmp_path, files)

    def now(**more):
        return Code(plain.definition, settings(**more), tmp_path).fingerprint

    assert now() == plain.fingerprint
    different = {now(), now(events=("a",)), now(events=("a", "b")), now(category="c")}
    assert len(different | {now(include_archived=True)}) == 5
    assert now(events=("a", "b")) == now(events=("b", "a"))
    (tmp_path / "rules.json").write_text("1")
    before = now(fingerprint=("*.json",)), now(fingerprint=("rules.json",))
    assert before[0] == before[1] != now()
    (tmp_path / "rules.json").write_text("2")
    assert now(fingerprint=("rules.json",)) not in before
    with pytest.raises(UsageError, match=r"absent\.json"):
        now(fingerprint=("absent.json",))


def test_a_cache_that_fills_while_it_works_is_no_change_of_code(tmp_path):
    text = f"KNOWN = {{}}\ndef work(e): return KNOWN.setdefault(e, 1)\n{FOLD}"
    code = code_of(tmp_path, {"app/__init__.py": "", "app/carts.py": text})
    before = code.fingerprint
    code.definition(None, "x")
    assert Code(code.definition, code.settings, tmp_path).fingerprint == before


SECOND = {
    "2:570624bbe29d1ea3": SEEDED,
    "2:df61796adf0c8152": "def __vat(x): return x\ndef work(e): return __vat(e)",
    "2:287183a066384923": (
        "class Lazy:\n    def __getattr__(self, n): raise RuntimeError\n"
        "L = Lazy()\ndef work(e): return L.x"
    ),
    "2:6319ac9183d5122d": "from app.rules import *\ndef work(e): return TABLE",
    "2:809962f537f88567": (
        "N = []\nfor n in (1, 2): N.append(n)\nclass C: pass\nC.m = len\ndef work(e): return N, C"
    ),
}


def test_a_fingerprint_of_the_second_way_is_compared_by_it(tmp_path):
    for kept, text in SECOND.items():
        files = {
            "app/__init__.py": "",
            "app/rules.py": "def vat(e): return 1\nTABLE = {'a': vat}\n",
            "app/carts.py": f"{text}\n{FOLD}",
        }
        code = code_of(tmp_path / kept, files)
        assert code.made(kept)
        assert code.fingerprint.startswith("3:")
        assert not code.made("2:" + code.fingerprint[2:18])


STATEMENT = "SELECT 1 -- all\n WHERE type = 'a'"


@pytest.mark.parametrize(
    "other",
    [STATEMENT.replace("\n", ""), STATEMENT.replace("'a'", "'a '"), STATEMENT.replace("1", "2")],
)
def test_each_change_of_a_statement_is_seen(other):
    code = Code(SqlDefinition(Path("s.sql"), STATEMENT), settings(), Path())
    assert code.fingerprint != Code(SqlDefinition(Path(), other), settings(), Path()).fingerprint
    assert code.made("2:95789a210897de2b")
    assert not code.made("2:95789a210897de2c")


def test_a_fingerprint_of_the_first_way_is_compared_by_it():
    @fold()
    def one(row, event):
        return {"n": 1}

    @fold()
    def two(row, event):
        return {"n": 2}

    code = Code(one, settings(events=("a",)), Path())
    assert code.made(first_fingerprint(one))
    assert code.made(code.fingerprint)
    assert not code.made(first_fingerprint(two))
    assert not code.made("4:" + code.fingerprint[2:])
    assert not code.made(None)
