"""`esops mcp`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from esops.cli.app import app, command, current_output


@command(app)
def mcp(
    context: typer.Context,
    no_data: Annotated[
        bool,
        typer.Option(
            "--no-data", help="Leave out what is, or may quote, values of events and rows."
        ),
    ] = False,
    no_check: Annotated[
        bool,
        typer.Option(
            "--no-check",
            help="Leave out projection_check, which notes what it finds in esops' own tables.",
        ),
    ] = False,
) -> None:
    """Answer an assistant's questions over standard input and output (Model Context Protocol).

    esops mcp
    esops mcp --no-data --config /etc/esops/esops.toml

    An assistant starts it; it only reads. Needs esops[mcp].
    """
    from esops.config import load_config
    from esops.errors import UsageError

    # Standard output belongs to the protocol, whatever is imported from here on.
    with redirect_stdout(sys.stderr):
        output = current_output(context)
        try:
            from esops.assistants.server import serve
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("mcp", "mcp_types"):
                raise
            raise UsageError(
                "the SDK of the Model Context Protocol is not installed",
                hint="Install it where esops is: pip install 'esops[mcp]', or with pipx: pipx "
                "inject esops mcp",
            ) from None
        config = load_config(output.settings.config)
    serve(config, data=not no_data, checks=not no_check)
