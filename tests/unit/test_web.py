"""The pages of `esops serve` over HTTP, with a status that is made here: no database."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from esops.config import parse_config
from esops.errors import EsopsError, Refused, Unavailable, UsageError
from esops.events import StreamInfo
from esops.health.status import Status
from esops.web import options as web_options
from esops.web import readings as web_readings
from esops.web.app import ROUTES, make_app
from esops.web.controls import Control, concluded
from esops.web.jobs import Jobs
from esops.web.lags import MOST_POINTS, LagLine, LagPoint
from esops.web.live import part
from esops.web.options import ListenAddress, ServeOptions, parse_address, parse_public_url
from esops.web.readings import Readings
from esops.web.site import Site
from tests.support.http_client import TestClient

EVIL = '<img src=x onerror="alert(1)">'
TOKEN = "a token of more than sixteen characters"
HERE = ServeOptions(ListenAddress("127.0.0.1", 8077))
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def status_of(store: str) -> Status:
    """What a look finds: every name that a database could hold is hostile."""
    version = {
        "projection": "carts",
        "store": store,
        "kind": "fold",
        "active": 1,
        "paused": {"by": EVIL, "since": AT},
        "limits": {},
        "version": 1,
        "state": "active",
        "position": "1200",
        "lag_events": 300,
        "lag_seconds": 4.2,
        "rows": 12345,
        "events": 900,
        "followed_by": EVIL,
        "kept_by": "esops",
        "updated_at": AT,
        "tables": {},
        "ok": False,
        "detail": EVIL,
        "dead_letters": 2,
        "stalled": None,
    }
    processor = {"store": store, "name": EVIL, "kind": "processor", "position": "7"}
    processor |= {"lag_events": 3, "lag_seconds": 1.0, "state": EVIL, "tenant": ""}
    return Status(
        stores=[
            {
                "store": store,
                "backend": "postgres",
                "layout": "marten",
                "head": "1500",
                "ok": False,
                "version": "17",
                "detail": EVIL,
            }
        ],
        projections=[version],
        processors=[{**processor, "stalled": None}],
    )


def config(tmp_path, *stores: str):
    document = {
        "stores": {name: {"dsn": "host=/nowhere", "layout": "marten"} for name in stores},
        "projections": {
            "carts": {"store": stores[0], "kind": "fold", "python": "a:b", "tables": ["carts"]}
        },
    }
    return parse_config(document, tmp_path / "esops.toml")


@pytest.fixture
def looks():
    return []


@pytest.fixture
def client(tmp_path, looks):
    def opened(options=HERE, *stores, look=None, base="http://127.0.0.1:8077"):
        def counted(_, store):
            looks.append(store)
            return status_of(store) if look is None else look(store)

        settings = config(tmp_path, *(stores or ("shop",)))
        site = Site(settings, options, Readings(settings, counted))
        return TestClient(make_app(site), base_url=base, follow_redirects=False)

    return opened


def form_token(http) -> str:
    return http.app.state.site.sessions.form_token


def post(http, path, origin="http://127.0.0.1:8077", **fields):
    headers = {} if origin is None else {"origin": origin}
    headers["content-type"] = "application/x-www-form-urlencoded"
    fields = {"form_token": form_token(http), **fields}
    return http.post(path, content=urlencode(fields), headers=headers)


# -- what the pages show


def test_names_of_the_database_are_text_and_never_markup(client):
    http = client()
    shown = http.get("/").text
    assert "<img" not in shown
    assert shown.count("&lt;img src=x") >= 4
    site = http.app.state.site
    assert "<img" not in http.get(f"/trace?{urlencode({'by': EVIL, 'q': ''})}").text
    assert "<img" not in http.get(f"/projections/{EVIL}").text
    assert site.rendered


def test_names_in_what_is_searched_are_text_too(client, monkeypatch):
    event = {"id": EVIL, "stream": EVIL, "version": 1, "position": "1", "type": EVIL}
    event |= {"recorded_at": AT, "bytes": 3, "tenant": EVIL}
    line = {"before": "", "outside": None, "store": EVIL, "since": EVIL, "at": EVIL, "remark": EVIL}
    found = {"by": "event", "rows": [{**event, **line}], "events": [event], "streams": 1}
    found |= {"first": EVIL, "lasted": EVIL, "limited": True, "missing_causes": [EVIL], "beyond": 0}
    found |= {"not_searched": [EVIL], "not_loaded": []}
    letter = {"projection": EVIL, "store": EVIL, "version": 1, "stream_version": 1, "error": EVIL}
    action = dict.fromkeys(("command", "subject", "result", "who", "host", "options"), EVIL)
    action |= {"at": AT, "ended_at": None, "exit_code": 0}
    payload = {**event, "data": {EVIL: EVIL}, "metadata": {EVIL: EVIL}}
    info = StreamInfo(EVIL, EVIL, 1, 1, 1, AT, AT)
    answers = {
        "trace": found,
        "stream": {"info": info, "events": [event], "next": None, "after": None},
        "event": [payload],
        "dead_letters": ([{**event, **letter, "at": AT}], [EVIL]),
        "history": {"actions": [action], "notes": [EVIL], "complete": False},
    }
    http = client()
    for name, answer in answers.items():
        monkeypatch.setattr(f"esops.web.questions.{name}", lambda *_, answer=answer: answer)
        path = name.replace("_", "-")
        shown = http.get(f"/{path}?{urlencode({'q': EVIL, 'name': EVIL, 'payload': 'yes'})}")
        assert shown.status_code == 200
        assert "<img" not in shown.text
        assert "onerror" in shown.text


def test_pages_load_nothing_from_elsewhere_and_have_no_script_or_style_inside(client):
    http = client(replace(HERE, token=TOKEN, allow_control=True))
    login = http.get("/login")
    cookie = post(http, "/login", token=TOKEN).headers["set-cookie"].partition(";")[0]
    pages = [login] + [
        http.get(each, headers={"cookie": cookie})
        for each in ("/", "/trace", "/audit", "/projections/carts", "/nothing")
    ]
    for each in pages:
        assert not re.search(r"<style|<[^<>]*(?:style|\son\w+)=|<script(?! src)", each.text)
        for link in re.findall(r"""(?:src|href|action)="([^"]*)""", each.text):
            assert link.startswith("/")
        policy = each.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["cache-control"] == "no-store"
    style = http.get(re.search(r'href="(/static/app.css[^"]*)', login.text)[1])
    assert style.headers["content-type"].startswith("text/css")
    assert "url(" not in style.text
    assert "://" not in style.text


def test_the_first_page_says_what_needs_a_look(client):
    text = client().get("/").text
    assert "things need a look" in text
    assert "2 events are missing from its rows" in text
    assert "12,345" in text


def test_a_store_that_does_not_answer_leaves_the_others_as_they_are(client, monkeypatch):
    waiting = threading.Event()

    def look(store):
        if store == "slow":
            waiting.wait(20)
        if store == "down":
            raise Unavailable("the database cannot be reached: connection refused")
        return status_of(store)

    monkeypatch.setattr(Readings.fresh, "__defaults__", (0.3,))
    try:
        text = client(HERE, "shop", "down", "slow", look=look).get("/").text
    finally:
        waiting.set()
    rows = dict(re.findall(r'<tr><th scope="row">(\w+)</th><td><span class="[^"]*">(\w+)', text))
    assert rows == {"shop": "warns", "down": "down", "slow": "reading"}
    assert "connection refused" in text
    assert "carts" in text


# -- who may look


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1", "[::"])
def test_another_name_for_this_machine_is_refused(client, host, looks):
    http = client()
    assert http.get("/", headers={"host": host}).status_code == 421
    assert http.get("/live?part=status", headers={"host": host}).status_code == 421
    assert not looks


@pytest.mark.parametrize("host", ["127.0.0.1:8077", "localhost:9", "LOCALHOST", "[::1]:8077"])
def test_this_machines_own_names_are_answered(client, host):
    assert client().get("/", headers={"host": host}).status_code == 200


def test_a_wide_address_answers_to_digits_and_to_its_public_name():
    wide = ServeOptions(ListenAddress("0.0.0.0", 80), TOKEN)
    assert wide.answers_to("10.1.2.3:80")
    assert not wide.answers_to("evil.example")
    public = replace(wide, public=parse_public_url("https://ops.example.com/esops/"))
    assert public.answers_to("ops.example.com")
    assert public.root == "/esops"
    assert public.is_own_origin("https://ops.example.com", "10.1.2.3")
    assert not public.is_own_origin("http://ops.example.com", "10.1.2.3")
    assert not public.is_own_origin("null", "null")


def test_nothing_is_shown_without_the_token(client, looks):
    http = client(replace(HERE, token=TOKEN))
    for route in ROUTES:
        path = route.path.replace("{number:int}", "1").replace("{name}", "carts")
        path = path.replace("{control}", "pause")
        if "POST" in route.methods:
            if path != "/login":
                assert post(http, path).status_code == 401, path
        elif path == "/live":
            assert http.get(path).status_code == 401
        elif path not in ("/login", "/health", "/static/carts"):
            answer = http.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert not looks


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(client, monkeypatch):
    monkeypatch.setattr("esops.web.forms._AFTER_WRONG_TOKEN", 0)
    http = client(replace(HERE, token=TOKEN))
    wrong = post(http, "/login", token="a token of more than sixteen characterz")
    assert wrong.status_code == 403
    assert "set-cookie" not in wrong.headers
    right = post(http, "/login", token=TOKEN)
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    value = cookie.partition(";")[0]
    http.cookies.clear()
    assert http.get("/", headers={"cookie": value}).status_code == 200
    assert http.get("/", headers={"cookie": f"{value}x"}).status_code == 303
    headers = {"cookie": value, "origin": "http://127.0.0.1:8077"}
    http.post("/logout", content=urlencode({"form_token": form_token(http)}), headers=headers)
    assert http.get("/", headers={"cookie": value}).status_code == 303


def test_no_form_of_another_site_is_taken(client):
    http = client(replace(HERE, allow_control=True))
    paths = [route.path for route in ROUTES if "POST" in route.methods]
    assert len(paths) >= 6
    for path in paths:
        path = path.replace("{name}", "carts").replace("{control}", "pause")
        for origin in (None, "null", "http://evil.example", "http://127.0.0.1:9999"):
            answer = post(http, path, origin=origin)
            assert answer.status_code == 403, path
            assert "not sent from" in answer.text
        assert "not of this server" in post(http, path, form_token="").text
        assert "not of this server" in post(http, path, form_token="x" * 32).text
        assert http.put(path, headers={"origin": "http://127.0.0.1:8077"}).status_code == 405
    foreign = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert http.get("/trace?q=x", headers=foreign).status_code == 403


def test_nothing_can_be_changed_unless_that_is_allowed(client, monkeypatch):
    async def never(*_):
        raise AssertionError("a command was run")

    monkeypatch.setattr("esops.web.controls.Commands._run", never)
    http = client()
    assert "Pause" not in http.get("/projections/carts").text
    for path in ("/projections/carts/pause", "/projections/carts/switch/plan"):
        answer = post(http, path, confirm="carts")
        assert answer.status_code == 403
        assert "--allow-control" in answer.text
    http = client(replace(HERE, allow_control=True))
    answer = post(http, "/projections/carts/pause", confirm="cart")
    assert answer.status_code == 400
    assert "nothing was changed" in answer.text
    assert post(http, "/projections/carts/retire", confirm="carts").status_code == 403
    assert post(http, "/projections/nope/pause", confirm="nope").status_code == 404


def test_pages_work_below_a_path_whether_the_proxy_leaves_it_on_or_not(client):
    public = parse_public_url("https://ops.example.com/esops")
    http = client(replace(HERE, token=TOKEN, public=public), base="http://ops.example.com")
    cookie = post(http, "/login", origin="https://ops.example.com", token=TOKEN).headers[
        "set-cookie"
    ]
    assert "Secure" in cookie
    assert "Path=/esops" in cookie
    headers = {"cookie": cookie.partition(";")[0]}
    for path in ("/", "/esops/", "/esops"):
        text = http.get(path, headers=headers).text
        assert 'href="/esops/projections/carts"' in text
        assert 'href="/projections' not in text


# -- what it costs


def test_ten_pages_cost_what_one_does(tmp_path):
    """Ten streams that are open read a store as often as one; and nobody reads when they close."""
    looked = []

    def look(_, store):
        looked.append(store)
        return status_of(store)

    async def run() -> tuple[int, int]:
        settings = config(tmp_path, "shop")
        readings = Readings(settings, look, every=0.05)

        async def page() -> None:
            async with readings.watched():
                seen = 0
                while readings.revision < 5:
                    seen = await readings.news(seen, 5)

        await asyncio.gather(*(page() for _ in range(10)))
        during = len(looked)
        await asyncio.sleep(0.3)
        return during, len(looked)

    during, after = asyncio.run(run())
    assert during <= 7
    assert after <= during + 1


def test_a_part_is_made_once_for_all_who_look_at_it(client, monkeypatch):
    http = client()
    http.get("/")
    made = []
    monkeypatch.setattr("esops.web.live.render", lambda *given: made.append(given) or "x")
    site = http.app.state.site
    site.readings.revision += 1
    for _ in range(3):
        part(site, _Request(http.app), "status", "")
    assert len(made) == 1


class _Request:
    def __init__(self, app):
        self.app, self.url = app, type("Url", (), {"path": "/"})


def test_too_many_live_pages_are_turned_away(client, monkeypatch):
    monkeypatch.setattr("esops.web.site.MOST_LIVE", 0)
    answer = client().get("/live?part=status")
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    assert client().get("/live?part=nothing").status_code == 404


def test_a_reader_rests_for_longer_than_it_read(tmp_path):
    readings = Readings(config(tmp_path, "shop"))
    reading = replace(readings.of["shop"], seconds=6.0)
    assert readings._rest(reading) >= 4 * 6.0
    assert readings._rest(replace(reading, seconds=0.1)) == web_readings.EVERY


def test_lag_over_time_is_bounded_and_keeps_its_peaks():
    line = LagLine()
    for number in range(5 * MOST_POINTS):
        line.add(LagPoint(AT + timedelta(seconds=number), 9_000 if number == 700 else 3))
    assert len(line.points) <= MOST_POINTS
    assert line.highest == 9_000
    assert line.points[0].at < line.points[-1].at
    assert [each.at for each in line.points] == sorted(each.at for each in line.points)


def test_no_line_is_drawn_across_what_nobody_saw():
    """The first reading after a pause is that of the page, before anything watches."""
    line = LagLine()
    for seconds in (0, 5, 10, 60, 65):
        line.add(LagPoint(AT + timedelta(seconds=seconds), 3))
    assert [len(run) for run in line.runs()] == [3, 2]


# -- how it is started


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (None, "127.0.0.1", 8077),
        ("9000", "127.0.0.1", 9000),
        (":9000", "127.0.0.1", 9000),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::1]:80", "::1", 80),
    ],
)
def test_addresses(text, host, port):
    assert parse_address(text) == ListenAddress(host, port)


@pytest.mark.parametrize("text", ["99999", "eighty", "host:", "", "²"])
def test_what_is_no_port_is_said(text):
    with pytest.raises(UsageError):
        parse_address(text)


def test_other_machines_need_a_token_of_some_length(tmp_path, monkeypatch):
    for wide in (ListenAddress("0.0.0.0", 80), ListenAddress("10.0.0.1", 80)):
        with pytest.raises(UsageError, match="no token is set"):
            web_options.check(ServeOptions(wide))
        web_options.check(ServeOptions(wide, TOKEN))
    with pytest.raises(UsageError, match="no token is set"):
        web_options.check(replace(HERE, public=parse_public_url("https://a.example")))
    web_options.check(HERE)
    file = tmp_path / "token"
    file.write_text("short\n")
    with pytest.raises(UsageError, match="can be guessed"):
        web_options.read_token(file)
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("ESOPS_SERVE_TOKEN", "another one, which the file overrides")
    assert web_options.read_token(file) == TOKEN
    with pytest.raises(UsageError, match="cannot be read"):
        web_options.read_token(tmp_path / "nothing")


# -- jobs


def test_a_control_waits_for_no_audit_and_an_audit_for_the_one_before():
    async def run() -> list[str]:
        async def changed() -> None:
            return None

        jobs, gate = Jobs(changed), asyncio.Event()

        async def long(_) -> dict:
            await gate.wait()
            return {}

        async def quick(_) -> dict:
            return {}

        audit = jobs.begin("audit", "audit", "/", long)
        second = jobs.begin("audit", "audit", "/", quick)
        control = jobs.begin("pause", "control", "/", quick, "control")
        await jobs.finished(control, 5)
        states = [audit.state, second.state, control.state]
        gate.set()
        await jobs.finished(second, 5)
        return [*states, second.state]

    assert asyncio.run(run()) == ["running", "waiting", "done", "done"]


def test_what_a_command_prints_becomes_its_result_or_its_error():
    done = concluded(1, b'{"paused": true}', ["warning: nothing works on carts now"])
    assert (done.result, done.said) == ({"paused": True}, ["warning: nothing works on carts now"])
    said = ["carts: from v1 to v2", "error: v1 is of another log", "hint: rebuild it"]
    with pytest.raises(Refused) as caught:
        concluded(6, b"", said)
    assert (caught.value.message, caught.value.hint) == ("v1 is of another log", "rebuild it")
    with pytest.raises(EsopsError, match="exit code 70"):
        concluded(70, b"not json", [])


def test_a_name_that_looks_like_an_option_stays_a_name():
    control = Control("switch", "--yes", {"to": "2"})
    assert control.arguments()[-2:] == ["--", "--yes"]
    for wrong in ({"to": "two"}, {"to": "-1"}, {"to": "1 --allow-stale"}):
        with pytest.raises(UsageError):
            Control("switch", "carts", wrong).arguments()
    limits = Control("throttle", "carts", {"max_rate": "2500", "nice": ""}).arguments()
    assert limits[2:5] == ["--off", "--max-rate", "2500.0"]


def test_a_changed_configuration_is_said(client, tmp_path):
    http = client()
    assert "has changed since" not in http.get("/trace").text
    (tmp_path / "esops.toml").write_text("")
    assert "has changed since" in http.get("/trace").text


def test_a_version_that_serves_and_that_nobody_follows_needs_a_look(client):
    def look(store):
        found = status_of(store)
        calm = {"followed_by": None, "paused": None, "ok": True, "dead_letters": 0}
        return replace(found, projections=[{**found.projections[0], **calm, "lag_seconds": 60.0}])

    assert "no process keeps it fresh" in client(look=look).get("/").text


def test_addresses_made_by_hand_and_a_store_that_is_unwell_are_no_defect(client):
    """A projection of such a store has no version, and so no tables."""

    def look(store):
        found = status_of(store)
        row = {"store": store, "projection": "carts", "state": "unknown", "ok": False}
        return replace(found, projections=[{**row, "detail": "its sequence is behind"}])

    http = client(look=look)
    http.get("/")
    page = http.get("/projections/carts")
    assert (page.status_code, "its sequence is behind" in page.text) == (200, True)
    for key in ("²", "9" * 5000):
        assert http.get("/live", params={"part": "job", "key": key}).status_code == 404
