"""`esops serve` as a process, and what a browser or a script sends to it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import orjson

from tests.support.waiting import finish


class Served:
    """A server that runs, and a client of it."""

    def __init__(self, process, url: str, said: list[str]) -> None:
        self.process, self.url, self.said = process, url, said
        self.http = httpx.Client(base_url=url, timeout=60)

    def get(self, path: str, status: int = 200) -> str:
        answer = self.http.get(path, follow_redirects=True)
        assert answer.status_code == status, answer.text
        return html.unescape(answer.text)

    def post(self, path: str, **fields: str) -> httpx.Response:
        """Send a form as a browser does that has the page open, and go where it leads."""
        headers = {"origin": self.url.rstrip("/")}
        return self.http.post(path, data=fields, headers=headers, follow_redirects=True)

    def form(self, page: str) -> dict[str, str]:
        """The hidden fields of the last form of a page."""
        last = page.rpartition("<form")[2]
        return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', last))

    @contextmanager
    def live(self, part: str, key: str = "") -> Iterator[Iterator[dict]]:
        """What the server sends of a part of a page."""
        with self.http.stream("GET", "/live", params={"part": part, "key": key}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield (
                orjson.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")
            )

    def end(self) -> tuple[str, str]:
        self.process.terminate()
        return finish(self.process)


@contextmanager
def serving(project, *options: str) -> Iterator[Served]:
    """A server of a project's folder, the installed command, on a port that the system chooses."""
    process = project.installed.start("serve", "0", *options)
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"serving (http\S+);", line):
                break
        else:
            raise AssertionError("".join(said))
        served = Served(process, found[1], said)
        yield served
        served.http.close()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
