"""Whether the application's own code keeps a contract: it reads every shape of the public events,
and writes what it read as it was.
"""

from __future__ import annotations

from esops.config import Config
from esops.schema.contracts.contract import Contract
from esops.schema.contracts.findings import ContractFindings, FindingKey
from esops.schema.contracts.named_fields import NamedFields
from esops.schema.contracts.payloads import written_steps
from esops.schema.decode.groups import DecodeFailures, RoundTripDifferences
from esops.schema.decode.request import DecodeHooks, DecodeRequest
from esops.schema.decode.run import decode
from esops.schema.files import FILES
from esops.schema.reading import EventSelection
from esops.stores.base import EventStore, Unsettled


def check_code(
    contract: Contract,
    types: list[str],
    findings: ContractFindings,
    store: EventStore,
    config: Config,
    hooks: DecodeHooks,
) -> Unsettled | None:
    """Decode some events of each distinct shape of some types of the log, and encode them where the
    contract names code for that. Returns why the newest were not read; None if all were. Raises
    UsageError where the code cannot be run.
    """
    settings = contract.settings
    if not types or (settings.python is None and not settings.command):
        return None
    request = DecodeRequest(
        config.directory,
        settings.python,
        settings.command,
        settings.encode,
        round_trip=settings.encode is not None or settings.round_trip,
        selection=EventSelection(_only_category(contract), tuple(types)),
        shapes_only=True,
    )
    report = decode(store, config.stores[store.name], request, hooks)
    if report.more_shapes:
        where = f"further shapes than the first {report.shapes:,}"
        findings.of(FindingKey("code-fails", "*", rule="not tried", where=where)).events += 1
    failures, differences = report.groups.listed()
    for failure in failures:
        _add_failure(findings, failure)
    for difference in differences:
        if difference.kind != "added" or not _is_named(contract, difference):
            _add_difference(findings, difference)
    return report.short


def _only_category(contract: Contract) -> str | None:
    """The category that all public events are of; None where they can be of others."""
    settings = contract.settings
    names = settings.categories or ()
    only = len(names) == 1 and settings.streams is None and not {"*", "?"} & set(names[0])
    return names[0] if only else None


def _add_failure(findings: ContractFindings, failure: DecodeFailures) -> None:
    key = FindingKey("code-fails", failure.type, rule=failure.error, where=f"shape {failure.shape}")
    found = findings.of(key, failure.where)
    found.events += failure.events + failure.not_tried
    found.add_samples(each.as_dict() for each in failure.samples)


def _add_difference(findings: ContractFindings, difference: RoundTripDifferences) -> None:
    key = FindingKey("code-changes", difference.type, difference.path, difference.kind)
    found = findings.of(key)
    found.events += difference.events
    found.add_samples(each.as_dict() for each in difference.samples)


def _is_named(contract: Contract, difference: RoundTripDifferences) -> bool:
    schemas = contract.schemas
    if schemas is None or difference.type not in schemas.types:
        return True
    schema = schemas.types[difference.type].schema
    steps = written_steps(difference.path)
    above = {steps[:length] for length in range(1, len(steps) + 1)}
    return not NamedFields(schema, schemas.registry.resolver(FILES)).unnamed(frozenset(above))
