"""How far a run came, kept with the store: so that a run that was ended continues, and a run every
night reads only what is new.

There are two documents. That of a run is written now and then while it reads, and removed at its
end. The other one says up to where the same code has decoded all events; a run with failures does
not move it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from esops.actions.action import RUNNING
from esops.errors import AnotherLog, EsopsError
from esops.events import Position
from esops.schema.decode.code_files import changed
from esops.schema.decode.request import DecodeHooks, DecodeReport, DecodeRequest
from esops.schema.progress import Kept, KeptProgress, SchemaJob, progress_of
from esops.settings import StoreSettings
from esops.stores.base import EventStore

KEEP_EVERY_SECONDS = 10.0
"""What is read in less is read again as quickly as it is kept."""
_FORMAT = 3
_RUN = SchemaJob("decode", "a run without --resume", "--resume")
_CLEAN = SchemaJob("decode", "--from-start", "--since-last")


class KeptDecoding:
    """What is kept of the runs with one code and one selection."""

    def __init__(
        self,
        store: EventStore,
        settings: StoreSettings,
        request: DecodeRequest,
        hooks: DecodeHooks,
        files: dict[str, str],
    ) -> None:
        """Nothing is reached yet. `files` are those that the code has used, with their digests."""
        self._files = files
        self._request, self._hooks = request, hooks
        self._store, self._settings = store, settings
        self._last = time.monotonic()
        self._run: KeptProgress | None = None
        self._clean: KeptProgress | None = None
        self._fails = False
        self._erasures: list[str] = []
        """Those that were known before the first event was read."""

    def prepare(self) -> None:
        """Make sure, where it was asked for, that progress can be kept. Raises Unavailable."""
        request = self._request
        if request.resume:
            self._run = self._progress("run", _RUN)
            self._run.prepare()
        if request.since_last:
            self._clean = self._progress("clean", _CLEAN)
            self._clean.prepare()
            self._erasures = self._clean.erasures()

    def interrupted(self, fingerprint: str) -> Kept | None:
        """What a run left that was ended; None where none did, or its code was other code."""
        if self._run is None:
            return None
        kept = self._run.read()
        if self._run.note:
            self._hooks.say(self._run.note)
        if kept is None:
            self._hooks.say("no run was interrupted: it begins with the first event")
            return None
        if not self._same_code(kept, fingerprint, "the run that was interrupted"):
            return None
        if self._clean is not None:
            # Whatever it says: it is to be replaced at the end of this run.
            self._clean.read()
        return kept

    def clean(self, fingerprint: str) -> Position | None:
        """The position up to which the same code has decoded everything."""
        if self._clean is None:
            return None
        if self._request.from_start:
            self._clean.forget()
            return None
        kept = self._clean.read()
        if self._clean.note:
            self._hooks.say(self._clean.note)
        if kept is None or not self._same_code(kept, fingerprint, "the last run"):
            return None
        return kept.position if self._same_events(self._clean, kept) else None

    def _same_events(self, clean: KeptProgress, kept: Kept) -> bool:
        """Whether what was read is what is there: an event that comes back from an archive, comes
        late or is rewritten by an erasure stands before the position.
        """
        document = kept.document
        known = {each for each in document["erasures"] if not each.endswith(RUNNING)}
        if not known.issuperset(clean.erasures()):
            self._hooks.say("personal data was erased since the last run, so all events are read")
            return False
        if document["tallies"] != self._tallies(kept.position):
            self._hooks.say(
                "there are other events in the part of the log that was read than at the last run, "
                "so all events are read"
            )
            return False
        return True

    def _tallies(self, until: Position | None) -> dict[str, list[str]] | None:
        found = self._store.counts.tallies(self._request.selection.filter, until)
        if found is None:
            return None
        return {name: [str(each) for each in tally] for name, tally in found.items()}

    def _all_read(self, report: DecodeReport, tallies: Mapping[str, list[str]]) -> bool:
        """Whether this run, and those that it continues, were given as many events as there are
        up to its end by now. One that came late behind it was not.
        """
        before = {} if report.since is None else self._tallies(report.since) or {}
        counts = [sum(int(events) for events, _ in each.values()) for each in (before, tallies)]
        return counts[1] - counts[0] == report.events

    def _same_code(self, kept: Kept, fingerprint: str, since: str) -> bool:
        """Whether the code is that of a run before; then its files are those of this one, too."""
        document = kept.document
        files = document.get("files", {})
        what = "the code"
        if (document.get("format"), document.get("code")) == (_FORMAT, fingerprint):
            other = changed(files, self._request.directory)
            if other is None:
                for name, digest in files.items():
                    if self._files.setdefault(name, digest) != digest:
                        self._files[name] = "changed"
                return True
            what = other
        self._hooks.say(f"{what} has changed since {since}, so all events are read")
        return False

    def under_way(self, report: DecodeReport, fingerprint: str, *, at_once: bool = False) -> bool:
        """Keep how far the run is, now and then, or `at_once`. Returns whether it is kept.

        Without --resume, a store in which nothing can be kept is no reason to end.
        """
        if self._fails or report.position is None:
            return False
        since = time.monotonic() - self._last
        if since < KEEP_EVERY_SECONDS and not (at_once and self._run is not None):
            return False
        self._last = time.monotonic()
        try:
            if self._run is None:
                run = self._progress("run", _RUN)
                run.prepare()
                try:
                    run.read()
                except AnotherLog:  # of a run that was ended before the store was restored
                    run.forget()
                self._run = run
            self._run.write(_document(report, fingerprint, self._files), report.position)
        except EsopsError as error:
            if self._request.resume:
                raise
            self._fails = True
            self._hooks.say(f"this run cannot be resumed: {error.message}")
            return False
        return True

    def done(self, report: DecodeReport, fingerprint: str) -> None:
        """The run has come to its end."""
        if self._clean is not None and report.position is not None:
            if report.findings:
                self._hooks.say("the next run with --since-last begins where this one began")
            else:
                self._keep_clean(self._clean, report, report.position, fingerprint)
        # Not before: where that fails, this run can be resumed.
        if self._run is not None:
            self._run.forget()

    def _keep_clean(
        self, clean: KeptProgress, report: DecodeReport, position: Position, fingerprint: str
    ) -> None:
        tallies = self._tallies(position)
        if tallies is not None and not self._all_read(report, tallies):
            self._hooks.say(
                "events came or went in the part of the log that was read while it was; the next "
                "run with --since-last begins where this one began"
            )
            return
        document = {
            "format": _FORMAT,
            "code": fingerprint,
            "files": dict(self._files),
            "erasures": self._erasures,
            "tallies": tallies,
        }
        clean.write(document, position)

    def _progress(self, what: str, job: SchemaJob) -> KeptProgress:
        request = self._request
        selection = {
            "what": what,
            "code": request.code,
            "encode": request.encode,
            "round_trip": request.round_trip,
            "ignored": sorted(request.ignored),
            "same_moments": request.same_moments,
            "types": sorted(request.selection.types),
            "category": request.selection.category,
            "tenant": request.tenant,
            "since_last": request.since_last,
        }
        return progress_of(self._store, self._settings, job, selection)


def _document(report: DecodeReport, fingerprint: str, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "code": fingerprint,
        "files": dict(files),
        "events": report.events,
        "shapes": report.shapes,
        "types": report.types,
        "sampled": report.sampled,
        "since": None if report.since is None else str(report.since),
        "groups": report.groups.document(),
    }


def load(report: DecodeReport, document: Mapping[str, Any], position: Position | None) -> None:
    """Let a report begin with what a run left."""
    for name in ("events", "shapes", "types", "sampled"):
        setattr(report, name, document[name])
    since = document["since"]
    report.since = None if since is None else Position.parse(since)
    report.position = position
    report.groups.load(document["groups"])
