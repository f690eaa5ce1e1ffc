"""The WebSocket over a real socket: what a client may do, what it is told when it may not, and that slots come back."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import LiveServer, live_server, speech_like, tone
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serve.client import Connection, Refused, stream_wave
from serve.connection import STATISTICS_EVERY
from serve.tokens import new_token

TOKEN, DIGEST = new_token()
START = {"type": "start", "sample_rate": 16_000, "token": TOKEN}
# Those in seconds leave a busy machine its time; a test of what happens when they are over has a server of its own.
LIMITS = {
    "message_bytes": 20_000,
    "session_seconds": 120.0,
    "start_timeout": 60.0,
    "idle_timeout": 60.0,
    "window_seconds": 0.5,
    "patience": 60.0,
    "upload_seconds": 20.0,
    "upload_bytes": 2_000_000,
}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    tokens = [{"name": "tests", "sha256": DIGEST, "sessions": 6}, {"name": "one", "sha256": "0" * 64, "sessions": 1}]
    with live_server(tokens=tokens, limits=LIMITS, slots=4, origins=["https://friend.example"]) as server:
        yield server


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 300))


async def everything(socket: ClientConnection) -> tuple[list[Any], int]:
    """Return what comes until the close, JSON read, and the close code."""
    messages = []
    try:
        async for message in socket:
            messages.append(json.loads(message) if isinstance(message, str) else message)
    except ConnectionClosed:
        pass
    return messages, socket.close_code


async def said(server: LiveServer, *messages: str | bytes, **options: Any) -> tuple[list[Any], int]:
    """Say `messages` and return the answer."""
    async with connect(server.stream, **options) as socket:
        for message in messages:
            await socket.send(message)
        return await everything(socket)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_a_call_is_ready_flows_answers_and_ends_in_good_order(server: LiveServer) -> None:
    wave = speech_like(1.0)

    async def scene() -> None:
        async with connect(server.stream) as socket:
            await socket.send(json.dumps(START | {"encoding": "float32", "voice": {"kind": "named", "name": "amber"}}))
            ready = json.loads(await socket.recv())
            assert ready["type"] == "ready"
            assert 0 < ready["latency_ms"] < 180
            assert ready["frame_samples"] == 640
            for start in range(0, len(wave), 4_000):
                if start == 8_000:
                    await socket.send(json.dumps({"type": "stats"}))
                await socket.send(wave[start : start + 4_000].astype("<f4").tobytes())
            await socket.send(json.dumps({"type": "end"}))
            messages, code = await everything(socket)
        audio = b"".join(message for message in messages if isinstance(message, bytes))
        texts = {message["type"]: message for message in messages if isinstance(message, dict)}
        assert len(audio) == 4 * len(wave)
        assert texts["stats"]["seconds_in"] == 0.5
        assert texts["ended"]["samples_in"] == texts["ended"]["samples_out"] == len(wave)
        assert messages[-1] == texts["ended"]
        assert code == 1000

    run(scene())


@pytest.mark.parametrize(
    ("messages", "error", "close"),
    [
        (["hello"], "bad_start", 4400),
        ([json.dumps(START | {"sample_rate": 1})], "bad_start", 4400),
        ([json.dumps(START | {"voice": {"kind": "named", "name": "nobody"}})], "bad_start", 4400),
        ([b"\0\0"], "bad_start", 4400),
        ([json.dumps(START | {"token": "wrong"})], "unauthorised", 4401),
        ([json.dumps(START), "nonsense"], "bad_message", 4402),
        ([json.dumps(START), json.dumps({"type": "end"}) + "{"], "bad_message", 4402),
        ([json.dumps(START), b"\0" * 20_001], "too_big", 4413),
        ([json.dumps(START | {"token": "x" * 9_000})], "too_big", 4413),
        ([json.dumps(START | {"encoding": "float32"}), np.full(9, np.nan, "<f4").tobytes()], "bad_message", 4402),
    ],
)
def test_what_is_wrong_is_said_and_the_slot_comes_back(
    server: LiveServer, messages: list[str | bytes], error: str, close: int
) -> None:
    answers, code = run(said(server, *messages))
    assert answers[-1]["type"] == "error"
    assert (answers[-1]["code"], code) == (error, close)
    assert TOKEN not in json.dumps([answer for answer in answers if isinstance(answer, dict)])
    assert eventually(lambda: not server.service.engine.sessions)
    assert not server.service.holders


@pytest.mark.parametrize(
    ("limit", "messages", "error", "close"),
    [
        ({"start_timeout": 0.5}, [], "bad_start", 4400),
        ({"idle_timeout": 0.5}, [json.dumps(START)], "idle", 4408),
        ({"session_seconds": 0.5}, [json.dumps(START), b"\0" * 20_000], "too_long", 4414),
    ],
)
def test_a_call_whose_time_is_over_is_ended(
    limit: dict[str, float], messages: list[str | bytes], error: str, close: int
) -> None:
    tokens = [{"name": "tests", "sha256": DIGEST, "sessions": 6}]
    with live_server(tokens=tokens, limits=LIMITS | limit) as server:
        answers, code = run(said(server, *messages))
        assert (answers[-1]["code"], code) == (error, close)
        assert eventually(lambda: not server.service.engine.sessions and not server.service.holders)


def test_a_flood_is_held_back_and_then_ended_while_others_talk_on() -> None:
    async def scene(server: LiveServer) -> None:
        held: list[float] = []
        async with connect(server.stream) as socket:
            await socket.send(json.dumps(START))
            reader = asyncio.create_task(everything(socket))
            calls = []
            try:
                for number in range(2_000):
                    await socket.send(b"\0" * 16_000)
                    held += [session.waiting / 16_000 for session in list(server.service.engine.sessions.values())]
                    if number % 20 == 10:  # seconds of the flood wait to be heard; somebody else makes a call
                        calls.append(await stream_wave(tone(200, 0.5), 16_000, server.stream, TOKEN))
            except ConnectionClosed:
                pass
            messages, _ = await reader
        codes = [message["code"] for message in messages if isinstance(message, dict) and "code" in message]
        assert codes == ["too_fast"]
        assert 0.5 < max(held) <= 0.5 + 0.5, "the server holds a window and the message that did not fit, no more"
        assert calls
        assert {(len(call.wave), call.attempts) for call in calls} == {(8_000, 1)}

    # What costs nothing: a busy machine must still work the flood off faster than real time.
    tokens = [{"name": "tests", "sha256": DIGEST, "sessions": 6}]
    limits = LIMITS | {"session_seconds": 3_600.0, "patience": 2.0}
    with live_server(anonymizer="identity", tokens=tokens, limits=limits) as server:
        run(scene(server))


def test_figures_are_told_a_few_times_a_second_however_often_they_are_asked_for(server: LiveServer) -> None:
    async def scene() -> tuple[int, float]:
        began = time.monotonic()
        audio = b"\1\0" * 160
        asks = [json.dumps({"type": "stats"}), audio] * 500
        answers, code = await said(server, json.dumps(START), *asks, json.dumps({"type": "end"}))
        took = time.monotonic() - began
        assert code == 1000
        assert answers[-1]["samples_out"] == 500 * 160, "the call goes on as if nothing had been asked"
        return sum(isinstance(answer, dict) and answer["type"] == "stats" for answer in answers), took

    told, took = run(scene())
    assert 1 <= told <= took / STATISTICS_EVERY + 1


@pytest.mark.parametrize(("code", "name", "again"), [(1009, "too_big", False), (1011, "internal", True)])
def test_the_client_knows_what_a_close_without_a_word_means(code: int, name: str, again: bool) -> None:
    async def scene() -> Refused:
        async def close(socket: ServerConnection) -> None:
            await socket.recv()
            await socket.close(code)

        async with serve(close, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            with pytest.raises(Refused) as refused:
                await Connection(f"ws://127.0.0.1:{port}", 16_000).__aenter__()
            return refused.value

    refused = run(scene())
    assert (refused.code, refused.retry) == (name, again)


def test_a_message_beyond_what_the_websocket_server_takes_is_closed_with_1009(server: LiveServer) -> None:
    async def scene() -> tuple[list[Any], int]:
        async with connect(server.stream) as socket:
            await socket.send(json.dumps(START))
            await socket.recv()
            with contextlib.suppress(ConnectionClosed):
                await socket.send(b"\0" * ((16 << 20) + 1))
            return await everything(socket)

    assert run(scene()) == ([], 1009)
    assert eventually(lambda: not server.service.engine.sessions and not server.service.holders)


def test_a_token_has_its_number_of_sessions_and_a_replica_its_slots(server: LiveServer) -> None:
    async def scene() -> list[str]:
        calls = [Connection(server.stream, 16_000, TOKEN) for _ in range(4)]
        for call in calls:
            await call.__aenter__()
        codes = []
        with pytest.raises(Refused) as refused:
            await Connection(server.stream, 16_000, TOKEN).__aenter__()
        codes.append(refused.value.code)
        server.service.config.tokens[0].__dict__["sessions"] = 4
        with pytest.raises(Refused) as refused:
            await Connection(server.stream, 16_000, TOKEN).__aenter__()
        codes.append(refused.value.code)
        server.service.config.tokens[0].__dict__["sessions"] = 6
        for call in calls:
            await call.close()
        return codes

    assert run(scene()) == ["full", "too_many"]
    assert eventually(lambda: not server.service.holders)


def test_who_hangs_up_without_a_word_gives_the_slot_back(server: LiveServer) -> None:
    async def scene() -> None:
        for _ in range(20):
            async with connect(server.stream) as socket:
                await socket.send(json.dumps(START))
                await socket.recv()
                await socket.send(b"\1\0" * 100)
                socket.transport.abort()

    run(scene())
    assert eventually(lambda: not server.service.engine.sessions and not server.service.holders)
    assert len(server.service.engine.free) == 4


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [(None, True), ("https://friend.example", True), ("https://evil.example", False), ("null", False)],
)
def test_only_known_pages_may_call(server: LiveServer, origin: str | None, welcome: bool) -> None:
    if welcome:
        answers, _ = run(said(server, json.dumps(START), json.dumps({"type": "end"}), origin=origin))
        assert answers[-1]["type"] == "ended"
        return
    with pytest.raises(InvalidStatus) as refused:
        run(said(server, json.dumps(START), origin=origin))
    assert refused.value.response.status_code == 403


def test_a_call_that_another_goes_on_from_is_ended(server: LiveServer) -> None:
    async def talk_on(call: Connection) -> None:
        while True:
            await call.send(np.zeros(320, np.float32))
            await call.receive()

    async def scene() -> None:
        async with contextlib.AsyncExitStack() as calls:
            former = await calls.enter_async_context(Connection(server.stream, 16_000, TOKEN))
            lost = former.ready["session"]
            call = await calls.enter_async_context(Connection(server.stream, 16_000, TOKEN, resumes=lost))
            with pytest.raises(Refused) as told:
                await talk_on(former)
            assert told.value.code == "resumed"
            assert not told.value.retry
            await call.send(np.zeros(3_200, np.float32))
            assert len(await call.receive())

    run(scene())


def test_without_tokens_only_this_machine_may_call() -> None:
    with live_server() as server:
        answers, _ = run(said(server, json.dumps(START), json.dumps({"type": "end"})))
        assert answers[-1]["type"] == "ended"
        port = server.stream.split(":")[2].split("/")[0]
        with pytest.raises(InvalidStatus):
            run(said(server, json.dumps(START), additional_headers={"Host": f"rebound.example:{port}"}))


def test_a_file_sent_faster_than_real_time_comes_back_whole(server: LiveServer) -> None:
    wave = speech_like(2.0)
    report = run(stream_wave(wave, 16_000, server.stream, TOKEN, {"kind": "seed", "seed": 7}))
    anonymizer = server.service.anonymizer
    import torch

    pcm = np.rint(wave * 32_768) / 32_768
    expected = anonymizer.anonymize([torch.from_numpy(pcm.astype(np.float32))], [anonymizer.draw_voice(7)])[0].numpy()
    np.testing.assert_allclose(report.wave, expected, atol=1 / 32_768)


@settings(max_examples=40)
@given(
    st.lists(
        st.binary(max_size=3_000)
        | st.sampled_from(['{"type":"stats"}', '{"type":"end"}', "{}", "\0", '{"type":'])
        | st.text(max_size=40),
        max_size=8,
    ),
    st.sampled_from(["pcm16", "float32"]),
)
def test_no_message_harms_the_server(messages: list[str | bytes], encoding: str) -> None:
    server = fuzzed.server
    answers, code = run(said(server, json.dumps(START | {"encoding": encoding}), *messages, '{"type":"end"}'))
    assert answers[0]["type"] == "ready"
    assert answers[-1]["type"] == "ended" or answers[-1]["code"] in ("bad_message", "too_big")
    assert code in (1000, 4402, 4413)


@settings(max_examples=40)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_no_start_harms_the_server(start: str | bytes) -> None:
    answers, code = run(said(fuzzed.server, start))
    assert [answer["code"] for answer in answers] == ["bad_start"]
    assert code == 4400


class fuzzed:  # hypothesis runs its examples outside of function-scoped fixtures; this holds the module's server
    server: LiveServer


@pytest.fixture(scope="module", autouse=True)
def _remember(server: LiveServer) -> None:
    fuzzed.server = server


def test_the_log_never_holds_what_was_said(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    original = server.service.engine.compute

    def break_down(portions: Any) -> Any:
        raise ValueError("samples 0.123 0.456")

    server.service.engine.compute = break_down  # type: ignore[method-assign]
    try:
        answers, code = run(said(server, json.dumps(START), b"\1\0" * 400))
    finally:
        server.service.engine.compute = original  # type: ignore[method-assign]
    assert (answers[-1]["code"], code) == ("internal", 4500)
    assert "ValueError" in caplog.text
    assert "0.123" not in caplog.text
    assert TOKEN not in caplog.text
