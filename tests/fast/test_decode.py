"""Code decodes all events: what fails is grouped, whatever the code does to its process."""

from __future__ import annotations

import shlex
import sys
import uuid

import pytest

from esops.errors import Busy
from esops.events import NewEvent
from esops.schema.decode import kept, samples
from esops.testing import MemoryStore
from tests.support.cases import thorough_but

FINE = "def decode(event):\n    print('talk')\n    return event.json()\n"


def append(shop, stream: str, kind: str, data: bytes) -> None:
    store = MemoryStore()
    store.log = shop.log
    store.append(stream, [NewEvent(str(uuid.uuid4()), kind, data)])


def decode(shop, code: str, *options: str, expected: int = 1):
    shop.project.write(f"{shop.module}_d.py", code)
    result = shop.run(
        "schema", "decode", "--python", f"{shop.module}_d:decode", *options, "--output", "json"
    )
    assert result.code == expected, result.err
    return result


def test_code_that_reads_everything(shop):
    append(shop, "cart-1", "renamed", b'{"name": "x"}')
    found = decode(shop, FINE, expected=0).json
    assert (found["events"], found["shapes"], found["failures"]) == (201, 2, [])
    assert (found["all_events"], found["complete"]) == (True, True)
    few = decode(shop, FINE, "--shapes-only", expected=0).json
    assert (few["events"], few["shapes"], few["all_events"]) == (3, 2, False)
    one = decode(shop, FINE, "--type", "renamed", "--workers", "2", expected=0).json
    assert one["events"] == 1


FAILS = """
import sys
def decode(event):
    data = event.json()
    if event.type == "renamed":
        sys.exit(f"cannot rename {data['name']}")
    if event.version == 3:
        raise KeyError("currency")
    return data
"""


def test_failures_are_grouped_and_show_no_values(shop):
    append(shop, "cart-1", "renamed", b'{"name": "Jane Doe", "more": 1}')
    append(shop, "cart-1", "renamed", b'{"name": "Joe", "more": 2}')
    append(shop, "cart-2", "renamed", b'{"name": "Jim"}')
    result = decode(shop, FAILS)
    groups = {
        (each["error"], each["events"], each["message"]): each for each in result.json["failures"]
    }
    assert set(groups) == {
        ("KeyError", 10, "'currency'"),
        ("SystemExit", 2, "cannot rename …"),
        ("SystemExit", 1, "cannot rename …"),
    }
    two = groups["SystemExit", 2, "cannot rename …"]
    assert [each["stream"] for each in two["samples"]] == ["cart-1", "cart-1"]
    assert set(two["samples"][0]) == {"stream", "version", "position"}
    assert (two["smallest"]["version"], two["smallest"]["bytes"]) == (22, 26)
    assert two["where"].startswith("decode, ")
    assert "Jane" not in result.out + result.err
    shown = decode(shop, FAILS, "--show-payload").json["failures"]
    two = next(each for each in shown if each["events"] == 2)
    assert two["smallest"]["payload"] == {"name": "Joe", "more": 2}
    assert two["full_message"] == "cannot rename Joe"


ENDS = """
import os, time
def decode(event):
    if event.version == 7:
        MISDEED
    if event.version == 9:
        raise ValueError("after it")
"""


@pytest.mark.parametrize(
    ("misdeed", "error", "words"),
    [
        pytest.param(
            "os._exit(9)", "ProcessEnded", "ended with code 9", marks=pytest.mark.thorough
        ),
        ("os.kill(os.getpid(), 9)", "ProcessEnded", "ended with signal 9"),
        pytest.param(
            "time.sleep(600)", "Timeout", "not decoded within 5 s", marks=pytest.mark.thorough
        ),
    ],
)
def test_code_that_ends_or_hangs_is_known_by_its_event(shop, misdeed, error, words):
    """Others of that shape are not given to it any more, once it has happened three times."""
    store = MemoryStore()
    store.log = shop.log
    shop.append(0)
    patience = "5s" if error == "Timeout" else "60s"
    found = decode(shop, ENDS.replace("MISDEED", misdeed), "--timeout", patience).json
    (end,) = [each for each in found["failures"] if each["error"] == error]
    assert words in end["message"]
    assert {each["version"] for each in end["samples"]} == {7}
    # All events have one shape: after three, nothing of it is tried, and that is counted.
    assert (end["events"], found["failed"], found["not_tried"]) == (3, 3, end["not_tried"])
    assert end["not_tried"] == sum(
        event.position > shop.log.events[0].position
        and event.position[0] > int(end["samples"][2]["position"])
        for event in shop.log.events
    )


