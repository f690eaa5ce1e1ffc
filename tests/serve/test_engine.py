"""The engine without sockets or Ray, stepped by hand or run under a clock that the test owns."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from live_server import speech_like, tone

from models.identity import Identity
from models.mcadams import McAdams
from serve.app import Replica
from serve.engine import Engine, EngineSettings
from serve.live import live_model
from serve.protocol import Refusal
from serve.session import Session

RATE = 16_000


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 300))


def step(engine: Engine) -> None:
    portions = engine.collect()
    if portions:
        engine.deliver(portions, engine.compute(portions))


def new_engine(slots: int = 4, anonymizer: Any = None, clock: Any = None, **settings: Any) -> Engine:
    clocked = {"clock": clock} if clock else {}
    return Engine(anonymizer or McAdams(), EngineSettings(slots, **settings), **clocked)


def open_session(engine: Engine, seed: int = 0, rate: int = RATE) -> Session:
    return engine.open(engine.anonymizer.draw_voice(seed), seed, rate)


async def pass_through(engine: Engine, session: Session, wave: np.ndarray, chunk: int) -> np.ndarray:
    for start in range(0, len(wave), chunk):
        await session.feed(wave[start : start + chunk])
        step(engine)
    session.end()
    outputs = []
    while not session.finished:
        step(engine)
    while (wave := await session.read()) is not None:
        outputs.append(wave)
    return np.concatenate(outputs) if outputs else np.zeros(0, np.float32)


@pytest.mark.parametrize("chunk", [37, 320, 5_000])
def test_live_equals_offline(chunk: int) -> None:
    wave = speech_like(1.5)
    engine = new_engine()
    live = run(pass_through(engine, open_session(engine, 5), wave, chunk))
    offline = engine.anonymizer.anonymize([torch.from_numpy(wave)], [engine.anonymizer.draw_voice(5)])[0].numpy()
    np.testing.assert_allclose(live, offline, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_as_many_samples_come_out_as_went_in_at_any_rate(rate: int) -> None:
    wave = tone(300, 0.777, rate)
    engine = new_engine()
    assert len(run(pass_through(engine, open_session(engine, 1, rate), wave, 441))) == len(wave)


def test_a_call_without_audio_ends_in_good_order() -> None:
    engine = new_engine()
    assert len(run(pass_through(engine, open_session(engine), np.zeros(0, np.float32), 1))) == 0


def test_a_full_engine_refuses_and_a_closed_session_makes_room() -> None:
    async def scene() -> None:
        engine = new_engine(slots=2)
        first, _ = open_session(engine), open_session(engine)
        with pytest.raises(Refusal) as refused:
            open_session(engine)
        assert refused.value.code == "full"
        engine.close(first, "left")
        engine.close(first, "left")  # twice does nothing
        assert open_session(engine).slot == first.slot
        assert len(engine.free) == 0

    run(scene())


def test_who_has_nothing_delays_nobody() -> None:
    async def scene() -> None:
        engine = new_engine()
        silent, talking = open_session(engine), open_session(engine)
        await talking.feed(tone(200, 0.04))
        step(engine)
        assert talking.samples_out > 0
        assert silent.samples_out == 0

    run(scene())


def test_a_step_takes_a_few_frames_of_a_backlog_and_no_more() -> None:
    async def scene() -> None:
        engine = new_engine(tick=0.04, catch_up=3)
        greedy = open_session(engine)
        await greedy.feed(tone(200, 1.5))
        step(engine)
        assert greedy.waiting == 1.5 * RATE - 3 * 0.04 * RATE

    run(scene())


def test_a_backlog_gets_only_what_a_step_can_afford() -> None:
    async def scene() -> list[float]:
        engine = new_engine(tick=0.04, catch_up=4)
        greedy = open_session(engine)
        await greedy.feed(tone(200, 1.9))
        taken = []
        for cost in (0.0, 0.4, 0.8, 3.0):  # seconds of computing for a second of audio
            engine.cost = cost
            before = greedy.waiting
            engine.collect()
            taken.append((before - greedy.waiting) / RATE / 0.04)  # ticks
        return taken

    assert run(scene()) == pytest.approx([4.0, 2.5, 1.25, 1.0])


def test_who_sends_too_fast_waits_and_goes_on_when_there_is_room() -> None:
    async def scene() -> None:
        engine = new_engine(window=0.5, patience=120.0)
        session = open_session(engine)
        feeding = asyncio.create_task(session.feed(tone(200, 1.0)))
        await asyncio.sleep(0.01)
        assert not feeding.done()
        while session.waiting > 0.5 * RATE:
            step(engine)
        await feeding

    run(scene())


def test_a_call_that_the_server_does_not_get_to_is_told_that_the_server_failed() -> None:
    async def scene() -> None:
        engine = new_engine(window=0.5, patience=0.05)
        session = open_session(engine)
        await session.feed(tone(200, 0.1))
        step(engine)
        with pytest.raises(Refusal) as refused:
            await session.feed(tone(200, 1.0))
        assert refused.value.code == "internal"

    run(scene())


def test_a_message_of_many_seconds_is_waited_for_while_some_of_it_is_taken() -> None:
    async def scene() -> None:
        engine = new_engine(window=0.5, patience=0.0)  # over at each turn of the loop, between two steps
        session = open_session(engine)
        feeding = asyncio.create_task(session.feed(tone(200, 16.0)))
        steps = 0
        await asyncio.sleep(0)
        while not feeding.done():
            step(engine)
            session.outbox.clear()
            session.unread = 0
            steps += 1
            await asyncio.sleep(0)
        await feeding
        assert steps >= 15.5 / (engine.tick * engine.settings.catch_up)

    run(scene())


def test_who_fell_behind_gets_a_whole_frame_however_short_the_tick_is() -> None:
    """Steps come oftener than frames, so that one that is dear must not be allowed a tick's audio alone."""

    async def scene() -> int:
        engine = new_engine(anonymizer=Identity(), tick=0.01)
        engine.frame, engine.cost = 0.04, 0.9
        session = open_session(engine)
        await session.feed(tone(200, 0.5))
        (portion,) = engine.collect()
        return len(portion.samples)

    assert run(scene()) == pytest.approx(0.04 / 0.9 * RATE, abs=1)


