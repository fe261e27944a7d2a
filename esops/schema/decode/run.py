"""The run: a few events of every distinct shape first, then all events.

One process of ours reads; the application's code decodes in processes of its own. What was found is
taken in by the order of the log, and kept now and then together with the position.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from esops.errors import EsopsError, Stopped
from esops.events import RecordedEvent, last_position
from esops.schema.decode import kept as kept_documents
from esops.schema.decode.fatal import FatalEvents
from esops.schema.decode.groups import DecodeGroups
from esops.schema.decode.kept import KeptDecoding
from esops.schema.decode.outcomes import DecodeOutcome
from esops.schema.decode.plain_shapes import PlainShapes
from esops.schema.decode.pool import DecoderPool
from esops.schema.decode.request import DecodeHooks, DecodeReport, DecodeRequest
from esops.schema.decode.samples import ShapeSamples
from esops.schema.reading import SchemaReader
from esops.schema.selected import check_names
from esops.settings import StoreSettings
from esops.stores.base import EventStore
from esops.wording import count, listed


def decode(
    store: EventStore, settings: StoreSettings, request: DecodeRequest, hooks: DecodeHooks
) -> DecodeReport:
    """Give a store's events to the application's code, and report on which of them it failed.

    Raises UsageError where the code cannot be run, Stopped where it was stopped, and what reading
    the store raises. The report's `short` (some events are not settled yet) and `unkept` are to be
    raised after it was shown.
    """
    request.check()
    return _DecodeRun(store, settings, request, hooks).run()


class _DecodeRun:
    def __init__(
        self, store: EventStore, settings: StoreSettings, request: DecodeRequest, hooks: DecodeHooks
    ) -> None:
        self._store, self._request, self._hooks = store, request, hooks
        self._files: dict[str, str] = {}
        self._kept = KeptDecoding(store, settings, request, hooks, self._files)
        # Before anything is read.
        stored = store.stored_payloads
        self._plain = None if stored is None else stored.give()
        self._fatal = FatalEvents(PlainShapes(self._plain))
        self._report = self._new_report()

    def run(self) -> DecodeReport:
        request, report = self._request, self._report
        check_names(self._store, request.selection)
        self._kept.prepare()
        with DecoderPool(request, self._fatal, self._hooks.stop, self._files) as pool:
            kept = self._kept.interrupted(pool.fingerprint)
            if kept is not None:
                kept_documents.load(report, kept.document, kept.position)
                self._fatal.add(report.groups.ends())
                self._hooks.say(
                    f"resumed after {count(report.events, 'event')}, at position {kept.position}"
                )
            else:
                report.since = report.position = self._kept.clean(pool.fingerprint)
                self._distinct_shapes(pool)
                if request.shapes_only:
                    report.all_events = False
                    return report
            try:
                self._all_events(pool)
            except Stopped:
                raise self._stopped(pool.fingerprint) from None
            report.failed_first -= {
                (each.type, each.shape) for each in report.groups.failures.values()
            }
            try:
                if report.short is None:
                    self._kept.done(report, pool.fingerprint)
                else:
                    self._kept.under_way(report, pool.fingerprint, at_once=True)
            except EsopsError as error:
                report.unkept = error
        return report

    def _new_report(self) -> DecodeReport:
        request = self._request
        return DecodeReport(
            self._store.name,
            request.code,
            self._groups(),
            request.round_trip or request.encode is not None,
        )

    def _groups(self) -> DecodeGroups:
        return DecodeGroups(PlainShapes(self._plain), show=self._request.show_payload)

    # -- the events of distinct shapes

    def _distinct_shapes(self, pool: DecoderPool) -> None:
        began = time.monotonic()
        report, samples = self._report, ShapeSamples(PlainShapes(self._plain))
        reader = self._reader("shapes: events read")
        for batch in reader.batches():
            samples.add(batch)
        if reader.stopped:
            raise Stopped("stopped while the distinct shapes were looked for", hint=_AGAIN)
        report.shapes, report.types = samples.shapes, samples.types
        report.more_shapes, report.first_alone = samples.left_out > 0, samples.first_alone
        found = time.monotonic()
        # What fails here fails among all events once more, and is counted there.
        groups = self._groups()
        events = list(samples.events())
        report.sampled = len(events)
        try:
            for piece in pool.decode(events):
                groups.add(*piece)
            for piece in pool.rest():
                groups.add(*piece)
        except Stopped:
            raise Stopped("stopped while distinct shapes were decoded", hint=_AGAIN) from None
        # Among all events they are counted again, so that a run that is resumed counts the same.
        self._fatal.clear()
        now = time.monotonic()
        report.seconds |= {"shapes_read": found - began, "shapes_decoded": now - found}
        if self._request.shapes_only:
            report.groups, report.events, report.short = groups, len(events), reader.short
            report.position = reader.position
            return
        # A time limit may pass by chance.
        report.failed_first = {
            (each.type, each.shape) for each in groups.failures.values() if each.error != "Timeout"
        }
        self._say_first(groups, len(events), now - began)

    def _say_first(self, groups: DecodeGroups, events: int, seconds: float) -> None:
        report = self._report
        what = (
            f"{count(report.shapes, 'distinct shape')} of {count(report.types, 'type')} "
            f"({count(events, 'event')}) decoded first, in {seconds:.1f} s"
        )
        failing = {(each.type, each.shape) for each in groups.failures.values()}
        if failing:
            kinds = sorted({kind for kind, _ in failing})
            which = f"such as {listed(kinds[:3])}" if len(kinds) > 3 else f"of {listed(kinds)}"
            self._hooks.say(
                f"{what}: {count(len(failing), 'shape')} failed already, {which}; now all events, "
                "to count them"
            )
        else:
            self._hooks.say(f"{what}: none failed; now all events")

    # -- all events

    def _all_events(self, pool: DecoderPool) -> None:
        began = time.monotonic()
        report = self._report
        reader = self._reader("decode: events")
        for batch in reader.batches():
            for piece in pool.decode(batch):
                self._take(*piece, pool.fingerprint)
        if reader.stopped:
            raise Stopped
        for piece in pool.rest():
            self._take(*piece, pool.fingerprint)
        # Behind the last event that was selected nothing is to be read again.
        report.position = reader.position or report.position
        report.short = reader.short
        report.seconds["all_events"] = time.monotonic() - began

    def _take(
        self, events: Sequence[RecordedEvent], outcome: DecodeOutcome, fingerprint: str
    ) -> None:
        report = self._report
        report.groups.add(events, outcome)
        report.events += len(events)
        report.position = last_position(events)
        self._kept.under_way(report, fingerprint)

    def _stopped(self, fingerprint: str) -> Stopped:
        report = self._report
        kept = self._kept.under_way(report, fingerprint, at_once=True)
        groups = report.groups
        return Stopped(
            f"stopped after {count(report.events, 'event')}, of which "
            f"{groups.failed + groups.not_tried:,} failed",
            hint="Resume it with --resume." if kept else _AGAIN,
        )

    def _reader(self, what: str) -> SchemaReader:
        return SchemaReader(
            self._store,
            self._request.selection,
            lambda done, total: self._hooks.progress(what, done, total),
            after=self._report.position,
            stop=self._hooks.stop,
        )


_AGAIN = "Nothing was kept, since it had just begun. Run it again."
