"""One WebSocket, from start message to close code. The protocol is in docs/streaming.md, its messages in `protocol`."""

import asyncio
import contextlib
import logging
import time
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serve.protocol import PcmReader, Refusal, Start, encode, read_ask, read_start, write_pcm
from serve.service import Service
from serve.session import Session

FAREWELL_WITHIN = 2.0  # seconds: who does not read does not get to hear why either
STATISTICS_EVERY = 0.25  # seconds at least between two answers to `stats`

logger = logging.getLogger("voxveil.serve")


class Left(Exception):
    """The client went away."""


async def serve_connection(socket: WebSocket, service: Service) -> None:
    """Serve an accepted WebSocket until it is closed. Whatever happens, the slot is free afterwards."""
    try:
        start = await _receive_start(socket, service)
        name, limit = service.authorise(start.token)
        async with service.admitted(name, limit, start.resumes) as session_id:
            await _serve_session(socket, service, start, session_id)
    except Refusal as refusal:
        await _refuse(socket, refusal)
    except (Left, WebSocketDisconnect):
        pass
    except Exception as fault:
        # The kind alone goes into the log: a message could quote what was said.
        logger.error("a connection failed with %s", type(fault).__name__)
        await _refuse(socket, Refusal("internal", "the server failed; connect again"))


async def _receive_start(socket: WebSocket, service: Service) -> Start:
    limits = service.config.limits
    try:
        async with asyncio.timeout(limits.start_timeout):
            message = await _receive(socket, limits.message_bytes)
    except TimeoutError:
        raise Refusal("bad_start", f"no start message within {limits.start_timeout:g} s") from None
    if isinstance(message, bytes):
        raise Refusal("bad_start", "audio before the start message")
    return read_start(message)


async def _serve_session(socket: WebSocket, service: Service, start: Start, session_id: str) -> None:
    voice, seed = service.voice(start.voice)
    engine = service.engine
    session = service.live[session_id] = engine.open(voice, seed, start.sample_rate)
    how = "left"
    sender = None
    try:
        await socket.send_text(encode(ready_message(service, session, start, session_id)))
        patience = service.config.limits.patience
        sender = asyncio.create_task(send_audio(socket, session, start.encoding, patience))
        receiver = asyncio.create_task(_receive_audio(socket, service, session, start.encoding))
        try:
            await asyncio.wait((sender, receiver), return_when=asyncio.FIRST_COMPLETED)
            if receiver.done() and not sender.done():
                receiver.result()  # Left: the client went away
            how = await sender
        finally:
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)
    finally:
        del service.live[session_id]
        engine.close(session, how)


def ready_message(service: Service, session: Session, start: Start, session_id: str) -> dict[str, Any]:
    """Return the answer to a good start."""
    return {
        "type": "ready",
        "session": session_id,
        "sample_rate": start.sample_rate,
        "encoding": start.encoding,
        "frame_samples": round(service.engine.frame * start.sample_rate),
        "latency_ms": round(1e3 * service.engine.algorithmic_latency(session), 1),
        "window_seconds": service.config.limits.window_seconds,
        "session_seconds": service.config.limits.session_seconds,
    }


async def send_audio(socket: WebSocket, session: Session, encoding: str, patience: float) -> str:
    """Send what the session yields to its end; return how it ended, as `Engine.close` wants it.

    A message that the client does not take within `patience` seconds ends it: "too_slow".
    """
    try:
        while (wave := await session.read()) is not None:
            async with asyncio.timeout(patience):
                await socket.send_bytes(write_pcm(wave, encoding))
        counts = {"samples_in": session.samples_in, "samples_out": session.samples_out}
        async with asyncio.timeout(patience):
            await socket.send_text(encode({"type": "ended", **counts}))
            await socket.close(1000)
    except TimeoutError:
        await _refuse(socket, Refusal("too_slow", "the client does not read its audio"))
        return "too_slow"
    except Refusal as refusal:
        await _refuse(socket, refusal)
        return refusal.code
    except (WebSocketDisconnect, RuntimeError):  # starlette's words for a socket that is closed
        return "left"
    return "ended"


async def _receive_audio(socket: WebSocket, service: Service, session: Session, encoding: str) -> None:
    """Feed the session from the socket; raises Left. What is wrong with the client's messages fails the session."""
    limits = service.config.limits
    reader = PcmReader(encoding)
    opened = heard = time.monotonic()
    told = -STATISTICS_EVERY
    try:
        while True:
            wait = limits.idle_timeout - (time.monotonic() - heard)
            try:
                async with asyncio.timeout(None if session.ending else max(0.0, wait)):
                    message = await _receive(socket, limits.message_bytes)
            except TimeoutError:
                raise Refusal("idle", f"no audio for {limits.idle_timeout:g} s") from None
            if isinstance(message, bytes):
                heard = time.monotonic()
                await session.feed(reader.read(message))
                seconds = max(session.samples_in / session.sample_rate, heard - opened)
                if seconds > limits.session_seconds:
                    raise Refusal("too_long", f"a session has at most {limits.session_seconds:g} s")
            elif read_ask(message).type == "end":
                session.end()
            elif time.monotonic() - told >= STATISTICS_EVERY:  # who asks more often is not answered each time
                await _send_statistics(socket, session, limits.patience)
                told = time.monotonic()
    except Refusal as refusal:
        session.fail(refusal)
        await asyncio.sleep(service.config.limits.patience)  # the sender says so and closes; until then nothing is read


async def _send_statistics(socket: WebSocket, session: Session, patience: float) -> None:
    """Answer `stats`; raises Refusal("too_slow") when the client does not take it within `patience` seconds."""
    try:
        async with asyncio.timeout(patience):
            await socket.send_text(encode({"type": "stats"} | session.statistics()))
    except TimeoutError:
        raise Refusal("too_slow", "the client does not read what it asks for") from None


async def _receive(socket: WebSocket, most_bytes: int) -> str | bytes:
    """Return the next message; raises Left, or Refusal("too_big")."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise Left
    text, data = message.get("text"), message.get("bytes")
    if data is not None:
        if len(data) > most_bytes:
            raise Refusal("too_big", f"a message has at most {most_bytes} bytes")
        return bytes(data)
    return str(text)


async def _refuse(socket: WebSocket, refusal: Refusal) -> None:
    """Send the error and close with its code, if anybody still listens."""
    if socket.application_state != WebSocketState.CONNECTED:
        return
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
        async with asyncio.timeout(FAREWELL_WITHIN):
            await socket.send_text(refusal.message())
            await socket.close(refusal.close, refusal.code)