def test_a_model_with_frames_is_stepped_when_audio_comes_and_not_at_a_tick() -> None:
    async def scene() -> None:
        engine = new_engine(anonymizer=Identity())
        engine.eager, engine.tick = True, 30.0
        session = open_session(engine)
        running = asyncio.create_task(engine.run())
        await asyncio.sleep(0.05)
        await session.feed(tone(200, 0.1))
        assert len(await session.read())
        running.cancel()

    run(scene())


def test_who_waits_for_a_turn_to_begin_is_not_blamed_for_it() -> None:
    async def scene() -> None:
        engine = new_engine(window=0.5, patience=0.05)
        with pytest.raises(Refusal) as refused:
            await open_session(engine).feed(tone(200, 1.0))
        assert refused.value.code == "full"

    run(scene())


async def flood(engine: Engine, session: Session, clock: Clock, seconds: float) -> None:
    """Send as fast as there is room, for so many seconds of the engine's time."""
    end = clock.now + seconds
    while clock.now < end:
        feeding = asyncio.create_task(session.feed(tone(200, 0.02)))
        await asyncio.sleep(0)
        while not feeding.done():
            clock.now += engine.tick
            step(engine)
            session.outbox.clear()
            session.unread = 0
            await asyncio.sleep(0)
        await feeding


def test_who_answers_back_pressure_with_more_is_told_when_patience_is_over() -> None:
    async def scene() -> float:
        clock = Clock()
        engine = new_engine(clock=clock, window=1.0, patience=10.0)
        began = clock.now
        with pytest.raises(Refusal) as refused:
            await flood(engine, open_session(engine), clock, 60.0)
        assert refused.value.code == "too_fast"
        return clock.now - began

    assert run(scene()) == pytest.approx(10.0, abs=0.2)


