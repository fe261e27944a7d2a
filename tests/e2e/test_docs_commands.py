"""Every command line that the docs show is run, in a shop as they describe it, with the exit code
of something that works.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import documented_schemas, marten, shop
from tests.support.cases import thorough_but
from tests.support.waiting import DEADLINE, finish

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINE = re.compile(r"^ {4}(?:\S*/)?esops (?P<arguments>.+)$", re.MULTILINE)
NOT_HERE = {"demo": "tests/e2e/test_demo.py runs the demo"}
ARCHIVE = """
[archives.cold]
repository = "cold"
[archives.cold.policies.old-carts]
store = "shop"
category = "shopping_cart"
closed_by = ["shopping_cart_confirmed", "shopping_cart_canceled"]
remove = "archive"
never_younger_than = "0s"
"""
SHORTEN = """
[archives.cold.policies.closed-months]
store = "shop"
category = "shopping_cart"
until = "product_item_added"
remove = "delete"
"""
ERASE = """
[erase.customer]
where = "customerId"
mask = { email = "null" }
"""
ANOTHER = """
[projections.customer_totals]
python = "shop_projections:cart_summary"
tables = ["customer_totals"]
ddl = "cart_summary.sql"
"""
NOTIFY = """
[notify.log]
command = ["true"]
"""
CORE = ["README.md", "docs/how-to/look-at-events.md", "docs/tutorial/first-rebuild.md"]
"""Whose command lines `make test` runs."""
ENDLESS = ("--follow", "--watch", "--serve")


def documented() -> list[tuple[str, list[str]]]:
    """Each page's command lines in their order, up to a pipe, a redirection or a comment."""
    found = []
    for page in PAGES:
        for match in LINE.finditer(page.read_text()):
            line = re.split(r"\s[|>]\s|\s\|\|\s|\s>|\s#|\s\(or", match["arguments"])[0]
            found.append((str(page.relative_to(ROOT)), shlex.split(line)))
    return found


def archiving() -> set[str]:
    """The pages that archive streams away."""
    return {page for page, arguments in documented() if arguments[:2] == ["archive", "run"]}


def test_pages_show_commands():
    assert len(documented()) > 20
    assert {*CORE} < {page for page, _ in documented()}


def _endless(line: list[str]) -> bool:
    return bool(set(ENDLESS) & set(line)) or (line[0] == "run" and "--until-caught-up" not in line)


def _name_in_config(project, old: str = "", new: str = "") -> None:
    if old:
        text = (project.folder / "esops.toml").read_text()
        project.write("esops.toml", text.replace(f"[projections.{old}]", f"[projections.{new}]"))


def parts() -> dict[str, list[str]]:
    """The pages in parts: those of `make test`, and the others in two that take about the same
    time.
    """
    others = sorted({page for page, _ in documented()} - {*CORE})
    return {"core": CORE, "first": others[::2], "second": others[1::2]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    thorough_but(["core", "first", "second"], "core"),
)
def test_each_command_line_works(project, dsn, connection, part):
    """In each part page after page in one project. What several of its pages show is run once,
    unless a page may need what it changes.
    """
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    marten.create_archive_function(connection, marten.Variant(schema="shop", text_ids=True))
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text + ARCHIVE + SHORTEN + ERASE + ANOTHER + NOTIFY)
    project.write("keys.txt", "cart-7f3\n")
    (project.folder / "shop").mkdir()
    project.write("shop/next.py", shop.PROJECTION)
    if part != "core":
        documented_schemas.prepare(project)
    project.ok("archive", "run", "old-carts", "--remove", "keep")
    for _ in range(2):
        project.ok("rebuild", "cart_summary", "--blue-green")
    project.environment["ESOPS_STORE_PASSWORD"] = "unused"
    project.environment["HOME"] = str(project.folder)  # files of a shell
    pages = parts()[part]
    # A rebuild refuses where streams were archived away, so pages that archive come last, and
    # nothing can follow on what takes esops away.
    last, seen = archiving(), []
    for page, arguments in sorted(
        documented(), key=lambda each: (each[1] == ["uninstall"], each[0] in last)
    ):
        if page not in pages or arguments in seen or arguments[0] in NOT_HERE:
            continue
        if arguments[0] not in {"rebuild", "projection"}:
            seen.append(arguments)
        # A cluster is in tests/integration/test_dask.py, and .NET is not here.
        if any(argument.startswith(("dask://", "dotnet ")) for argument in arguments):
            continue
        runs = sorted(path.name for path in (project.folder / "cold" / "runs").glob("*"))
        meant = {
            "service=shop": dsn,
            "RUN": runs[0] if runs else "",
            "/etc/esops/esops.toml": "esops.toml",
            "/var/lib/node_exporter/schema.prom": "schema.prom",
        }
        line = [meant.get(argument, argument) for argument in arguments]
        if line[0] == "init":
            line += ["--output-file", f"{page.replace('/', '-')}.toml"]
        if line[:2] in (["projection", "retire"], ["projection", "rollback"]):
            project.run("projection", "switch", "cart_summary")
        if line == ["--install-completion"]:
            line.append("bash")  # no shell runs it here
        asks = (["projection", "retire"], ["projection", "finish"], ["archive", "restore"])
        if (line[:2] in asks or line == ["uninstall"] or "--heal" in line) and "--yes" not in line:
            line.append("--yes")  # who reads it is asked; nobody can be here
        some_rows = {"--keys", "--keys-from", "--streams", "--from-check"}
        if line[0] == "rebuild" and not {"--resume", "--abort", *some_rows} & {*line}:
            # Other pages have archived streams of this shop.
            line += ["--without-archived", "--accept-fewer"]
        renamed = line[2:4] if line[:2] == ["projection", "rename"] else []
        _name_in_config(project, *renamed)
        process = project.start(*line)
        try:
            out, err = process.communicate(timeout=1 if _endless(line) else DEADLINE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            out, err = finish(process)
        # A busy machine may be asked to end before it has begun.
        good = (0, 1, 5, -signal.SIGTERM) if _endless(line) else (0, 1, 5)
        if re.search("has no (stream|event of|erasure|switch to finish)|there is no check", err):
            good += (2,)  # a name of the page's own shop
        assert process.returncode in good, (
            f"{page}: esops {shlex.join(line)}: exit {process.returncode}\n{out}\n{err}"
        )
        assert "Traceback" not in err
        if renamed:
            _name_in_config(project, *reversed(renamed))
            project.ok("projection", "rename", *reversed(renamed), "--yes")
        if (
            line[0] == "rebuild" and process.returncode == 1
        ):  # what other pages archived is missing in green
            for name in ("cart_summary", "customer_totals"):
                project.run("rebuild", name, "--blue-green", "--abort", "--yes")
