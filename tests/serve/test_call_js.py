"""The browser's side of a call, without a browser: what `call.js` does when its socket closes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NODE = shutil.which("node")
CALL = Path(__file__).parents[2] / "serve" / "page" / "call.js"

# Closes a call's first socket with each code, `said` before it, and tells what the page is told and how many sockets
# were opened. Pauses pass at once.
CLOSES = """
const { readFileSync } = await import("node:fs");
const [path, codes, said] = process.argv.slice(1);
const { Call } = await import("data:text/javascript;base64," + readFileSync(path).toString("base64"));
let sockets = [];
globalThis.WebSocket = class { constructor() { sockets.push(this); } };
globalThis.setTimeout = (resume) => resume();
const outcomes = JSON.parse(codes).map((code) => {
  sockets = [];
  const told = [];
  new Call({ url: "", token: "", voice: {}, sampleRate: 16000, heard() {}, told: (type) => told.push(type) });
  if (said) sockets[0].onmessage({ data: said });
  sockets[0].onclose({ code });
  return [told, sockets.length];
});
console.log(JSON.stringify(outcomes));
"""


def closed_with(codes: list[int], said: dict[str, Any] | None = None) -> list[tuple[list[str], int]]:
    """What the page is told, and how many sockets were opened in all, for each close code."""
    if NODE is None:
        pytest.skip("needs node (Debian: apt-get install nodejs)")
    arguments = [str(CALL), json.dumps(codes), json.dumps(said) if said else ""]
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", CLOSES, *arguments], capture_output=True, text=True, timeout=300, check=True
    )
    return [(told, sockets) for told, sockets in json.loads(done.stdout)]


def test_a_line_a_replica_or_a_server_that_fails_is_called_again() -> None:
    assert closed_with([1006, 1011, 1012]) == [(["again"], 2)] * 3


def test_what_would_fail_again_is_not_repeated() -> None:
    assert closed_with([1009, 4401]) == [(["error"], 1)] * 2


def test_what_the_server_says_beats_the_close_code() -> None:
    final = {"type": "error", "code": "too_big", "detail": "too big", "retry": False}
    assert closed_with([1011], final) == [(["error"], 1)]
    assert closed_with([4503], final | {"code": "full", "retry": True}) == [(["again"], 2)]
