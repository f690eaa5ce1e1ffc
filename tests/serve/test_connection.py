"""A connection whose client does not do its part."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocketState

from models.mcadams import McAdams
from serve.config import ServeConfig
from serve.connection import send_audio
from serve.engine import Engine, EngineSettings
from serve.service import Service
from serve.web import is_welcome


class Deaf:
    """A socket that takes `takes` messages of audio and then nothing; text it takes, or not."""

    application_state = WebSocketState.CONNECTED

    def __init__(self, takes: int, takes_text: bool = True) -> None:
        self.takes, self.takes_text = takes, takes_text
        self.told: list[Any] = []

    async def send_bytes(self, data: bytes) -> None:
        if self.takes == 0:
            await asyncio.Event().wait()
        self.takes -= 1

    async def send_text(self, text: str) -> None:
        if not self.takes_text:
            await asyncio.Event().wait()
        self.told.append(json.loads(text)["code"])

    async def close(self, code: int, reason: str = "") -> None:
        self.told.append(code)


@pytest.mark.parametrize(("takes_text", "told"), [(True, ["too_slow", 4409]), (False, [])])
def test_who_does_not_read_loses_the_slot(takes_text: bool, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.connection.FAREWELL_WITHIN", 0.05)
    socket = Deaf(1, takes_text)

    async def scene() -> str:
        engine = Engine(McAdams(), EngineSettings(slots=1))
        session = engine.open(engine.anonymizer.draw_voice(0), 0, 16_000)
        running = asyncio.create_task(engine.run())
        sending = asyncio.create_task(send_audio(socket, session, "pcm16", 0.05))  # type: ignore[arg-type]
        while not sending.done():
            await session.feed(np.zeros(1_600, np.float32))
            await asyncio.sleep(0.01)
        running.cancel()
        engine.stop()
        return await sending

    assert asyncio.run(asyncio.wait_for(scene(), 60)) == "too_slow"
    assert socket.told == told


@pytest.mark.parametrize("origin", ["http://[", "http://]", "null", "", "https://elsewhere.example"])
def test_a_strange_origin_is_not_welcome(origin: str) -> None:
    service = Service(ServeConfig(anonymizer="mcadams", slots=1))
    headers = [(b"host", b"127.0.0.1:8000"), (b"origin", origin.encode())]
    assert not is_welcome(HTTPConnection({"type": "http", "headers": headers}), service)
    service.stop()
