"""Traces on a node: the index of correlation ids first, and the log is read once for all else."""

from __future__ import annotations

import json
import uuid

import pytest

from esops.events import NewEvent
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from esops.stores.searching import IdSearch
from esops.trace.search import Tracer
from tests.support.esdb import Nodes
from tests.support.waiting import until


def event(cause: str | None, correlation: str | None) -> NewEvent:
    about = {"$causationId": cause, "$correlationId": correlation}
    known = {key: value for key, value in about.items() if value is not None}
    return NewEvent(str(uuid.uuid4()), "happened", b"{}", json.dumps(known).encode())


@pytest.mark.thorough
@pytest.mark.parametrize("indexed", [True, False])
def test_a_chain_costs_one_scan_whatever_its_length(indexed, monkeypatch, project):
    options = () if indexed else ("--no-system-projections",)
    with Nodes(*options) as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        chain: list[str] = []
        for number in range(8):
            # Half of the chain has another correlation, and the root names a command.
            correlation = "first" if number < 4 else "second"
            each = event(chain[-1] if chain else "a command", correlation)
            other = event(None, None)
            store.append(f"cart-{number}", [each, other])
            chain.append(each.id)
        store.changes.truncate("cart-2", 1)  # still in $all
        aside = event(chain[5], None)
        store.append("cart-aside", [aside])
        if indexed:
            until(lambda: len(list(store.read_stream("$bc-second"))) == 4)
            until(lambda: store.admin.projections.runs("$by_correlation_id"))
        scans: list[object] = []
        read_all = store.read_all

        def counted(after=None, *values, **options):
            scans.extend([after] if after is None and not values else [])
            return read_all(after, *values, **options)

        monkeypatch.setattr(store, "read_all", counted)
        # Counting few events reads them, too.
        monkeypatch.setattr(store.counts, "between", lambda after, until: 17)
        found = Tracer([store]).event(chain[4])
        assert len(scans) == 1
        ids = [each.id for each in found.forest.nodes]
        assert sorted(ids) == sorted([*chain, aside.id])
        # A text is no event's id on a node, so that it can only be a message's.
        assert found.forest.missing == []
        assert [(each.kind, each.name) for each in found.forest.outside] == [
            ("message", "a command")
        ]
        scanned = [how for how in found.how if "about" in how]
        assert scanned == ["s: a scan of $all, about 17 events"]
        monkeypatch.setattr(type(store.search), "once", IdSearch.once)
        slow = Tracer([store]).event(chain[4])
        assert len(scans) > 4
        assert [each.id for each in slow.forest.nodes] == ids
        assert slow.forest.parent == found.forest.parent
        project.write(
            "esops.toml",
            f'[stores.s]\nbackend = "eventstoredb"\nuri = "{nodes.uri}"\n[trace]\nscan_limit = 17\n',
        )
        shown = project.ok("trace", "event", chain[4], "--output", "json").json
        assert len(shown["events"]) == 9


def test_a_node_has_spans_and_messages_as_causes():
    trace, span = uuid.uuid4().hex, "00f067aa0ba902b7"
    parent = f"00-{trace}-{span}-01"
    message = str(uuid.uuid4())
    with Nodes() as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        spanned = [event(parent, each) for each in (trace, "another", None)]
        handled = [event(message.upper(), each) for each in ("c-1", "c-2")]
        handled.append(event(str(uuid.uuid4()), "c-3"))
        gone = [event(str(uuid.uuid4()), "c-4")]
        for number, each in enumerate((*spanned, *handled, *gone)):
            store.append(f"cart-{number}", [each])
        until(lambda: len(list(store.read_stream("$bc-c-4"))) == 1)
        for each in spanned:
            found = Tracer([store]).event(each.id).forest
            assert {it.id for it in found.nodes} == {it.id for it in spanned}
            assert set(found.kinds) == {"span"}
        assert len(Tracer([store]).correlation(trace).forest.nodes) == 3
        found = Tracer([store]).event(handled[0].id).forest
        assert {it.id for it in found.nodes} == {it.id for it in handled[:2]}
        # Nothing tells whether this store's events name messages or events that are gone.
        assert set(found.kinds) == {"unknown"}
        # A store whose events name events: what is not there is missing.
        store.append("cart-0", [event(spanned[0].id, "c-5")])
        assert Tracer([store]).event(gone[0].id).forest.kinds == ["missing"]