LATER = """
import asyncio, functools
async def raises(event):
    await asyncio.sleep(0)
    raise ValueError("awaited")
def generates(event):
    yield 1
    raise ValueError("generated")
async def gives(event):
    yield 1
    raise ValueError("given")
RETURNS = {
    1: raises,
    2: generates,
    3: gives,
    4: functools.partial(raises),
    5: lambda event: map(int, "x"),
}
def decode(event):
    return RETURNS.get(event.version, lambda event: iter([event.json()]))(event)
def encode(value):
    return next(iter(value))
async def aencode(value):
    return encode(value)
"""


@pytest.mark.thorough
def test_what_a_function_returns_is_done_before_it_counts_as_decoded(shop):
    for encode in ("encode", "aencode"):
        found = decode(shop, LATER, "--encode", f"{shop.module}_d:{encode}").json
        counted = {each["message"].split()[0]: each["events"] for each in found["failures"]}
        assert counted == {"awaited": 20, "generated": 10, "given": 10, "invalid": 10}
        assert {each["step"] for each in found["failures"]} == {"decode"}
        assert found["differing"] == 0


FORKS = """
import os, signal, subprocess, sys
def decode(event):
    if event.version == 2 and event.stream == "cart-1":
        os.fork()
    if event.version == 3 and event.stream == "cart-2":
        sys.stdin.read()
        subprocess.run([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"])
    if event.version == 7:
        raise ValueError("seven")
    if event.version == 9 and event.stream == "cart-3" and not os.path.exists("ended"):
        open("ended", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.thorough
def test_copies_of_the_code_and_lone_ends_are_no_matter_of_an_event(shop, monkeypatch):
    monkeypatch.chdir(shop.project.folder)
    found = decode(shop, FORKS).json
    assert [(each["error"], each["events"]) for each in found["failures"]] == [("ValueError", 10)]


def test_an_encoder_that_fails_is_named_and_the_line_of_the_project(shop):
    code = """
import json
def decode(event):
    return [event.version]
def encode(value):
    return [json.loads("" if one == 4 else "{}") for one in value]
"""
    shop.project.write(f"{shop.module}_d.py", code)
    options = ("--python", f"{shop.module}_d:decode", "--encode", f"{shop.module}_d:encode")
    result = shop.run("schema", "decode", *options)
    assert "10 events decoded, and failed when encoded." in result.out
    assert "Raised in encode, " in result.out
    assert f"{shop.module}_d.py:6." in result.out


FIRST = """
calls = 0
def decode(event):
    global calls
    calls += 1
    if calls == 1:
        raise ValueError("the first")
"""


def test_what_fails_only_at_first_is_said(shop):
    found = decode(shop, FIRST).json
    assert found["failed"] == 0
    assert "events of 1 shape failed when they were decoded first" in found["notes"][0]


def test_half_a_character_can_be_shown(shop):
    append(shop, "cart-1", "said", rb'{"text": "\ud83d Jane"}')
    code = "import json\ndef decode(event):\n    if event.type == 'said':\n        raise ValueError('bad ' + json.loads(event.data)['text'])\n"
    (failure,) = decode(shop, code).json["failures"]
    assert failure["message"] == "bad …"


ONE_ENDS = """
import os
def decode(event):
    if event.json().get("deadly"):
        os._exit(9)
    if event.version == 9:
        raise ValueError("after it")
