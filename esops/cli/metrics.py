"""`esops metrics`."""

from __future__ import annotations

from typing import Annotated

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import stop_on_signals


@command(app)
def metrics(
    context: typer.Context,
    serve: Annotated[
        str | None,
        typer.Option("--serve", metavar="[HOST:]PORT", help="Serve them over HTTP, until stopped."),
    ] = None,
) -> None:
    """Write what `esops status` shows as Prometheus metrics.

    esops metrics
    esops metrics --serve 9187
    esops metrics --output-file /var/lib/node_exporter/esops.prom

    A file for node_exporter's textfile collector is replaced as a whole, so that it can be written
    from cron.
    """
    from esops.config import load_config
    from esops.errors import UsageError
    from esops.health.metrics import registry, text
    from esops.ports import listen_address

    output = current_output(context)
    if output.settings.output is not None:
        raise UsageError(
            f"--output {output.settings.output} is not possible here: metrics are Prometheus' text",
            hint="The same figures as JSON: esops status --output json",
        )
    if output.file is not None and serve is not None:
        raise UsageError("--output-file and --serve cannot be used together")
    # Before anything else: a port that is taken is found at once.
    at = None if serve is None else listen_address("--serve", serve)
    config = load_config(output.settings.config)
    store = output.settings.store
    if at is None:
        output.line(text(config, store).rstrip("\n"))
    else:
        from prometheus_client import start_http_server

        host, port = at
        # Before the server's thread starts: signals are the main thread's.
        stop = stop_on_signals()
        try:
            server, thread = start_http_server(port, host, registry(config, store))
        except OSError as error:
            raise UsageError(f"--serve {serve}: {error.strerror}") from None
        output.say(f"serving metrics on {host}:{server.server_port}; stop with Ctrl-C or SIGTERM")
        stop.wait()
        server.shutdown()
        thread.join()
