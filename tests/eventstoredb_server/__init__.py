"""A node for tests: the real gRPC protocol and the HTTP administration of EventStoreDB on one
address, streams in memory.

It is built from the server's own behaviour (facts in ../../docs are about that one), for fidelity
to the protocol and not
for the convenience of esops: clients of others work on it unchanged. `python -m
tests.eventstoredb_server --help`.

    storage.py    the log, the streams, expectations, idempotency, truncation, deletion
    scavenge.py  what leaves the log
    wire.py       records as protocol messages; filters.py   filters of reads of $all       calls.py
    users, statuses, leader
    reads.py, subscriptions.py, writes.py                    the service Streams, by what is asked
    of it
    groups.py, persistent.py                                 persistent subscriptions: how they
    work, how they are spoken to
    projector.py, javascript.py, projections.py              projections: the same
    cluster.py, small_services.py                            nodes and their roles; gossip,
    features, operations
    http.py, door.py, faults.py                              administration; the one address; what
    tests switch on
"""
