"""`esops doctor`."""

from __future__ import annotations

import typer

from esops.cli.app import app, command, current_output


@command(app)
def doctor(
    context: typer.Context,
    grants: str | None = typer.Option(
        None,
        "--grants",
        metavar="ROLE",
        help="Print what a role has to be granted for all commands, and nothing else.",
    ),
) -> int:
    """Say what is missing or dangerous, each with a code and the statement that mends it.

    esops doctor
    esops doctor --store shop --output json
    esops doctor --grants esops

    Exits with 1 where there are findings, notes apart.
    """
    from esops.config import load_config
    from esops.health.doctor import examine

    output = current_output(context)
    form = output.format("table", "json", "ndjson")
    config = load_config(output.settings.config)
    if grants is not None:
        from esops.health.grants import statements

        lines = statements(config, grants)
        if form == "table":
            for line in lines:
                output.line(line)
        else:
            output.json(
                {
                    "role": grants,
                    "statements": [line for line in lines if not line.startswith("--")],
                }
            )
        return 0
    found = examine(config, output.settings.store)
    serious = [each for each in found if each.severity != "note"]
    if form == "json":
        output.json({"ok": not serious, "findings": [each.as_dict() for each in found]})
    elif form == "ndjson":
        output.ndjson([each.as_dict() for each in found])
    else:
        for each in found:
            output.line(f"{each.code} {each.severity}: {each.subject}: {each.message}")
            if each.fix:
                output.line(f"    {each.fix}")
        many = f"{len(serious)} findings" if len(serious) != 1 else "1 finding"
        output.line(many + ("" if not serious else "; what each means: esops docs doctor CODE"))
    return 1 if serious else 0
