"""What doctor checks of an archive: can it be read, and how did the last run of each policy end."""

from __future__ import annotations

from collections.abc import Iterator

from esops.errors import AbsentArchive, EsopsError
from esops.health.findings import Finding
from esops.settings import ArchiveSettings


def examine(name: str, settings: ArchiveSettings) -> Iterator[Finding]:
    """Check one archive of the configuration."""
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
        yield Finding("ESOPS-D050", subject, error.message, error.hint)
    except EsopsError as error:
        yield Finding("ESOPS-D032", subject, error.message, error.hint)
