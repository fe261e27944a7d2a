"""`esops metrics`."""

from __future__ import annotations

import typer

from esops.cli.app import app, command, current_output
from esops.cli.shared import stop_on_signals


@command(app)
def metrics(
    context: typer.Context,
    serve: str | None = typer.Option(
        None, "--serve", metavar="[HOST:]PORT", help="Serve them over HTTP, until stopped."
    ),
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

    output = current_output(context)
    if output.settings.output is not None:
        raise UsageError(
            f"--output {output.settings.output} is not possible here: metrics are Prometheus' text",
            hint="The same figures as JSON: esops status --output json",
        )
    config = load_config(output.settings.config)
    store = output.settings.store
    if output.file is not None and serve is not None:
        raise UsageError("--output-file and --serve cannot be used together")
    if serve is None:
        output.line(text(config, store).rstrip("\n"))
    else:
        from prometheus_client import start_http_server

        host, _, port = serve.rpartition(":")
        if not port.isdigit():
            raise UsageError(
                f"--serve {serve!r}: this is not a port",
                hint="Write it like 9187 or 127.0.0.1:9187.",
            )
        # Before the server's thread starts: signals are the main thread's.
        stop = stop_on_signals()
        try:
            # On this machine only, unless a host is named: metrics show the names of stores.
            server, thread = start_http_server(
                int(port), host or "127.0.0.1", registry(config, store)
            )
        except OSError as error:
            raise UsageError(f"--serve {serve}: {error.strerror}") from None
        output.say(
            f"serving metrics on {host or '127.0.0.1'}:{server.server_port}; stop with Ctrl-C or "
            "SIGTERM"
        )
        stop.wait()
        server.shutdown()
        thread.join()
