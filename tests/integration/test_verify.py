"""What a comparison finds: samples, columns that are meant to change, tolerance, and the page that
shows it.
"""

from __future__ import annotations

import pytest

from tests.support import shop

EVENTS = 1_500


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def change(project, old: str, new: str) -> None:
    text = (project.folder / "shop_projections.py").read_text()
    assert old in text
    (project.folder / "shop_projections.py").write_text(text.replace(old, new))


def configure(project, line: str) -> None:
    text = (project.folder / "esops.toml").read_text()
    project.write(
        "esops.toml",
        text.replace("[projections.cart_summary]", f"[projections.cart_summary]\n{line}"),
    )


@pytest.mark.thorough
def test_columns_that_are_meant_to_change_are_shown_and_do_not_count(carts, connection):
    change(carts, '"client": data["ClientId"]', '"client": data["ClientId"].upper()')
    differs = carts.run("rebuild", "--blue-green", "--output", "json")
    assert differs.code == 1
    assert differs.json["verification"]["columns"] == {"client": EVENTS // 10}
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    configure(carts, 'verify.expected = ["client"]')
    done = carts.ok("rebuild", "--blue-green")
    assert f"column client: differs in {EVENTS // 10} rows, as expected" in done.out
    found = connection.execute(
        "SELECT verification FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
    ).fetchone()[0]
    assert (found["differing"], found["columns"]) == (0, {})
    assert found["expected"] == {"client": EVENTS // 10}
    change(carts, '"items": row["items"] + count', '"items": row["items"] + count + 1')
    differs = carts.run("rebuild", "--blue-green", "--output", "json").json["verification"]
    assert differs["columns"].keys() == {"items"}
    configure(carts, 'verify.expected = ["klient"]\n#')
    assert carts.run("rebuild", "--blue-green", "--dry-run").code == 2


def test_blue_that_moves_before_it_is_compared_is_not_taken_for_where_it_stood(dsn, carts):
    shop.more(dsn, 50)  # nobody follows v1: green is to be compared where it stands
    carts.patch(
        """
import subprocess, sys
from pathlib import Path
from esops.rebuild.phases import loading

def build(*given, **more):
    loading.build_after_load = first
    command = [Path(sys.executable).with_name("esops"), "run", "--until-caught-up"]
    subprocess.run(command, check=True, capture_output=True)
    return first(*given, **more)

first, loading.build_after_load = loading.build_after_load, build
"""
    )
    found = carts.ok("rebuild", "--blue-green", "--output", "json").json["verification"]
    assert (found["differing"], found["position"]) == (0, str(EVENTS + 50))


def test_a_sample_finds_what_is_common(carts, connection):
    same = carts.ok(
        "rebuild", "--blue-green", "--compare", "sample", "--no-switch", "--output", "json"
    ).json["verification"]
    assert (same["method"], same["differing"], same["rows_blue"]) == ("sample", 0, EVENTS // 10)
    assert same["compared"] == EVENTS // 5, "few rows are all looked at, from both sides"
    change(carts, '"items": 0, "total": 0', '"items": 0, "total": 1')
    connection.execute("DELETE FROM cart_summary__v1 WHERE cart_id < 'cart-00000050'")
    connection.execute("INSERT INTO cart_summary__v1 VALUES ('gone', 'x', 1, 1, 'open', 1)")
    result = carts.run("rebuild", "--blue-green", "--compare", "sample", "--output", "json")
    assert result.code == 1
    found = result.json["verification"]
    all_ = EVENTS // 10
    missing = all_ - connection.execute("SELECT count(*) FROM cart_summary__v1").fetchone()[0] + 1
    assert (found["only_blue"], found["only_green"]) == (1, missing)
    assert any(each["blue"] is None for each in found["samples"])
    assert found["columns"]["total"] == 2 * (all_ - missing)
    assert found["differing"] == 2 * (all_ - missing) + missing + 1
    accepted = carts.run("rebuild", "--blue-green", "--resume", "--max-diff", "100%")
    assert accepted.code == 0, accepted.err


@pytest.mark.thorough
def test_a_sample_of_many_is_small(dsn, connection, project):
    project.patch("from esops.rebuild.verification import comparison\ncomparison.SAMPLED = 500")
    shop.make(dsn, 15_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    connection.execute(
        "UPDATE cart_summary__v1 SET items = items + 1 WHERE hashtext(cart_id) % 10 = 0"
    )
    result = project.run("rebuild", "--blue-green", "--compare", "sample", "--output", "json")
    found = result.json["verification"]
    assert result.code == 1
    assert 870 < found["compared"] < 1_130
    assert 0.07 < found["differing"] / found["compared"] < 0.14
    assert "a sample: " in project.run("rebuild", "--blue-green", "--resume").out


@pytest.mark.thorough
def test_what_differs_as_a_page(carts, connection, browser):
    change(carts, '"client": data["ClientId"]', '"client": "<b>" + data["ClientId"]')
    connection.execute(
        "DELETE FROM cart_summary__v1 WHERE cart_id = (SELECT min(cart_id) FROM cart_summary__v1)"
    )
    assert carts.run("rebuild", "--blue-green", "--report", "diff.html").code == 1
    page = carts.folder / "diff.html"
    document = browser.document(page)
    assert "<th>blue</th><th>green</th>" in document
    assert document.count("&lt;b&gt;client-") > 10
    assert "<b>client-" not in document
    assert "only in green" in document
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert carts.run("rebuild", "--blue-green", "--report", "nowhere/diff.html").code == 2


DOCUMENTS = """
from esops import fold

@fold(key="stream")
def cart_summary(row, event):
    return {"cart_id": event.stream, "data": {"at": event.position[0], "who": "A", "_version": 1}}
"""


def test_paths_into_documents_are_ignored_or_expected(project, dsn):
    shop.make(dsn, 300)
    ddl = "CREATE TABLE {table} (cart_id text PRIMARY KEY, data jsonb NOT NULL);"
    shop.configure(project, dsn, code=DOCUMENTS, ddl=ddl)
    project.ok("rebuild", "--blue-green")
    change(project, '"A", "_version": 1', '"Bob", "_version": 2')
    command = ("rebuild", "--blue-green", "--output", "json", "--report", "diff.html")
    found = project.run(*command).json["verification"]
    assert (found["differing"], found["columns"]) == (30, {"data": 30})
    assert found["paths"] == {"data._version": 30, "data.who": 30}
    assert found["samples"][0]["blue"] == {"data._version": 1, "data.who": "A"}
    assert "data._version" in (project.folder / "diff.html").read_text()
    assert (
        "path data.who: differs in 30 rows"
        in project.run("rebuild", "--blue-green", "--resume").out
    )
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    configure(project, 'verify.ignore = ["data._version"]\nverify.expected = ["data.who"]')
    found = project.ok(*command).json["verification"]
    assert (found["differing"], found["expected"], found["columns"]) == (0, {"data.who": 30}, {})
    text = (project.folder / "esops.toml").read_text()
    for wrong in ("data.[", "cart_id.x", "dataa.x"):
        project.write("esops.toml", text.replace("data._version", wrong))
        assert project.run("rebuild", "--blue-green", "--dry-run").code == 2
