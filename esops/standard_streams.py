"""The process's standard streams: whose they are, and what they can write.

What a command results in is written to standard output, and nothing else is: a projection's own
`print()` must not stand in a JSON document. So a command keeps standard output for itself, and what
any other code prints goes to standard error.
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

_PLAIN = {
    "…": "...",
    "–": "-",  # noqa: RUF001
    "—": "-",
    "‘": "'",  # noqa: RUF001
    "’": "'",  # noqa: RUF001
    "“": '"',
    "”": '"',
    "→": "->",
    "×": "x",  # noqa: RUF001
    "≤": "<=",
    "≥": ">=",
    "─": "-",
    "│": "|",
    "└": "`",
    "├": "|",
    "•": "*",
    "━": "=",
}
"""How a terminal that has ASCII only writes what stands in our own texts."""
_HANDLER = "esops-readable"
_NO_ASCII = re.compile(r"[^\x00-\x7f]")


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Write what the encoding does not have in another way, instead of ending the command."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(each) or escaped(each) for each in missing), error.end


def escaped(text: str) -> str:
    r"""The text with `\uXXXX`, as JSON has it, for each character that ASCII does not have."""
    return _NO_ASCII.sub(_as_units, text)


def _as_units(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def never_fail() -> None:
    """Let both streams write every text, whatever their encoding is."""
    codecs.register_error(_HANDLER, _readable)
    for stream in (sys.stdout, sys.stderr):
        # A test's stream may be a list in memory, which takes everything.
        change = getattr(stream, "reconfigure", None)
        if change is not None:
            # A stream whose descriptor was exchanged cannot tell its position, which it is asked.
            with contextlib.suppress(OSError):
                change(errors=_HANDLER)


def can_write(stream: Any, text: str) -> bool:
    """Whether a stream writes this text as it is."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if encoding.lower().replace("-", "").startswith("utf"):
        return True
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


_results: list[TextIO] = []


def results() -> TextIO:
    """Where results go: standard output, also while other code's output goes elsewhere."""
    return _results[-1] if _results else sys.stdout


@contextlib.contextmanager
def kept_for_results() -> Iterator[None]:
    """Until the context ends, what other code prints goes to standard error. It may be entered
    again inside: results go where they went.
    """
    before = sys.stdout
    _results.append(results())
    sys.stdout = cast("TextIO", StderrNow())
    try:
        yield
    finally:
        _results.pop()
        sys.stdout = before


class StderrNow:
    """Standard error as it is at each write: a progress bar puts itself before it, so that log
    lines come out above the bar.
    """

    def write(self, text: str) -> int:
        """Write text."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Write out what is left."""
        sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)
