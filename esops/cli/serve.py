"""`esops serve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from esops.cli.app import app, command, current_output
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


@command(app)
def serve(
    context: typer.Context,
    address: str | None = typer.Argument(
        None, metavar="[[HOST:]PORT]", help="Where to listen. Default: 127.0.0.1:8077."
    ),
    allow_control: bool = typer.Option(
        False,
        "--allow-control",
        help="Also pause, resume, limit, switch and roll back, each after a confirmation.",
    ),
    token_file: Path | None = typer.Option(
        None,
        "--token-file",
        metavar="FILE",
        help="A file with the token that a person has to give. Default: $ESOPS_SERVE_TOKEN.",
    ),
    public_url: str | None = typer.Option(
        None,
        "--public-url",
        metavar="URL",
        help="The address in browsers, where a reverse proxy stands between.",
    ),
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
        read_token(token_file),
        allow_control,
        parse_public_url(public_url),
    )
    config = load_config(output.settings.config)
    # Ends a start that is not through yet; the server sets its own, and puts these back.
    stop_on_signals()
    if token_file is not None and readable_by_others(token_file):
        output.warn(f"other users of this machine can read {token_file}: chmod 600 {token_file}")
    if allow_control and options.token is None:
        output.warn(
            "everybody who can log in to this machine can use the controls; a token in "
            "ESOPS_SERVE_TOKEN keeps others out"
        )
    run(config, options, lambda url: output.say(f"serving {url}; stop with Ctrl-C or SIGTERM"))
