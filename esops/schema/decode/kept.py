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
from esops.schema.decode.code_files import changed
from esops.schema.decode.request import DecodeHooks, DecodeReport, DecodeRequest
from esops.schema.progress import Kept, KeptProgress, SchemaJob, progress_of
from esops.settings import StoreSettings
from esops.stores.base import EventStore

KEEP_EVERY_SECONDS = 10.0
"""What is read in less is read again as quickly as it is kept."""
_FORMAT = 2
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
        if kept is None:
            return None
        return kept.position if self._same_code(kept, fingerprint, "the last run") else None

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
                document = {"format": _FORMAT, "code": fingerprint, "files": dict(self._files)}
                self._clean.write(document, report.position)
        # Not before: where that fails, this run can be resumed.
        if self._run is not None:
            self._run.forget()

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
