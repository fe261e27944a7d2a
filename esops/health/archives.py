"""What doctor checks of an archive: can it be read, and how did the last run of each policy end."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import AbsentArchive, EsopsError, Refused
from esops.health.findings import Finding
from esops.settings import ArchiveSettings


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check one archive of the configuration."""
    settings = config.archives[name]
    from esops.archive.catalog_view import last_of_each_policy
    from esops.archive_format.lease import Lease
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog

    subject = f"archive {name}"
    try:
        repository = Repository(settings)
        catalog = Catalog(repository)
        for last in last_of_each_policy(catalog):
            policy, run, state = str(last.get("policy")), last["run"], last["state"]
            short = policy.rpartition("/")[2]
            if state == "damaged":
                yield Finding(
                    "ESOPS-D032", subject, last["detail"], "Restore the file from a copy."
                )
            elif state == "failed":
                yield Finding(
                    "ESOPS-D033",
                    subject,
                    f"run {run} failed its verification; nothing was removed",
                    f"esops archive show {run}, and then: esops archive run {short}",
                )
            elif state != "done" and Lease(repository, policy).holder() is None:
                yield Finding(
                    "ESOPS-D034",
                    subject,
                    f"run {run} stopped in state {state}; what holds it up, if anything does, is "
                    f"in: esops archive plan {short}",
                    f"esops archive run {short}",
                )
        catalog.check_there()
    except AbsentArchive as error:
        lost = list(_lost(config, subject, settings))
        yield from lost or [Finding("ESOPS-D050", subject, error.message, error.hint)]
    except EsopsError as error:
        yield Finding("ESOPS-D032", subject, error.message, error.hint)


def _lost(config: Config, subject: str, settings: ArchiveSettings) -> Iterator[Finding]:
    """What the stores of its policies show of events that an archive elsewhere must have."""
    from esops.archive.right_archive import check_place

    for store in sorted({policy.store or "" for policy in settings.policies.values()}):
        try:
            check_place(settings, *config.store(store or None), config.archives.values())
        except Refused as error:
            fix = "Mount the disk, or correct the address. Until then let no archive run begin."
            yield Finding("ESOPS-D090", subject, error.message, fix)
        except EsopsError:
            continue  # the store itself has a finding