"""


@pytest.mark.parametrize("workers", thorough_but(["1", "3"], "3"))
def test_all_other_events_are_decoded_once(shop, workers):
    append(shop, "cart-1", "odd", b'{"deadly": true}')
    append(shop, "cart-2", "odd", b'{"deadly": true}')
    shop.append(20)
    found = decode(shop, ONE_ENDS, "--workers", workers).json
    counted = {each["error"]: each["events"] for each in found["failures"]}
    assert counted == {"ProcessEnded": 2, "ValueError": 10}
    assert (found["events"], found["not_tried"]) == (222, 0)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ValueError('no')", "cannot be imported: ValueError: no"),
        ("import os\nos._exit(3)", "ended with code 3"),
        ("decode = 3", "is a int, and no function"),
        ("def decoded(event): pass", "has no 'decode'"),
    ],
)
def test_code_that_cannot_be_loaded_is_a_mistake(shop, code, words):
    result = decode(shop, code, expected=2)
    assert words in result.err
    assert result.out == ""


ROUND = (
    FINE
    + """
def encode(value):
    value = dict(value, currency="EUR")
    if value["items"] > 1:
        del value["items"]
    return value
"""
)


def test_a_round_trip(shop):
    shop.append(5, items=2)
    options = ("--encode", f"{shop.module}_d:encode")
    found = decode(shop, ROUND, *options).json
    assert found["differing"] == 5
    assert [
        (
            each["kind"],
            each["path"],
            each["stored"],
            each["encoded"],
            each["events"],
            each["finding"],
        )
        for each in found["differences"]
    ] == [
        ("lost", "$.items", "number", None, 5, True),
        ("added", "$.currency", None, "string", 205, False),
    ]
    assert found["adding"] == 205
    assert decode(shop, ROUND, *options, "--ignore", "$.items", expected=0).json["differing"] == 0
    text = shop.run(
        "schema", "decode", "--python", f"{shop.module}_d:decode", *options, "--ignore", "$.items"
    ).out
    assert "nothing is lost or changed when they are encoded (205 events would get more" in text
    lone = decode(shop, ROUND, "--round-trip", expected=2)
    assert "--encode" in lone.err


PROGRAM = """
import json, sys
def send(**message):
    print(json.dumps(message), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "hello":
        HELLO
        continue
    for event in message["events"]:
        if event["version"] == 7 and event["stream"] == "cart-3":
            MISDEED
        if event.get("binary"):
            send(id=event["id"], ok=False, exception="Binary", message=event["data_base64"])
        else:
            send(id=event["id"], ok=True, encoded=json.dumps(event["data"]))
"""
HELLO = 'send(type="ready", protocol=1)'


def by_program(shop, misdeed: str = "pass", *options: str, hello: str = HELLO):
    shop.project.write("program.py", PROGRAM.replace("HELLO", hello).replace("MISDEED", misdeed))
    command = f"{sys.executable} -S -E program.py"
    return shop.run("schema", "decode", "--command", command, *options, "--output", "json")


def test_a_program_that_reads_everything(shop):
    result = by_program(shop, "pass", "--round-trip", "--workers", "2")
    assert result.code == 0, result.err
    assert (result.json["events"], result.json["differences"]) == (200, [])
    append(shop, "cart-1", "picture", b"\x00\x01")
    binary = by_program(shop).json["failures"]
    assert [(each["type"], each["error"], each["events"]) for each in binary] == [
        ("picture", "Binary", 1)
    ]


@pytest.mark.parametrize(
    ("misdeed", "error", "words"),
    [
        ('send(id=event["id"], ok=False, exception="Bad", message="no"); continue', "Bad", "no"),
        ("sys.exit(3)", "ProgramEnded", "ended with code 3"),
        ("import time; time.sleep(600)", "Timeout", "written nothing for 5 s"),
        ("sys.stdout.write('{\"id\": '); sys.stdout.flush(); sys.exit()", "ProgramEnded", "code 0"),
    ],
    ids=["answer", "exit", "hang", "half a line"],
)
def test_a_program_that_fails_on_one_event(shop, misdeed, error, words):
    result = by_program(shop, misdeed, "--timeout", "5s" if error == "Timeout" else "60s")
    assert result.code == 1, result.err
    (failure,) = result.json["failures"]
    assert (failure["error"], failure["events"], failure["not_tried"]) == (error, 1, 0)
    assert words in failure["message"]
    (sample,) = failure["samples"]
    assert (sample["stream"], sample["version"]) == ("cart-3", 7)


@pytest.mark.parametrize(
    ("misdeed", "hello", "code", "words"),
    [
        (
            'print("Loading Jane")',
            HELLO,
            6,
            "wrote a line that is no JSON (--show-payload shows it)",
        ),
        (
            'send(id="other", ok=True); continue',
            HELLO,
            6,
            "something else than the answer for event",
        ),
        ('send(id=event["id"], ok=True); continue', HELLO, 6, "gave no `encoded` JSON"),
        ("pass", 'send(type="ready", protocol=9)', 6, "did not answer ready with protocol 1"),
        ("pass", "sys.exit(4)", 3, "ended with code 4 before it was done: it did not say"),
    ],
    ids=["noise", "another event", "nothing encoded", "protocol", "no start"],
)
def test_a_program_that_does_not_speak_the_protocol(shop, misdeed, hello, code, words):
    result = by_program(shop, misdeed, "--round-trip", hello=hello)
    assert (result.code, words in result.err) == (code, True), result.err
    assert (result.out, "Jane" in result.err) == ("", False)


def test_a_program_that_ends_now_and_then_by_itself_is_no_failure_of_an_event(shop):
    shop.project.write("count.txt", "0")
    misdeed = (
        "n = int(open('count.txt').read()) + 1; open('count.txt', 'w').write(str(n)); "
        "n == 1 and sys.exit(5)"
    )
    result = by_program(shop, misdeed)
    assert result.code == 0, result.err
    assert result.json["notes"] == [
        "the code's process ended once in the middle of a batch, and decoded the same events afterwards"
    ]


def test_a_program_that_ends_after_each_batch_is_refused_soon(shop):
    program = PROGRAM.replace("HELLO", HELLO).replace("MISDEED", "pass") + "    sys.exit()\n"
    shop.project.write("program.py", program)
    result = shop.run("schema", "decode", "--command", f"{sys.executable} -S -E program.py")
    assert (result.code, "ends after each batch" in result.err) == (3, True), result.err


def test_what_was_found_is_shown_where_it_cannot_be_kept(shop, monkeypatch):
    def taken(*_: object) -> None:
        raise Busy("another run has kept its progress")

    monkeypatch.setattr(kept.KeptDecoding, "done", taken)
    result = decode(shop, FAILS, expected=4)
    assert (result.json["failed"], "another run" in result.err) == (10, True)


@pytest.mark.thorough
def test_shapes_beyond_the_bound_are_said(shop, monkeypatch):
    append(shop, "cart-1", "renamed", b'{"name": "x"}')
    monkeypatch.setattr(samples, "_MOST_SHAPES", 1)
    some = decode(shop, FINE, "--shapes-only", expected=1).json
    assert "more than 1 distinct shapes" in some["notes"][0]
    assert decode(shop, FINE, expected=0).json["events"] == 201


def test_a_command_may_be_a_script_and_a_store_empty(shop):
    hello, program = HELLO, PROGRAM.replace("MISDEED", "pass")
    script = shlex.quote(program.replace("HELLO", hello) + "#" * 300)
    command = f"{sys.executable} -S -E -c {script}"
    assert shop.run("schema", "decode", "--command", command, "--output", "json").code == 0
    absent = decode(shop, FINE, "--type", "added", "--type", "nothing", expected=1)
    assert "no event of type 'nothing'" in absent.err
    shop.log.events.clear()
    empty = shop.run("schema", "decode", "--python", f"{shop.module}_d:decode")
    assert (empty.code, "no events: nothing was decoded" in empty.out) == (0, True)


def test_wrong_options(shop):
    none = shop.run("schema", "decode")
    assert (none.code, "names the code" in none.err or "name the code" in none.err) == (2, True)
    both = shop.run("schema", "decode", "--python", "a:b", "--command", "c")
    assert both.code == 2
    absent = shop.run("schema", "decode", "--command", "no-such-program")
    assert (absent.code, "cannot be started" in absent.err) == (2, True)
    typo = decode(shop, FINE, "--type", "nothing", expected=1)
    assert "no event of type 'nothing'" in typo.err
    path = decode(
        shop, ROUND, "--encode", f"{shop.module}_d:encode", "--ignore", "a b[", expected=2
    )
    assert "--ignore" in path.err
