"""The engine: all sessions of a replica, stepped in one batch at the frame rate.

Sessions hold slots. At each tick the engine takes from every session what has come since, at most a few frames, hands
all of it to the model in one call in a worker thread, and gives each session its own output; a model with frames is
stepped when audio comes instead, unless a tick is asked for. A session that has nothing waits for the next step and
delays nobody; one that has too much is worked off a few frames a step, so that it delays nobody either; and of those
that are new, one a step has its voice read, where that is costly. The engine knows nothing of sockets or of Ray.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.anonymizer import Anonymizer
from serve.live import live_model
from serve.meters import Meters
from serve.protocol import Refusal
from serve.session import Session, SignalPath

Wave = NDArray[np.float32]

DEFAULT_TICK = 0.04  # seconds
FAILURES = 3  # steps in a row that fail before it is the model, not what a call sent

logger = logging.getLogger("voxveil.serve")


@dataclass(frozen=True)
class EngineSettings:
    """How a replica steps.

    `tick` (seconds) is the time between two steps. Where it is None, it is 40 ms; but a model with frames is then
    stepped as soon as audio has come, and what comes during a step is the next one's, so that steps hold the more calls
    the longer they take. `catch_up` is how many frames (ticks, where the model has none) a step takes from one session
    at most; `window` (seconds) how much of a session's audio may wait before the server stops reading from it, and
    `patience` (seconds) how long a client may leave it so.
    """

    slots: int = 32
    tick: float | None = None
    catch_up: int = 4
    window: float = 2.0
    patience: float = 10.0


@dataclass(frozen=True)
class Portion:
    """What one session brings to a step."""

    session: Session
    samples: Wave
    last: bool


class Engine:
    """Opens sessions and steps them; `run` is its heart and returns when cancelled."""

    def __init__(
        self,
        anonymizer: Anonymizer[Any],
        settings: EngineSettings,
        meters: Meters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.anonymizer = anonymizer
        self.settings = settings
        self.model = live_model(anonymizer, settings.slots)
        self.eager = bool(settings.tick is None and self.model.frame)  # steps when audio has come, or a tick is over
        self.tick = settings.tick or self.model.frame / 4 or DEFAULT_TICK
        self.frame = self.model.frame or self.tick  # seconds of audio that come back at a time
        self.cost = 0.0  # seconds that the last step took for a second of audio
        self.meters = meters or Meters()
        self.clock = clock
        self.sessions: dict[int, Session] = {}
        self.free = list(range(settings.slots))[::-1]
        self.draining = False
        self.broken = False
        self.meters.slots.set(settings.slots)
        self._awake = asyncio.Event()
        self._fed = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="engine")

    def open(self, voice: Any, seed: int, sample_rate: int) -> Session:
        """Open a session that speaks with `voice`; raises Refusal("full") or Refusal("shutting_down")."""
        if self.draining:
            raise Refusal("shutting_down", "this replica is going away")
        if not self.free:
            raise Refusal("full", f"all {self.settings.slots} slots of this replica are taken")
        stream = self.model.open_stream(voice, seed)
        path = SignalPath(stream, sample_rate, self.anonymizer.sample_rate)
        settings = self.settings
        session = Session(
            self.free.pop(), path, sample_rate, settings.window, settings.patience, self.clock, self._fed.set
        )
        self.sessions[session.slot] = session
        self.meters.opened.inc()
        self.meters.sessions.set(len(self.sessions))
        self._awake.set()
        return session

    def close(self, session: Session, how: str) -> None:
        """Give the session's slot back; `how` it ended goes into the figures. Closing twice does nothing."""
        if session.closed:
            return
        session.closed = True
        del self.sessions[session.slot]
        self.free.append(session.slot)
        self.model.leave(session.path.stream)
        self.meters.closed.labels(how).inc()
        self.meters.sessions.set(len(self.sessions))

    def drain(self) -> None:
        """Take no more sessions, and end those that there are: each gets its tail, then the reason."""
        self.draining = True
        for session in self.sessions.values():
            session.retire(Refusal("shutting_down", "this replica is going away; connect again to go on"))

    def algorithmic_latency(self, session: Session) -> float:
        """Return the seconds by which output lags input on an infinitely fast machine."""
        return session.path.delay + (0.0 if self.eager else self.tick)

    async def run(self) -> None:
        """Step at every tick until cancelled; sleeps while there are no sessions.

        An error of its own, or FAILURES failed steps of the model in a row, ends all calls and leaves `broken` behind:
        the replica has to be replaced.
        """
        try:
            await self._step_for_ever()
        except Exception as fault:
            self.broken = self.draining = True
            logger.error("the engine failed with %s; its calls end", type(fault).__name__)
            for session in self.sessions.values():
                session.fail(Refusal("internal", "the server failed; connect again"))

    async def _step_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        due = self.clock()
        while True:
            if not self.sessions:
                self._awake.clear()
                await self._awake.wait()
                due = self.clock()
            due += self.tick
            await self._wait(due)
            due = min(due, self.clock())
            portions = self.collect()
            if portions:
                started = self.clock()
                try:
                    outputs = await loop.run_in_executor(self._worker, self.compute, portions)
                except Exception as fault:
                    # The kind alone: a message could quote samples.
                    logger.error("a step failed with %s; its %d sessions end", type(fault).__name__, len(portions))
                    for portion in portions:
                        portion.session.fail(Refusal("internal", "the model failed"))
                    failures += 1
                    if failures == FAILURES:
                        raise
                    continue
                failures = 0
                self.deliver(portions, outputs)
                took = self.clock() - started
                self.meters.step.observe(took)
                longest = max(len(portion.samples) / portion.session.sample_rate for portion in portions)
                self.cost = took / max(longest, self.frame)
            if self.clock() > due + self.frame:
                self.meters.misses.inc()
                for portion in portions:
                    portion.session.late_steps += 1
                due = self.clock() - self.tick  # the lost time is lost: catching up is the sessions' business

    async def _wait(self, due: float) -> None:
        """Wait until the next step; where frames are stepped as they come, no longer than until audio has come."""
        seconds = max(0.0, due - self.clock())
        if not self.eager:
            await asyncio.sleep(seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._fed.wait()
        self._fed.clear()

    def collect(self) -> list[Portion]:
        """Take what each session has for this step; sessions whose clients do not read are left out.

        Where the model reads voices, one session at most begins in a step, the oldest that can: calls that are opened
        together wait for each other with their first samples, and nobody else waits for all of them.
        """
        portions = []
        begins = False
        now = self.clock()
        # Who has much waiting gets more than a frame, as far as the step stays within a frame's time for the others.
        longest = min(self.settings.catch_up, max(1.0, 1.0 / max(self.cost, 1e-3))) * self.frame
        for session in self.sessions.values():
            if session.finished or session.refusal is not None:
                continue
            if session.unread > session.window:
                session.blocked_since = session.blocked_since or now
                if now - session.blocked_since > self.settings.patience:
                    session.fail(Refusal("too_slow", "the client does not read its audio"))
                continue
            session.blocked_since = None
            if self.model.reads_voices and not session.begun:
                if begins or not session.can_begin:
                    continue
                begins = True
            samples, last = session.take(round(longest * session.sample_rate))
            if len(samples) or last:
                portions.append(Portion(session, samples, last))
        return portions

    def compute(self, portions: Sequence[Portion]) -> list[Wave]:
        """Return each portion's output; this is what runs in the worker thread."""
        chunks = [portion.session.path.enter(portion.samples, portion.last) for portion in portions]
        streams = [portion.session.path.stream for portion in portions]
        with torch.inference_mode():
            outputs = self.model.push_many(streams, chunks)
            return [
                portion.session.path.leave(output, portion.last)
                for portion, output in zip(portions, outputs, strict=True)
            ]

    def deliver(self, portions: Sequence[Portion], outputs: Sequence[Wave]) -> None:
        """Hand each session its own output."""
        for portion, output in zip(portions, outputs, strict=True):
            self.meters.audio.inc(len(output) / portion.session.sample_rate)
            for latency in portion.session.give(output, portion.last):
                self.meters.latency.observe(latency)

    def stop(self) -> None:
        """Let the worker thread go."""
        self._worker.shutdown(wait=False, cancel_futures=True)
