"""`esops serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.option_groups import option_group
from esops.cli.shared import stop_on_signals
from esops.errors import UsageError

if TYPE_CHECKING:
    from esops.term import GlobalOptions


def _check(given: GlobalOptions) -> None:
    """Raises UsageError for options that say something else than pages of all stores."""
    for option, value in (("--store", given.store), ("--output", given.output)):
        if value is not None:
            raise UsageError(
                f"{option} {value} is not possible here: the pages show every store",
                hint="For one store, or as JSON: esops status",
            )


@option_group()
class AccessOptions:
    """Who may look and what they may do, and by which address."""

    allow_control: Annotated[
        bool,
        typer.Option(
            "--allow-control",
            help="Also pause, resume, limit, switch and roll back, each after a confirmation.",
        ),
    ] = False
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="A file with the token that a person has to give. Default: $ESOPS_SERVE_TOKEN.",
        ),
    ] = None
    public_url: Annotated[
        str | None,
        typer.Option(
            "--public-url",
            metavar="URL",
            help="The address in browsers, where a reverse proxy stands between.",
        ),
    ] = None


@command(app)
def serve(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Argument(metavar="[[HOST:]PORT]", help="Where to listen. Default: 127.0.0.1:8077."),
    ] = None,
    *,
    access: AccessOptions,
) -> None:
    """Show stores, read models, rebuilds, audits and traces as pages in a browser.

    esops serve
    esops serve 8080 --allow-control
    esops serve 0.0.0.0:8077 --token-file token.txt

    Other machines can look only where a token is set. Nothing is changed without --allow-control.
    """
    from esops.config import load_config
    from esops.web.options import (
        ServeOptions,
        parse_address,
        parse_public_url,
        read_token,
        readable_by_others,
    )
    from esops.web.server import serve as run

    output = current_output(context)
    _check(output.settings)
    options = ServeOptions(
        parse_address(address),
        read_token(access.token_file),
        access.allow_control,
        parse_public_url(access.public_url),
    )
    config = load_config(output.settings.config)
    # Ends a start that is not through yet; the server sets its own, and puts these back.
    stop_on_signals()
    file = access.token_file
    if file is not None and readable_by_others(file):
        output.warn(f"other users of this machine can read {file}: chmod 600 {file}")
    if access.allow_control and options.token is None:
        output.warn(
            "everybody who can log in to this machine can use the controls; a token in "
            "ESOPS_SERVE_TOKEN keeps others out"
        )
    run(config, options, lambda url: output.say(f"serving {url}; stop with Ctrl-C or SIGTERM"))
