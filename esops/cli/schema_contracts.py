"""`esops schema contracts`: what is public, what leaves beside it, and documents about it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esops.cli.app import command, current_output, group
from esops.cli.completion import complete_contract
from esops.cli.schema import schema
from esops.cli.shared import JobProgress

if TYPE_CHECKING:
    from esops.schema.contracts.check import ContractsChecked
    from esops.schema.reading import Progress
    from esops.term import Output

contracts = group(
    "contracts",
    "Check what leaves the application against the contracts of esops.toml, and describe it.",
    "esops schema contracts check",
    "esops schema contracts print orders",
    at=schema,
)


@command(contracts)
def check(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Contracts of esops.toml. Default: all.",
            autocompletion=complete_contract,
        ),
    ] = None,
) -> int:
    """Find private events that leave, and public ones that break their contract.

    Who reads the events is asked of the store. What nobody's table shows, such as a catch-up
    subscription, cannot be found.

    Exit code 1 if there are findings; notes do not count.

    esops schema contracts check
    esops schema contracts check orders --output json | jq .contracts[].findings
    """
    from esops.config import load_config
    from esops.schema.contracts.check import check_contracts

    output = current_output(context)
    config = load_config(output.settings.config)
    form = output.format("table", "json")  # refuses others before the long read
    progress = JobProgress(output)

    def of_store(store: str) -> Progress:
        return lambda done, total: progress.update(f"events of {store}", done, total)

    try:
        found = check_contracts(config, names or (), output.settings.store, of_store)
    finally:
        progress.close()
    if form == "json":
        output.json(found.as_dict())
    else:
        _show(output, found)
    if found.short is not None:
        raise found.short
    return 1 if found.broken else 0


class _Form(StrEnum):
    """A form of a document."""

    asyncapi = "asyncapi"
    cloudevents = "cloudevents"


@command(contracts, "print")
def print_(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A contract of esops.toml.", autocompletion=complete_contract
        ),
    ],
    form: Annotated[
        _Form,
        typer.Option(
            "--format", help="AsyncAPI 3.0, or an example of each event as CloudEvents 1.0."
        ),
    ] = _Form.asyncapi,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check", metavar="FILE", help="Compare with this file instead, and say what differs."
        ),
    ] = None,
) -> int:
    """Print an AsyncAPI or CloudEvents document of what is public.

    It is made from esops.toml and the schemas alone: no store is read, and no value of an event is
    in it.

    Exit code 1 with --check if the file differs.

    esops schema contracts print orders -o contracts/orders.asyncapi.json
    esops schema contracts print orders --check contracts/orders.asyncapi.json
    esops schema contracts print orders --format cloudevents
    """
    from esops.config import load_config
    from esops.schema.contracts.documents.written import difference, document

    output = current_output(context)
    output.format("json")
    found = document(load_config(output.settings.config), name, form.value)
    text = found.text
    if found.undescribed:
        output.warn(f"no schema describes {', '.join(found.undescribed)}: only the name is written")
    for pattern, types in found.patterns.items():
        listed = ", ".join(types) or "none"
        output.warn(f"{pattern} stands for those of its types that have a schema: {listed}")
    if check is None:
        output.out.write(text)
        output.out.flush()
        return 0
    lines = difference(text, check)
    for each in lines:
        output.line(each)
    if lines:
        output.say(f"{check} is not what the contract says now; write it again with -o {check}")
        return 1
    output.say(f"{check} is what the contract says")
    return 0


def _show(output: Output, found: ContractsChecked) -> None:
    from esops.schema.contracts.findings import ADVICE
    from esops.wording import count

    rows = []
    for each in found.checks:
        for finding in each.findings:
            key = finding.key
            first = finding.samples[0] if finding.samples else {}
            rows.append(
                (
                    each.contract.name,
                    key.kind,
                    key.type,
                    key.path if key.rule is None else f"{key.path} ({key.rule})",
                    finding.events or None,
                    ": ".join(filter(None, (key.where, finding.detail))) or None,
                    _coordinates(first),
                )
            )
    columns = ("contract", "finding", "type", "path", "events", "where", "first")
    # A column that says nothing takes room from others.
    kept = [n for n in range(len(columns)) if n != 3 or any(row[n] is not None for row in rows)]
    if rows:
        output.table(
            "",
            [columns[n] for n in kept],
            [[row[n] for n in kept] for row in rows],
            drop=("first", "contract") if len(found.checks) == 1 else ("first", "events"),
            wrap=("where",),
        )
    for kind in dict.fromkeys(
        finding.key.kind for each in found.checks for finding in each.findings
    ):
        if kind in ADVICE:
            output.line(f"{kind}: {ADVICE[kind]}")
    for each in found.checks:
        broken = sum(not finding.is_note for finding in each.findings)
        public = count(sum(each.public.values()), "public event")
        said = count(broken, "finding") if broken else "nothing private leaves, as far as is known"
        output.line(f"{each.contract.name}: {public}, {said}")


def _coordinates(sample: object) -> str | None:
    if not isinstance(sample, dict) or not sample:
        return None
    if "stream" in sample:
        return f"{sample['stream']} {sample['version']}"
    return f"{sample['table']} {sample['row']}"
