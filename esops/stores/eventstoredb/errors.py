"""What a node answers when it does not answer what was asked, told as an operator wants to hear it.

The server says by a status and its trailers what went wrong (`exception`, `leader-endpoint-host`,
…); esdbclient makes classes of its own of that and drops the trailers of some. Both kinds end here:
one of esops' errors, with a hint. What may get better by asking again, on another connection or
another node, is ConnectionLost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import grpc
from esdbclient import exceptions as esdb

from esops.errors import ConnectionLost, Denied, EsopsError, Refused, Unavailable
from esops.stores.base import WrongExpectedVersion

Code = grpc.StatusCode
_CREDENTIALS = re.compile(r"(://)[^/@\s]*@")
_ROUNDABOUT = re.compile(r"failed to connect to all addresses; last error: (UNKNOWN: )?")
_LEADER = (
    "Name all nodes in the URI or use esdb+discover://, so that esops finds the leader. Or "
    "read from this node with nodePreference=follower."
)
_CA = "Name the CA's file with tlsCaFile in the URI."
_NO_TLS = "If the node is insecure, write tls=false in the URI."
_REACH = "Check that the node is running and that the URI names it."
_OVERLOADED = "The node may be overloaded. Check its statistics."
_ADMINS = "Only admins may read $all, unless an ACL grants it to others."
_GRANT = "Grant the right, or use another user in the URI."
_ANEW = "Read the stream again, and repeat the decision."
_FEWER = "Append fewer events at a time."


def _without(preference: str) -> str:
    return f"Leave nodePreference={preference} out of the URI."


class StreamGone(Refused):
    """The stream was tombstoned: it is deleted for ever, and its name can never be used again."""


@contextmanager
def translated(target: str, what: str = "") -> Iterator[None]:
    """Turn esdbclient's and gRPC's errors into ours.

    `target` is the node that was asked, `what` what was wanted of it, such as "read $all", for the
    sentence.
    """
    try:
        yield
    except EsopsError:
        raise
    except grpc.RpcError as error:
        raise of_status(error, target, what) from error
    except esdb.EventStoreDBClientException as error:
        raise of_client(error, target, what) from error


def of_client(error: esdb.EventStoreDBClientException, target: str, what: str) -> EsopsError:
    """One of esops' errors for one of esdbclient's."""
    inner = (
        error.args[0] if error.args and isinstance(error.args[0], grpc.Call) else error.__cause__
    )
    # The status says more than esdbclient's class does; but in a failed discovery it is only that
    # of the last node that was tried.
    if isinstance(inner, grpc.Call) and not isinstance(error, esdb.DiscoveryFailed):
        return of_status(inner, target, what)
    for kind, ours, message, hint in _BY_CLASS:
        if isinstance(error, kind):
            return ours(
                message.format(
                    target=target, what=what or "answer", text=without_secrets(str(error))
                ),
                hint=hint,
            )
    return Unavailable(f"{target}: {without_secrets(str(error)) or type(error).__name__}")


_BY_CLASS: tuple[
    tuple[type[esdb.EventStoreDBClientException], type[EsopsError], str, str | None], ...
] = (
    (esdb.SSLError, Unavailable, "the certificate of {target} is not accepted: {text}", _CA),
    (esdb.ServiceUnavailable, ConnectionLost, "{target} cannot be reached: {text}", _REACH),
    (
        esdb.FollowerNotFound,
        Unavailable,
        "the cluster has no follower to read from",
        _without("follower"),
    ),
    (
        esdb.ReadOnlyReplicaNotFound,
        Unavailable,
        "the cluster has no read-only replica",
        _without("readonlyreplica"),
    ),
    (esdb.LeaderNotFound, ConnectionLost, "the cluster has no leader at the moment ({text})", None),
    (
        esdb.DiscoveryFailed,
        ConnectionLost,
        "no node of the cluster names its members: {text}",
        "Check hosts and ports, and tls, in the URI.",
    ),
    (esdb.DeadlineExceeded, ConnectionLost, "{target} did not {what} in time", _OVERLOADED),
    (
        esdb.ConsumerTooSlow,
        ConnectionLost,
        "{target} ended the subscription: this reader is too slow for it",
        None,
    ),
    (esdb.AbortedByServer, ConnectionLost, "{target} gave up: {text}", None),
    (
        esdb.NodeIsNotLeader,
        Unavailable,
        "{target} is not the leader, and only the leader can do this",
        _LEADER,
    ),
    (esdb.AccessDeniedError, Denied, "{target} does not allow this user to {what}", _GRANT),
    (
        esdb.StreamIsDeleted,
        StreamGone,
        "the stream was tombstoned: it is deleted for ever, and its name can never be used again",
        None,
    ),
    (esdb.WrongCurrentVersion, WrongExpectedVersion, "{text}", _ANEW),
    (
        esdb.MaximumAppendSizeExceededError,
        Refused,
        "the append is larger than the server accepts at once: {text}",
        _FEWER,
    ),
)


def trailers(error: grpc.RpcError) -> Mapping[str, str]:
    """The trailers of a call that failed, as text."""
    found = error.trailing_metadata() if isinstance(error, grpc.Call) else None
    return {
        key: value.decode() if isinstance(value, bytes) else value for key, value in found or ()
    }


def of_status(error: grpc.RpcError, target: str, what: str) -> EsopsError:
    """One of esops' errors for a status of gRPC, by the server's trailers where it sent them."""
    code = error.code() if isinstance(error, grpc.Call) else Code.UNKNOWN
    details = without_secrets((error.details() if isinstance(error, grpc.Call) else None) or "")
    about = trailers(error)
    reason = about.get("exception")
    # The trailers first: they are exact, where codes and texts stand for several things.
    if reason == "not-leader":
        leader = f"{about.get('leader-endpoint-host')}:{about.get('leader-endpoint-port')}"
        return NotLeader(f"{target} is not the leader; that is {leader}", leader, hint=_LEADER)
    if reason == "stream-deleted":
        return StreamGone(
            f"the stream {about.get('stream-name')!r} was tombstoned: it is deleted for ever, "
            "and its name can never be used again"
        )
    if reason == "wrong-expected-version":
        actual = about.get("actual-version")
        return WrongExpectedVersion(
            f"the stream {about.get('stream-name')!r} is at version {actual}, not at "
            f"{about.get('expected-version')}",
            hint=_ANEW,
        )
    if reason and reason.startswith("maximum-append"):
        return Refused(
            f"the append is larger than the server accepts at once: {details}", hint=_FEWER
        )
    if code is Code.PERMISSION_DENIED or reason == "access-denied":
        hint = _ADMINS if "$all" in what else _GRANT
        return Denied(f"{target} does not allow this user to {what or 'do this'}", hint=hint)
    if code is Code.UNAUTHENTICATED:
        return Unavailable(f"{target} denies the login", hint="Check user and password in the URI.")
    if code is Code.DEADLINE_EXCEEDED:
        return ConnectionLost(f"{target} did not {what or 'answer'} in time", hint=_OVERLOADED)
    if (
        code is Code.INVALID_ARGUMENT and "invalid position" in details
    ) or "FilteredReadAllResult: Error" in details:
        return Refused(
            "the position is not in this store's log",
            hint="The store may have been replaced or restored since the position was read. A "
            "rebuild starts from the beginning.",
        )
    # A cluster that is electing a leader answers with this text.
    if code in (Code.UNAVAILABLE, Code.CANCELLED, Code.ABORTED) or "No leader info" in details:
        return _unreachable(target, details or code.name)
    return Unavailable(f"{target} did not {what or 'answer'}: {details or code.name}")


def _unreachable(target: str, details: str) -> EsopsError:
    # gRPC calls all of these UNAVAILABLE, but asking again would not help.
    if "WRONG_VERSION_NUMBER" in details.upper().replace(" ", "_"):
        return Unavailable(f"{target} does not speak TLS", hint=_NO_TLS)
    if "SSL" in details or "CERTIFICATE" in details or "Ssl handshake" in details:
        return Unavailable(f"the certificate of {target} is not accepted: {details}", hint=_CA)
    if "too slow" in details:
        return ConnectionLost(f"{target} ended the subscription: this reader is too slow for it")
    return ConnectionLost(f"{target} cannot be reached: {details}", hint=_REACH)


class NotLeader(ConnectionLost):
    """The node that was asked is not the leader. `leader` is the address of the one that is."""

    def __init__(self, message: str, leader: str, *, hint: str | None = None) -> None:
        """`leader` is its address as the node gave it."""
        super().__init__(message, hint=hint)
        self.leader = leader


def without_secrets(text: str) -> str:
    """A text in which no URI shows its user and password, and gRPC's telling of a failed connection
    is cut to its cause.
    """
    return _CREDENTIALS.sub(r"\1***@", _ROUNDABOUT.sub("", text.strip()))