def test_a_burst_is_worked_off_and_forgiven() -> None:
    async def scene() -> None:
        clock = Clock()
        engine = new_engine(clock=clock, window=1.0, patience=2.0)
        session = open_session(engine)
        for _ in range(4):
            await flood(engine, session, clock, 1.5)
            while session.waiting:
                clock.now += engine.tick
                step(engine)
                await session.read()

    run(scene())


@pytest.mark.parametrize("stall", [11.0, 15.0])
def test_a_microphone_whose_line_stalls_longer_than_patience_is_forgiven(stall: float) -> None:
    """What was said meanwhile comes at once and is worked off at 1.8 times real time, for longer than patience too."""

    async def scene() -> float:
        clock = Clock()
        engine = new_engine(clock=clock, anonymizer=Identity(), window=2.0, patience=10.0)
        engine.cost = 0.55
        session = open_session(engine)
        feeding, sent, pressed = None, 0.0, 0.0
        began = clock.now
        while (spoken := clock.now - began) < 60.0:
            clock.now += engine.tick
            while (feeding is None or feeding.done()) and sent < spoken and not 2.0 < spoken < 2.0 + stall:
                if feeding is not None:
                    feeding.result()
                feeding = asyncio.create_task(session.feed(tone(200, 0.02)))
                sent += 0.02
                await asyncio.sleep(0)
            step(engine)
            pressed += engine.tick * (session.waiting > session.window / 2)
            session.outbox.clear()
            session.unread = 0
            await asyncio.sleep(0)
        assert session.samples_in == pytest.approx(60.0 * RATE, abs=0.2 * RATE), "all that was missed has come"
        return pressed

    assert run(scene()) > 10.0, "the scene keeps the window full for longer than patience"


def test_a_backlog_that_the_server_works_off_slowly_is_not_the_clients_fault() -> None:
    async def scene() -> None:
        clock = Clock()
        engine = new_engine(clock=clock, window=1.0, patience=2.0, catch_up=1)
        await flood(engine, open_session(engine), clock, 12.0)

    run(scene())


def test_who_does_not_read_is_left_out_and_then_told() -> None:
    async def scene() -> None:
        clock = Clock()
        engine = new_engine(clock=clock, window=0.1, patience=5.0)
        session = open_session(engine)
        for _ in range(5):
            await session.feed(tone(200, 0.04))
            step(engine)
        assert session.unread <= 0.1 * RATE + 0.16 * RATE
        clock.now += 6.0
        step(engine)
        await session.read()
        with pytest.raises(Refusal) as refused:
            await session.read()
        assert refused.value.code == "too_slow"

    run(scene())


def test_latency_is_from_arrival_to_answer() -> None:
    async def scene() -> None:
        clock = Clock()
        engine = new_engine(clock=clock, anonymizer=Identity())
        session = open_session(engine)
        await session.feed(tone(200, 0.02))
        clock.now += 0.03
        await session.feed(tone(200, 0.02))
        clock.now += 0.01
        step(engine)
        assert list(session.latencies) == pytest.approx([0.04, 0.01])
        assert session.statistics()["server_latency_ms"]["p50"] == pytest.approx(25.0)

    run(scene())


def test_an_engine_that_fails_ends_its_calls_and_says_that_it_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        engine = new_engine()
        session = open_session(engine)
        monkeypatch.setattr(engine, "collect", lambda: 1 / 0)
        await engine.run()
        assert engine.broken
        with pytest.raises(Refusal) as told:
            await session.read()
        assert told.value.code == "internal"
        with pytest.raises(Refusal):
            open_session(engine)
        replica = SimpleNamespace(service=SimpleNamespace(engine=engine))
        with pytest.raises(RuntimeError, match="the engine failed"):
            await Replica.check_health(replica)

    run(scene())


def test_a_draining_engine_gives_each_call_its_tail_and_then_the_reason() -> None:
    async def scene() -> None:
        engine = new_engine()
        session = open_session(engine)
        await session.feed(tone(200, 0.5))
        engine.drain()
        while not session.finished:
            step(engine)
        assert len(await session.read()) == 0.5 * RATE
        with pytest.raises(Refusal) as told:
            await session.read()
        assert told.value.code == "shutting_down"
        with pytest.raises(Refusal):
            open_session(engine)

    run(scene())


