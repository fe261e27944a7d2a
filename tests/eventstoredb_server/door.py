"""A node's one address:

HTTP/2 goes to gRPC, HTTP/1.1 to the administration, TLS ends here. And it can be cut or closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

_PREFACE = b"PRI"
_CHUNK = 256 * 1024


class Door:
    def __init__(self, grpc_path: str, http_path: str, tls: ssl.SSLContext | None) -> None:
        self._grpc_path, self._http_path, self._tls = grpc_path, http_path, tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self, host: str, port: int) -> None:
        self._server = await asyncio.start_server(
            self._accept, host, port, ssl=self._tls, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection; the next one is accepted."""
        for writer in list(self._writers):
            writer.transport.abort()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            first = await reader.read(_CHUNK)
            if not first:
                return
            path = self._grpc_path if first.startswith(_PREFACE) else self._http_path
            inner_reader, inner_writer = await asyncio.open_unix_connection(path)
            self._writers.add(inner_writer)
            try:
                inner_writer.write(first)
                await asyncio.gather(
                    self._pump(reader, inner_writer), self._pump(inner_reader, writer)
                )
            finally:
                self._writers.discard(inner_writer)
                inner_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # the other side went away, or the node ends
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                writer.write(chunk)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
