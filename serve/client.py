"""The example client: an asyncio connection that speaks the protocol, and a sender that takes a lost call up again.

`Connection` is one session. `stream_wave` sends a whole recording, at the pace of a live call or as fast as the server
takes it, and reconnects by itself where the protocol says that it may: it goes on with the first sample that was never
answered, with the same voice.
"""

import asyncio
import json
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from serve.protocol import FAULTS, UNSAID, encode

Wave = NDArray[np.float32]

CHUNK_SECONDS = 0.02
LONGEST_PAUSE = 4.0  # seconds between two attempts


class Refused(Exception):
    """The server ended the session with an `error` message; `code` is the protocol's, `retry` whether to try again."""

    def __init__(self, code: str, detail: str, retry: bool) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.retry = retry


class Lost(Exception):
    """The connection broke without a word: a replica or the network died. Connect again."""


class Connection:
    """One session as an asynchronous context manager: `async with Connection(url, 16_000) as call`."""

    def __init__(
        self,
        url: str,
        sample_rate: int,
        token: str = "",
        voice: dict[str, Any] | None = None,
        resumes: str | None = None,
    ) -> None:
        self.url = url
        self.start = {
            "type": "start",
            "token": token,
            "sample_rate": sample_rate,
            "encoding": "pcm16",
            "voice": voice or {"kind": "random"},
            "resumes": resumes,
        }
        self.ready: dict[str, Any] = {}
        self.ended: dict[str, Any] | None = None
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> "Connection":
        try:
            self._socket = await connect(self.url, compression=None, max_size=1 << 22, open_timeout=10, close_timeout=2)
            await self._socket.send(encode(self.start))
            first = await self._next()
        except InvalidHandshake as fault:
            status = getattr(getattr(fault, "response", None), "status_code", 0)
            raise Refused("handshake", f"the server answered HTTP {status}", status >= 500) from None
        except (OSError, TimeoutError) as fault:
            raise Lost(str(fault) or "no answer") from None
        except BaseException:
            await self.close()
            raise
        assert isinstance(first, dict)
        self.ready = first
        return self

    async def __aexit__(self, kind: type | None, fault: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave, orderly or not."""
        if self._socket is not None:
            await self._socket.close()

    async def send(self, wave: Wave) -> None:
        """Send samples [n] in [-1, 1]."""
        await self._send(np.clip(np.rint(wave * 32_768.0), -32_768, 32_767).astype("<i2").tobytes())

    async def end(self) -> None:
        """Say that no more audio will come."""
        await self._send(encode({"type": "end"}))

    async def ask_statistics(self) -> None:
        """Ask for a `stats` message, which `receive` returns."""
        await self._send(encode({"type": "stats"}))

    async def receive(self) -> Wave | dict[str, Any] | None:
        """Return the next anonymous samples [m], a `stats` message, or None at the orderly end."""
        message = await self._next()
        if isinstance(message, bytes):
            return np.frombuffer(message, "<i2").astype(np.float32) / np.float32(32_768)
        if message["type"] == "ended":
            self.ended = message
            return None
        return message

    async def _send(self, data: str | bytes) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(data)
        except ConnectionClosed as fault:
            raise _why_closed(fault) from None

    async def _next(self) -> dict[str, Any] | bytes:
        assert self._socket is not None
        try:
            message = await self._socket.recv()
        except ConnectionClosed as fault:
            raise _why_closed(fault) from None
        if isinstance(message, bytes):
            return message
        content: dict[str, Any] = json.loads(message)
        if content["type"] == "error":
            raise Refused(content["code"], content["detail"], content["retry"])
        return content


@dataclass
class Report:
    """What a streamed recording became: samples [n] as long as the source, and how long each chunk took (seconds)."""

    wave: Wave
    latencies: list[float] = field(default_factory=list)
    attempts: int = 1
    algorithmic_latency_ms: float = 0.0


async def stream_wave(
    wave: Wave,
    sample_rate: int,
    url: str,
    token: str = "",
    voice: dict[str, Any] | None = None,
    realtime: bool = False,
    attempts: int = 8,
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """Send a recording [n] and return its anonymous counterpart; raises Refused or Lost when `attempts` are used up.

    With `realtime`, chunks leave when a microphone would have them; otherwise as fast as the server's window allows.
    A random voice is drawn here, so that a call that is taken up again keeps it.
    """
    voice = voice or {"kind": "seed", "seed": secrets.randbits(64)}
    report = Report(np.zeros(len(wave), np.float32))
    done = 0
    failures = 0
    session = None
    while True:
        before = done
        try:
            async with Connection(url, sample_rate, token, voice, session) as call:
                session = call.ready["session"]
                report.algorithmic_latency_ms = call.ready["latency_ms"]
                async for received in _exchange(call, wave[done:], sample_rate, realtime, report):
                    report.wave[done : done + len(received)] = received
                    done += len(received)
            return report
        except (Lost, Refused) as fault:
            failures = 1 if done > before else failures + 1
            if failures >= attempts or (isinstance(fault, Refused) and not fault.retry):
                raise
            report.attempts += 1
            pause = min(LONGEST_PAUSE, 0.1 * 2**failures) * random.uniform(0.5, 1.0)
            say(f"{fault}; connecting again in {pause:.1f} s, {done / sample_rate:.2f} s are safe")
            await asyncio.sleep(pause)


async def _exchange(call: Connection, wave: Wave, sample_rate: int, realtime: bool, report: Report) -> Any:
    """Send the wave and yield what comes back, until the orderly end."""
    chunk = max(1, round(CHUNK_SECONDS * sample_rate))
    # Half the window: what is on its way in the network counts too.
    ahead = int(call.ready["window_seconds"] * sample_rate / 2)
    sent_at: list[float] = []
    answered = 0
    room = asyncio.Event()

    async def send() -> None:
        began = time.monotonic()
        for start in range(0, len(wave), chunk):
            if realtime:
                # A microphone hands a chunk over when its last sample has been heard.
                await asyncio.sleep(max(0.0, began + min(start + chunk, len(wave)) / sample_rate - time.monotonic()))
            while start - answered > ahead:
                room.clear()
                await room.wait()
            sent_at.append(time.monotonic())
            await call.send(wave[start : start + chunk])
        await call.end()

    sender = asyncio.create_task(send())
    try:
        while (received := await call.receive()) is not None:
            if isinstance(received, dict):
                continue
            now = time.monotonic()
            # Chunk i is answered with its last sample, (i + 1) * chunk.
            for index in range(answered // chunk, (answered + len(received)) // chunk):
                report.latencies.append(now - sent_at[index])
            answered += len(received)
            room.set()
            yield received
        await sender
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


def _why_closed(fault: ConnectionClosed) -> Exception:
    """Return what a close without an `error` message means."""
    code = fault.rcvd.code if fault.rcvd is not None else 1006
    names = {known.close: name for name, known in FAULTS.items()} | UNSAID
    if code in names:
        return Refused(names[code], "the server closed the session", FAULTS[names[code]].retry)
    return Lost(f"the connection broke (close code {code})")
