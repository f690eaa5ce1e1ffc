"""The browser's side of a call, without a browser: what `call.js` does when its socket closes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
CALL = Path(__file__).parents[2] / "serve" / "page" / "call.js"

# Opens a call for each list of events and tells what the page is told and how many sockets were opened. An event is a
# close code, a message of the server, "audio" from it, or "stop" by the person. Pauses pass at once.
PLAYS = """
const { readFileSync } = await import("node:fs");
const [path, scenes] = process.argv.slice(1);
const { Call } = await import("data:text/javascript;base64," + readFileSync(path).toString("base64"));
let sockets = [];
globalThis.WebSocket = class { constructor() { sockets.push(this); } send() {} close() {} };
globalThis.setTimeout = (resume) => resume();
const outcomes = JSON.parse(scenes).map((events) => {
  sockets = [];
  const told = [];
  const call = new Call({
    url: "", token: "", voice: {}, sampleRate: 16000, heard() {}, told: (type) => told.push(type),
  });
  for (const event of events) {
    const socket = sockets.at(-1);
    if (event === "stop") call.end();
    else if (event === "audio") socket.onmessage({ data: new ArrayBuffer(4) });
    else if (typeof event === "number") socket.onclose({ code: event });
    else socket.onmessage({ data: JSON.stringify(event) });
  }
  return [told, sockets.length];
});
console.log(JSON.stringify(outcomes));
"""
READY = {"type": "ready", "session": "lost"}


def played(*scenes: list[Any]) -> list[tuple[list[str], int]]:
    """What the page is told, and how many sockets were opened in all, for each scene."""
    if NODE is None:
        pytest.skip("needs node (Debian: apt-get install nodejs)")
    arguments = [str(CALL), json.dumps(scenes)]
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", PLAYS, *arguments], capture_output=True, text=True, timeout=300, check=True
    )
    return [(told, sockets) for told, sockets in json.loads(done.stdout)]


def test_a_line_a_replica_or_a_server_that_fails_is_called_again() -> None:
    assert played([1006], [1011], [1012]) == [(["again"], 2)] * 3


def test_what_would_fail_again_is_not_repeated() -> None:
    assert played([1009], [4401]) == [(["error"], 1)] * 2


def test_what_the_server_says_beats_the_close_code() -> None:
    final = {"type": "error", "code": "too_big", "detail": "too big", "retry": False}
    full = final | {"code": "full", "retry": True}
    assert played([final, 1011], [full, 4503]) == [(["error"], 1), (["again"], 2)]


def test_a_line_that_is_lost_after_the_end_is_not_called_again() -> None:
    assert played([READY, "audio", "stop", 1006, 1006]) == [(["ready", "ended"], 1)]


def test_a_call_that_gets_ready_and_is_lost_each_time_is_given_up() -> None:
    ((told, sockets),) = played([READY, 1006] * 7)
    assert (told[-1], told.count("again"), sockets) == ("error", 6, 7)


def test_a_call_that_was_heard_starts_to_count_its_losses_anew() -> None:
    ((told, sockets),) = played([READY, "audio", 1006] * 9)
    assert (told[-1], sockets) == ("again", 10)
