"""An S3 (moto's server) behind a proxy that can fail and lie: errors, silence, truncated, altered
and lost objects.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


class ObjectStore:
    """A context. `faults`: by kind (error, hang, truncate, alter, lose), the part of an object's
    name that it befalls.
    """

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self._writing = threading.Lock()
        """moto looks for an object and puts it in two steps; S3 writes on a condition at once."""

    def __enter__(self):
        from moto.server import ThreadedMotoServer  # long to import, and few tests need it

        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        self._behind = f"http://{host}:{port}"
        self._client = httpx.Client(base_url=self._behind, trust_env=False, timeout=30)
        self._door = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._door.daemon_threads = True
        threading.Thread(target=self._door.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self._door.server_address[1]}"
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true"}
        return self

    def __exit__(self, *_):
        self._door.shutdown()
        self._door.server_close()
        self._client.close()
        self._moto.stop()

    def make(self, bucket: str) -> None:
        import boto3

        named = {
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
            "region_name": "us-east-1",
        }
        boto3.client("s3", endpoint_url=self._behind, **named).create_bucket(Bucket=bucket)

    def _handler(self):
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hit = {fault for fault, part in store.faults.items() if part in self.path}
                reading = self.command == "GET"
                if "hang" in hit:
                    time.sleep(3)
                if "error" in hit:
                    return self.answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
                if "lose" in hit and reading:
                    return self.answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() != "connection"
                }
                with (
                    store._writing if self.command == "PUT" else nullcontext(),
                    store._client.stream(
                        self.command, self.path, content=body, headers=headers
                    ) as answer,
                ):
                    content = b"".join(answer.iter_raw())
                if reading and answer.status_code == 200:
                    if "truncate" in hit:
                        content = content[: len(content) // 2]
                    if "alter" in hit:
                        content = content[:20] + bytes([content[20] ^ 1]) + content[21:]
                skip = ("content-length", "transfer-encoding", "connection")
                kept = {
                    name: value
                    for name, value in answer.headers.items()
                    if name.lower() not in skip
                }
                length = answer.headers.get("content-length") if self.command == "HEAD" else None
                return self.answer(answer.status_code, kept, content, length)

            def answer(
                self,
                status: int,
                headers: dict[str, str],
                content: bytes,
                length: str | None = None,
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler
