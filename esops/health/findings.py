"""What `esops doctor` can find. A code never changes its meaning: alerts and documents name it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from esops.errors import (
    EsopsError,
    PooledSession,
    RowSecurity,
    UnfitSession,
    UnreadableEncoding,
)

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""

CODES: dict[str, tuple[Severity, str]] = {
    "ESOPS-D001": ("error", "a store cannot be opened"),
    "ESOPS-D002": ("error", "a read model's database cannot be reached, or denies a right"),
    "ESOPS-D003": ("error", "a projection's code or settings do not load"),
    "ESOPS-D004": ("error", "an address is that of a log of topics, which is not an event store"),
    "ESOPS-D005": ("error", "a store's sequence contradicts its events"),
    "ESOPS-D010": ("error", "a right to read a store is missing"),
    "ESOPS-D011": ("warning", "a sequence gives out numbers in advance"),
    "ESOPS-D012": ("warning", "the settled head is held back"),
    "ESOPS-D013": ("error", "events are invisible or out of order"),
    "ESOPS-D014": ("note", "an index that a rebuild would use is missing"),
    "ESOPS-D015": ("warning", "a server has a version that is not supported"),
    "ESOPS-D016": ("warning", "clocks differ"),
    "ESOPS-D017": ("note", "a system projection that esops would use is not running"),
    "ESOPS-D018": ("warning", "a projection inside the server has faulted"),
    "ESOPS-D019": ("warning", "messages are parked"),
    "ESOPS-D020": ("warning", "a rebuild is unfinished, and no process is working on it"),
    "ESOPS-D021": ("warning", "a table was left behind"),
    "ESOPS-D022": ("warning", "no process keeps the version fresh that serves"),
    "ESOPS-D023": ("warning", "events became dead letters"),
    "ESOPS-D024": ("error", "a right to write a read model is missing"),
    "ESOPS-D025": ("warning", "ids of archived streams are used again"),
    "ESOPS-D026": ("warning", "a processor's progress is left over"),
    "ESOPS-D027": ("warning", "the disk has no room for a rebuild"),
    "ESOPS-D028": (
        "warning",
        "a replication slot keeps WAL, or a rebuild's WAL would invalidate it",
    ),
    "ESOPS-D029": ("warning", "a replica lags"),
    "ESOPS-D030": ("warning", "the configuration contains a password"),
    "ESOPS-D031": ("note", "a part of the configuration has no effect"),
    "ESOPS-D032": ("error", "an archive cannot be read"),
    "ESOPS-D033": ("error", "the last run of a policy failed its verification"),
    "ESOPS-D034": ("warning", "a run of a policy is unfinished, and no process is working on it"),
    "ESOPS-D035": ("error", "a newer esops created esops' own tables"),
    "ESOPS-D036": ("note", "an older esops created esops' own tables"),
    "ESOPS-D037": ("error", "nobody can know whether missing numbers will still come"),
    "ESOPS-D038": ("error", "an event came late, at a number that had been passed as dead"),
    "ESOPS-D039": ("warning", "the application may hand out numbers itself"),
    "ESOPS-D040": ("error", "a store is not the log that a read model was made from"),
    "ESOPS-D041": ("error", "a checkpoint is not a position of its store"),
    "ESOPS-D042": ("error", "a checkpoint holds transaction ids of another cluster"),
    "ESOPS-D043": ("error", "row security hides rows from esops' role"),
    "ESOPS-D044": ("error", "an address is that of a pooler in transaction mode"),
    "ESOPS-D045": ("error", "the encoding of a database's text is not known"),
    "ESOPS-D046": ("error", "settings that only a superuser may change leave out rows or checks"),
    "ESOPS-D100": ("warning", "the hook after a switch has not ended well"),
    "ESOPS-D101": ("error", "a processor's checkpoint is beyond all events"),
    "ESOPS-D102": ("error", "a version's rows are not those of its checkpoint"),
    "ESOPS-D049": ("warning", "read models need events that are only in an archive"),
    "ESOPS-D050": ("note", "the folder of an archive does not exist, or has no archive in it"),
    "ESOPS-D051": ("warning", "a filter names what the store does not have"),
    "ESOPS-D052": ("warning", "the configuration names no store"),
    "ESOPS-D057": ("error", "several versions of a read model are noted as serving"),
    "ESOPS-D058": ("error", "what readers read does not exist"),
    "ESOPS-D059": ("warning", "a publication would publish what esops makes or renames"),
    "ESOPS-D063": ("warning", "the registry knows a projection by another name"),
    "ESOPS-D064": ("note", "the registry has a projection that the configuration does not name"),
    "ESOPS-D060": ("error", "readers read something else than the version that serves"),
    "ESOPS-D070": ("error", "two projections have one table or view"),
    "ESOPS-D071": ("warning", "other code than built a version has advanced it"),
    "ESOPS-D072": ("error", "what keeps a version fresh fails"),
    "ESOPS-D073": ("error", "rows are not what their events make"),
    "ESOPS-D074": ("note", "no index finds events by the ids that traces follow"),
    "ESOPS-D076": ("warning", "archived runs have a store's events under another name"),
    "ESOPS-D077": ("warning", "streams have lost their first events"),
    "ESOPS-D078": ("warning", "events are dated wrong, by the offset of a time zone"),
    "ESOPS-D079": ("error", "two events have the same stream and version"),
    "ESOPS-D080": ("warning", "nothing keeps the versions of a stream apart"),
    "ESOPS-D081": ("error", "events lack a part that esops needs"),
    "ESOPS-D082": ("warning", "numbers are missing that the writer cannot have left out"),
    "ESOPS-D083": ("note", "partitions forbid the index that keeps a stream's versions apart"),
    "ESOPS-D084": ("error", "events break the schemas of their types"),
    "ESOPS-D085": ("warning", "rows still have personal data that was erased from events"),
    "ESOPS-D088": ("error", "a version has not advanced for a minute while events wait"),
    "ESOPS-D089": ("error", "a processor of the application's has not advanced for a minute"),
    "ESOPS-D087": ("note", "a server's list of streams lacks some"),
    "ESOPS-D086": ("error", "the application writes itself what esops is to keep fresh"),
    "ESOPS-D090": ("error", "the archive that a store's events went to is not there"),
    "ESOPS-D092": ("warning", "a notification could not be delivered as it is configured"),
    "ESOPS-D094": ("error", "a processor of the application's has stopped because of a fault"),
    "ESOPS-D093": ("error", "the application could not take over where a rebuild ends"),
    "ESOPS-D096": ("warning", "a reader of events is named by no contract"),
    "ESOPS-D099": ("error", "a contract cannot be checked"),
    "ESOPS-D097": ("warning", "rows may be of old logic or of two"),
    "ESOPS-D098": ("error", "a processor makes what the application is said to write itself"),
}
SESSIONS: dict[type[EsopsError], str] = {
    RowSecurity: "ESOPS-D043",
    PooledSession: "ESOPS-D044",
    UnreadableEncoding: "ESOPS-D045",
    UnfitSession: "ESOPS-D046",
}
"""The codes of what a session is refused for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing or dangerous: where, what, and the statement or command that fixes
    it.
    """

    code: str
    subject: str
    message: str
    fix: str | None = None

    @property
    def severity(self) -> Severity:
        """error: something does not work now; warning: it will cause trouble later; note: it could
        be better.
        """
        return CODES[self.code][0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the command that shows what the code means."""
        explained = f"esops docs doctor {self.code}"
        return {**asdict(self), "severity": self.severity, "documentation": explained}
