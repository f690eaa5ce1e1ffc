"""Firefox without a window, driven over WebDriver BiDi: the little of it that the page's test needs.

Its sound does not start on a machine without a sound device, so it gets one of PulseAudio's that nobody hears.
"""

import asyncio
import base64
import itertools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

# A microphone that hums, no questions asked, and sound that may begin without a click.
PREFERENCES: dict[str, object] = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.autoplay.blocking_policy": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "remote.prefs.recommended": True,
}


class Firefox:
    """One page in a Firefox of its own: `async with Firefox(path, pulseaudio, folder) as firefox`."""

    def __init__(self, path: str, pulseaudio: str, folder: Path) -> None:
        self.path = path
        self.pulseaudio = pulseaudio
        self.folder = folder
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> "Firefox":
        profile = self.folder / "profile"
        profile.mkdir()
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items())
        (profile / "user.js").write_text("\n".join(lines))
        command = [
            self.path,
            "--headless",
            "--no-remote",
            "--profile",
            str(profile),
            "--width",
            "1200",
            "--height",
            "1150",
        ]
        log = self.folder / "firefox.log"
        self.runtime = tempfile.TemporaryDirectory(prefix="firefox-")  # 0700 and short, for PulseAudio's socket
        environment = os.environ | {"XDG_RUNTIME_DIR": self.runtime.name, "HOME": self.runtime.name}
        modules = ["-n", "--exit-idle-time=-1", "-L", "module-null-sink", "-L", "module-native-protocol-unix"]
        with log.open("w") as output:
            self.sound = subprocess.Popen([self.pulseaudio, *modules], stdout=output, stderr=output, env=environment)
        while not Path(self.runtime.name, "pulse", "native").exists():
            assert self.sound.poll() is None, log.read_text()
            await asyncio.sleep(0.1)
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [*command, "--remote-debugging-port", "0"], stdout=output, stderr=output, env=environment
            )
        async with asyncio.timeout(600):
            while not (found := re.search(r"BiDi listening on (ws://\S+)", log.read_text())):
                assert self.process.poll() is None, log.read_text()
                await asyncio.sleep(0.2)
            self.socket: ClientConnection = await connect(f"{found[1]}/session", max_size=1 << 27)
        self.reader = asyncio.create_task(self._read())
        await self.ask("session.new", capabilities={})
        await self.ask("session.subscribe", events=["log.entryAdded"])
        tree = await self.ask("browsingContext.getTree")
        self.page = tree["contexts"][0]["context"]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.reader.cancel()
        await self.socket.close()
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, 20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.sound.terminate()
        await asyncio.to_thread(self.sound.wait)
        self.runtime.cleanup()

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        async with asyncio.timeout(600):
            answer = await self._answers[number]
        assert answer["type"] == "success", answer
        return dict(answer["result"])

    async def open(self, url: str) -> None:
        """Open a page and wait for it."""
        await self.ask("browsingContext.navigate", context=self.page, url=url, wait="complete")

    async def evaluate(self, script: str) -> Any:
        """Return what an expression, or the promise that it is, comes to: text, a number, true or false."""
        answer = await self.ask(
            "script.evaluate",
            expression=script,
            target={"context": self.page},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    async def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into a file input."""
        found = await self.ask(
            "browsingContext.locateNodes", context=self.page, locator={"type": "css", "value": selector}
        )
        element = {"sharedId": found["nodes"][0]["sharedId"]}
        await self.ask("input.setFiles", context=self.page, element=element, files=[str(path)])

    async def screenshot(self, path: Path) -> None:
        """Write a picture of the page."""
        answer = await self.ask("browsingContext.captureScreenshot", context=self.page)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def wait_for(self, script: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(600):
            while not await self.evaluate(script):
                await asyncio.sleep(0.2)

    async def _read(self) -> None:
        async for text in self.socket:
            message = json.loads(text)
            if message.get("id") in self._answers:
                self._answers[message["id"]].set_result(message)
            elif message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.complaints.append(str(message["params"]["text"]))
