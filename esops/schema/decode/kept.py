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

from esops.errors import AnotherLog, EsopsError
from esops.events import Position
from esops.schema.decode.request import DecodeHooks, DecodeReport, DecodeRequest
from esops.schema.progress import Kept, KeptProgress, SchemaJob, progress_of
from esops.settings import StoreSettings
from esops.stores.base import EventStore

KEEP_EVERY_SECONDS = 10.0
"""What is read in less is read again as quickly as it is kept."""
_FORMAT = 1
_RUN = SchemaJob("decode", "a run without --resume", "--resume")
_CLEAN = SchemaJob("decode", "--from-start", "--since-last")


class KeptDecoding:
    """What is kept of the runs with one code and one selection."""

    def __init__(
        self, store: EventStore, settings: StoreSettings, request: DecodeRequest, hooks: DecodeHooks
    ) -> None:
        """Nothing is reached yet."""
        self._request, self._hooks = request, hooks
        self._store, self._settings = store, settings
        self._last = time.monotonic()
        self._run: KeptProgress | None = None
        self._clean: KeptProgress | None = None
        self._fails = False

    def prepare(self) -> None:
        """Make sure, where it was asked for, that progress can be kept. Raises Unavailable."""
        request = self._request
        if request.resume:
            self._run = self._progress("run", _RUN)
            self._run.prepare()
        if request.since_last:
            self._clean = self._progress("clean", _CLEAN)
            self._clean.prepare()

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
        if not _of(kept, fingerprint):
            self._hooks.say(
                "the code has changed since the run that was interrupted, so all events are read"
            )
            return None
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
        if kept is None:
            return None
        if not _of(kept, fingerprint):
            self._hooks.say("the code has changed since the last run, so all events are read")
            return None
        return kept.position

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
            self._run.write(_document(report, fingerprint), report.position)
        except EsopsError as error:
            if self._request.resume:
                raise
            self._fails = True
            self._hooks.say(f"this run cannot be resumed: {error.message}")
            return False
        return True

    def done(self, report: DecodeReport, fingerprint: str) -> None:
        """The run has come to its end."""
        if self._run is not None:
            self._run.forget()
        if self._clean is not None and report.position is not None:
            if report.findings:
                self._hooks.say("the next run with --since-last begins where this one began")
            else:
                self._clean.write({"format": _FORMAT, "code": fingerprint}, report.position)

    def _progress(self, what: str, job: SchemaJob) -> KeptProgress:
        request = self._request
        selection = {
            "what": what,
            "code": request.code,
            "encode": request.encode,
            "round_trip": request.round_trip,
            "ignored": sorted(request.ignored),
            "types": sorted(request.selection.types),
            "category": request.selection.category,
            "tenant": request.tenant,
            "since_last": request.since_last,
        }
        return progress_of(self._store, self._settings, job, selection)


def _of(kept: Kept, fingerprint: str) -> bool:
    document = kept.document
    return (document.get("format"), document.get("code")) == (_FORMAT, fingerprint)


def _document(report: DecodeReport, fingerprint: str) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "code": fingerprint,
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
