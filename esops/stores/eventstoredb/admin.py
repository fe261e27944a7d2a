"""The HTTP administration of a node: scavenge, what the node is, its statistics, and what it knows
of the cluster.

The same address as gRPC, the same TLS and user as in the URI. Scavenging is by node: each has to be
asked.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from esdbclient.connection_spec import ConnectionSpec

from esops.errors import Busy, ConnectionLost, Refused, Unavailable, UsageError
from esops.stores.eventstoredb.errors import without_secrets

TIMEOUT = 10.0
NOT_STARTED = "NotStarted"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of itself. `clock` is its time, to the second."""

    version: str
    state: str
    clock: datetime
    features: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scavenge:
    """A scavenge of one node.

    `result` is InProgress, Success, Stopped, Errored or Failed; `saved` is in bytes. Of ours are
    NOT_STARTED, and Unknown where the node went down. `node` is its address, where that is known.
    """

    id: str
    result: str
    started_at: datetime | None = None
    chunks: int = 0
    saved: int = 0
    taken: str = ""
    error: str = ""
    node: str = ""


class HttpAdmin:
    """A node's administration over HTTP."""

    def __init__(self, spec: ConnectionSpec, target: str) -> None:
        """`spec` is the URI, and `target` the node's address. Nothing is asked yet."""
        self.target = target
        options = spec.options
        verify: ssl.SSLContext | bool = True
        if options.Tls and (options.TlsCaFile or options.UserCertFile):
            verify = ssl.create_default_context(cafile=options.TlsCaFile)
            if options.UserCertFile:
                verify.load_cert_chain(options.UserCertFile, options.UserKeyFile)
        # Credentials go over TLS alone, as with gRPC.
        user = (
            (spec.username, spec.password)
            if options.Tls and spec.username and spec.password
            else None
        )
        self._http = httpx.Client(
            base_url=f"{'https' if options.Tls else 'http'}://{target}",
            auth=user,
            verify=verify,
            timeout=TIMEOUT,
            headers={"Accept": "application/json"},
            # A proxy for the internet, set in the environment, must not get the user's password.
            trust_env=False,
        )

    def _ask(
        self, method: str, path: str, what: str, **parameters: str | int | None
    ) -> httpx.Response:
        query = {key: str(value) for key, value in parameters.items() if value is not None}
        try:
            answer = self._http.request(method, path, params=query)
        except httpx.TimeoutException as error:
            raise ConnectionLost(f"{self.target} did not {what} in time") from error
        except httpx.HTTPError as error:
            text = without_secrets(str(error))
            if "CERTIFICATE" in text.upper():
                hint = "Name the CA's file with tlsCaFile in the URI."
                raise Unavailable(
                    f"the certificate of {self.target} is not accepted: {text}", hint=hint
                ) from error
            raise ConnectionLost(f"{self.target} cannot be reached over HTTP: {text}") from error
        if answer.status_code in (401, 403):
            raise Unavailable(
                f"{self.target} does not allow this user to {what}",
                hint="Use a user of $ops or $admins.",
            )
        # A node that is starting says so, and may be ready a moment later.
        if answer.status_code in (502, 503, 504):
            raise ConnectionLost(f"{self.target} is not ready: {answer.text[:200]}")
        return answer

    def _done(self, answer: httpx.Response, what: str) -> Any:
        if answer.status_code >= 400:
            raise Unavailable(
                f"{self.target} did not {what}: {answer.status_code} {answer.text[:200]}"
            )
        return answer.json() if answer.content else None

    def info(self) -> NodeInfo:
        """Version, state and clock."""
        what = "say what it is"
        answer = self._ask("GET", "/info", what)
        info = self._done(answer, what)
        clock = (
            parsedate_to_datetime(answer.headers["date"])
            if "date" in answer.headers
            else datetime.now(UTC)
        )
        return NodeInfo(
            str(info.get("esVersion") or info.get("dbVersion")),
            str(info.get("state")),
            clock,
            info.get("features") or {},
        )

    def stats(self) -> dict[str, Any]:
        """The node's statistics, as it gives them."""
        found: dict[str, Any] = self._done(
            self._ask("GET", "/stats", "give statistics"), "give statistics"
        )
        return found

    def gossip(self) -> list[dict[str, Any]]:
        """The cluster's members, as this node knows them."""
        found = self._done(self._ask("GET", "/gossip", "list the members"), "list the members")
        members: list[dict[str, Any]] = found["members"]
        return members

    def projection_query(self, name: str) -> dict[str, Any] | None:
        """What a projection reads and whether it emits, as the server says it; None where it does
        not say.
        """
        what = f"say what projection {name!r} reads"
        answer = self._ask("GET", f"/projection/{quote(name, safe='')}/query", what, config="yes")
        if answer.status_code in (404, 405):
            return None
        found = self._done(answer, what)
        return found if isinstance(found, dict) else None

    # -- scavenge

    def start_scavenge(
        self, *, threads: int = 1, threshold: int | None = None, throttle_percent: int | None = None
    ) -> str:
        """Start a scavenge of this node; returns its id.

        `threshold`: what a chunk must be worth to be rewritten. `throttle_percent`: how much of the
        time it may work, 1 to 100. Raises UsageError for a throttle with several threads, Busy
        while one runs.
        """
        if throttle_percent not in (None, 100) and threads != 1:
            raise UsageError("a throttled scavenge can only have one thread")
        what = "start a scavenge"
        answer = self._ask(
            "POST",
            "/admin/scavenge",
            what,
            threads=threads,
            threshold=threshold,
            throttlePercent=throttle_percent,
        )
        # The server has no status of its own for this, only the text.
        if answer.status_code == 400 and "already" in answer.text.lower():
            raise Busy(
                f"a scavenge of {self.target} is already running", hint="Watch it, or stop it."
            )
        return str(self._done(answer, what)["scavengeId"])

    def stop_scavenge(self, id: str = "current") -> None:
        """Stop a scavenge; what it has done stays done. Raises UsageError where none runs."""
        answer = self._ask("DELETE", f"/admin/scavenge/{id}", "stop the scavenge")
        if answer.status_code == 404:
            raise UsageError(
                f"no scavenge {id if id != 'current' else ''} runs on {self.target}".replace(
                    "  ", " "
                )
            )
        self._done(answer, "stop the scavenge")

    def current_scavenge(self) -> str | None:
        """The id of the scavenge that runs, or None.

        Raises Refused where the server (before 22.10) cannot tell.
        """
        answer = self._ask("GET", "/admin/scavenge/current", "show the running scavenge")
        if answer.status_code in (404, 405):
            raise Refused(
                "this server is too old to tell which scavenge is running",
                hint="Look at the stream $scavenges, which has the history.",
            )
        found = self._done(answer, "show the running scavenge")
        id = found.get("scavengeId")
        return str(id) if id else None

    def close(self) -> None:
        """Close the HTTP connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Scavenges:
    """What the streams `$scavenges` and `$scavenges-<id>` tell of scavenges, on every node of a
    cluster.
    """

    def __init__(self, read_stream: Callable[..., Iterator[Any]]) -> None:
        """`read_stream` is the store's."""
        self._read = read_stream

    def history(self, limit: int = 20) -> list[Scavenge]:
        """The newest scavenges first."""
        ids: dict[str, None] = {}
        # A scavenge has several events in this stream.
        for event in self._read("$scavenges", backwards=True, limit=limit * 4):
            ids.setdefault(str(event.json().get("scavengeId")))
        return [found for id in list(ids)[:limit] if (found := self.one(id)) is not None]

    def one(self, id: str) -> Scavenge | None:
        """The state of a scavenge; None if the server has no record of it."""
        found: Scavenge | None = None
        for event in self._read(f"$scavenges-{id}"):
            data = event.json()
            found = found or Scavenge(id, "InProgress", event.recorded_at)
            chunks = found.chunks + (event.type == "$scavengeChunksCompleted")
            # Added up from the chunks: the total comes only with the last event.
            saved = found.saved + int(data.get("spaceSaved") or 0) * (
                event.type == "$scavengeChunksCompleted"
            )
            found = Scavenge(id, found.result, found.started_at, chunks, saved)
            if event.type == "$scavengeCompleted":
                return Scavenge(
                    id,
                    str(data.get("result")),
                    found.started_at,
                    chunks,
                    int(data.get("spaceSaved") or saved),
                    str(data.get("timeTaken") or ""),
                    str(data.get("error") or ""),
                )
        return found

    def watch(
        self, id: str, stop: Callable[[], bool] = lambda: False, poll: float = 1.0
    ) -> Iterator[Scavenge]:
        """The states of a scavenge, one after the other, until it is done; the last has its
        result.
        """
        seen: Scavenge | None = None
        while not stop():
            found = self.one(id)
            if found is not None and found != seen:
                seen = found
                yield found
                if found.result != "InProgress":
                    return
            time.sleep(poll)