class Moody(McAdams):
    """Fails while it is `failing`."""

    failing = False

    def push_many(self, streams: Any, chunks: Any) -> Any:
        if self.failing:
            raise FloatingPointError("secret samples")
        return super().push_many(streams, chunks)


async def told_of_failures(engine: Engine, calls: int) -> list[str]:
    """Make so many calls, one after the other, that fail; return what each is told."""
    codes = []
    for _ in range(calls):
        session = open_session(engine)
        await session.feed(tone(200, 0.1))
        with pytest.raises(Refusal) as refused:
            await session.read()
        assert "secret" not in refused.value.message()
        codes.append(refused.value.code)
        engine.close(session, refused.value.code)
    return codes


def test_a_model_that_fails_ends_its_sessions_and_the_engine_goes_on() -> None:
    async def scene() -> None:
        engine = new_engine(anonymizer=Moody(), tick=0.01)
        heart = asyncio.create_task(engine.run())
        for _ in range(2):  # what went well between failures is not forgotten
            engine.anonymizer.failing = True
            assert await told_of_failures(engine, 2) == ["internal"] * 2
            engine.anonymizer.failing = False
            survivor = open_session(engine)
            await survivor.feed(tone(200, 0.1))
            survivor.end()
            assert await survivor.read() is not None
            engine.close(survivor, "ended")
        assert not engine.broken
        heart.cancel()

    run(scene())


def test_a_model_that_fails_three_times_in_a_row_breaks_the_engine() -> None:
    async def scene() -> None:
        engine = new_engine(anonymizer=Moody(), tick=0.01)
        heart = asyncio.create_task(engine.run())
        engine.anonymizer.failing = True
        bystander = open_session(engine)
        assert await told_of_failures(engine, 3) == ["internal"] * 3
        await asyncio.wait_for(heart, 60)
        assert engine.broken
        with pytest.raises(Refusal) as told:
            await bystander.read()
        assert told.value.code == "internal"
        with pytest.raises(Refusal):
            open_session(engine)

    run(scene())


def test_no_voice_is_ever_heard_in_another_call() -> None:
    """Thousands of calls over four reused slots, each with a level of its own; silence must come out of silence."""

    async def scene() -> int:
        engine = new_engine(slots=4)
        generator = np.random.default_rng(0)
        live: list[tuple[Session, float]] = []
        seen = 0
        while seen < 3_000:
            while len(live) < 4:
                level = 0.0 if generator.random() < 0.5 else 0.5
                live.append((open_session(engine, int(generator.integers(1 << 30))), level))
            for session, level in live:
                await session.feed(np.full(400, level, np.float32) * (-1.0) ** np.arange(400, dtype=np.float32))
            step(engine)
            for session, level in list(live):
                if session.unread:
                    peak = float(np.abs(await session.read()).max())
                    assert (peak == 0.0) == (level == 0.0), "a session heard what was not its own"
                if generator.random() < 0.7:  # many leave in the middle of a frame
                    engine.close(session, "left")
                    live.remove((session, level))
                    seen += 1
        return seen

    assert run(scene()) >= 3_000


def test_each_call_keeps_the_mark_that_it_was_given() -> None:
    async def scene() -> None:
        engine = new_engine(slots=16, anonymizer=Identity())
        for _ in range(50):
            sessions = [open_session(engine) for _ in range(16)]
            for mark, session in enumerate(sessions):
                await session.feed(np.full(320, (mark + 1) / 32, np.float32))
            step(engine)
            for mark, session in enumerate(sessions):
                assert set((await session.read()).tolist()) == {(mark + 1) / 32}
                engine.close(session, "left")

    run(scene())


def test_an_anonymizer_that_knows_no_batches_is_stepped_one_by_one() -> None:
    model = live_model(Identity(), slots=2)
    streams = [model.open_stream(None, 0) for _ in range(2)]
    outputs = model.push_many(streams, [torch.ones(3), torch.zeros(2)])
    assert [output.tolist() for output in outputs] == [[1, 1, 1], [0, 0]]
