"""`esops doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esops.config import Config
    from esops.health.findings import Finding
    from esops.term import Output


@command(app)
def doctor(
    context: typer.Context,
    *,
    grants: Annotated[
        str | None,
        typer.Option(
            "--grants",
            metavar="ROLE",
            help="Print the GRANT statements that a role needs for all commands, and check "
            "nothing.",
        ),
    ] = None,
    notify: Annotated[
        bool,
        typer.Option(
            "--notify",
            help="Send a test message to every section [notify.NAME], and check nothing else.",
        ),
    ] = False,
) -> int:
    """Check that everything is in place that other commands rely on.

    esops doctor
    esops doctor --notify
    esops doctor --store shop --output json
    esops doctor --grants esops_operator

    Each finding has a code and the statement or command that fixes it.

    Exit code 1 when there are findings; notes do not count.
    """
    from esops.config import load_config
    from esops.health.doctor import examine

    output = current_output(context)
    form = output.format("table", "json", "ndjson")
    config = load_config(output.settings.config)
    if notify:
        return _test_notifications(output, config)
    if grants is not None:
        _show_grants(output, config, grants, form)
        return 0
    found = examine(config, output.settings.store)
    # A note is an improvement; an alert on the exit code must not fire for it.
    serious = [each for each in found if each.severity != "note"]
    if form == "json":
        output.json({"ok": not serious, "findings": [each.as_dict() for each in found]})
    elif form == "ndjson":
        output.ndjson([each.as_dict() for each in found])
    else:
        _show(output, found, len(serious))
    return 1 if serious else 0


def _show(output: Output, found: Sequence[Finding], serious: int) -> None:
    from esops.wording import count

    for each in found:
        output.line(f"{each.code} {each.severity}: {each.subject}: {each.message}")
        if each.fix:
            output.line(f"    {each.fix}")
    notes = len(found) - serious
    output.line(count(serious, "finding") + (f" and {count(notes, 'note')}" if notes else ""))
    if found:
        output.line(f"What a code means: esops docs doctor {found[0].code}")


def _show_grants(output: Output, config: Config, role: str, form: str) -> None:
    from esops.health.grants import statements

    lines = statements(config, role)
    if form == "table":
        for line in lines:
            output.line(line)
        return
    # Comments are for a person who reads the list; a program executes it.
    executed = [line for line in lines if not line.startswith("--")]
    output.json({"role": role, "statements": executed})


def _test_notifications(output: Output, config: Config) -> int:
    """Send a test message everywhere; exit code 1 where one did not arrive."""
    from esops.errors import UsageError
    from esops.notifying.trial import send_tests

    if not config.notify:
        raise UsageError(
            f"{config.path}: it has no section [notify.NAME]",
            hint="How to write one: esops docs notifications",
        )
    sent = send_tests(config)
    if output.as_json:
        output.json({"notified": [each.as_dict() for each in sent]})
    else:
        for each in sent:
            output.line(f"notify.{each.section}: {each.reason or 'a test message was delivered'}")
    return int(any(each.reason for each in sent))
