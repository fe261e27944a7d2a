"""What `esops doctor` can find: each with a code that stays, so that alerts and documents can name
it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]

CODES: dict[str, tuple[Severity, str]] = {
    "ESOPS-D001": ("error", "a store cannot be opened"),
    "ESOPS-D002": ("error", "a read model's database cannot be reached"),
    "ESOPS-D003": ("error", "a projection's code or settings do not load"),
    "ESOPS-D004": ("error", "an address is that of a log of topics, which is no event store"),
    "ESOPS-D010": ("error", "a right is missing to read a store"),
    "ESOPS-D011": ("warning", "a sequence gives out numbers ahead"),
    "ESOPS-D012": ("warning", "the settled head is held back"),
    "ESOPS-D013": ("error", "events are invisible or out of order"),
    "ESOPS-D014": ("note", "an index is missing that a rebuild would use"),
    "ESOPS-D015": ("warning", "a server is of a version that is not supported"),
    "ESOPS-D016": ("warning", "clocks differ"),
    "ESOPS-D017": ("note", "a system projection does not run that esops would use"),
    "ESOPS-D018": ("warning", "a projection inside the server is faulted"),
    "ESOPS-D019": ("warning", "messages are parked"),
    "ESOPS-D020": ("warning", "a rebuild is unfinished and nobody works on it"),
    "ESOPS-D021": ("warning", "a table was left behind"),
    "ESOPS-D022": ("warning", "nobody keeps a version fresh that serves"),
    "ESOPS-D023": ("warning", "events were passed as dead letters"),
    "ESOPS-D024": ("error", "a right is missing to write a read model"),
    "ESOPS-D025": ("warning", "ids of archived streams are used again"),
    "ESOPS-D026": ("warning", "progress is kept that nobody makes any more"),
    "ESOPS-D027": ("warning", "a rebuild would not find room on the disk"),
    "ESOPS-D028": ("warning", "a replication slot keeps WAL, or would be lost by a rebuild's"),
    "ESOPS-D029": ("warning", "a replica lags"),
    "ESOPS-D030": ("warning", "a password stands in the configuration"),
    "ESOPS-D032": ("error", "an archive cannot be read"),
    "ESOPS-D033": ("error", "the last run of an archive's policy failed its verification"),
    "ESOPS-D034": ("warning", "a run of an archive's policy is unfinished and nobody works on it"),
    "ESOPS-D035": ("error", "a newer esops made esops' own tables"),
    "ESOPS-D036": ("note", "esops' own tables are those of an older esops"),
    "ESOPS-D031": ("note", "a part of the configuration has no effect"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing or dangerous: where, what, and the statement or command that mends
    it.
    """

    code: str
    subject: str
    message: str
    fix: str | None = None

    @property
    def severity(self) -> Severity:
        """error: something does not work; warning: something will not; note: something could be
        better.
        """
        return CODES[self.code][0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the command that shows what the code means."""
        explained = f"esops docs doctor {self.code}"
        return {**asdict(self), "severity": self.severity, "documentation": explained}
