"""`--resume` of a rebuild that has ended reports only what is true by now."""

from __future__ import annotations

from tests.support import shop

_RESUME = ("rebuild", "--blue-green", "--resume")


def test_a_rebuild_that_has_ended_is_reported_as_long_as_it_is_true(project, dsn):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    project.ok("rebuild", "--blue-green")
    reported = project.ok(*_RESUME)
    assert "v2 serves now" in reported.out
    assert "nothing was left to do" in reported.err

    project.ok("projection", "retire", "cart_summary", "--yes")
    retired = project.ok(*_RESUME).out
    assert "v2 serves now" in retired
    assert "v1 is retired" in retired
    assert "rollback" not in retired

    project.ok("rebuild", "--blue-green")
    project.ok("projection", "rollback", "cart_summary")
    back = project.run(*_RESUME)
    assert (back.code, back.out) == (2, "")
    assert "rebuild 3 was rolled back at" in back.err
    assert "esops projection switch cart_summary --to 3" in back.err

    shop.configure(project, dsn, projection_options='hooks.before_switch = ["false"]')
    assert project.run("rebuild", "--blue-green").code == 5
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    aborted = project.run(*_RESUME)
    assert (aborted.code, aborted.out) == (2, "")
    assert "was aborted at" in aborted.err
    assert "esops rebuild cart_summary --blue-green" in aborted.err
