"""One live session: what waits to be anonymized, its path through the model, and what waits to be heard.

A session belongs to a slot of the engine. Its signal path (resampler, model stream, resampler) is touched by the
engine's worker alone, its queues by the event loop alone; nothing of it outlives it.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.anonymizer import AnonymizerStream
from serve.protocol import Refusal
from serve.resample import StreamResampler

Wave = NDArray[np.float32]

REMEMBERED_LATENCIES = 2_048
PACE = 1.5  # times real time; what a call may keep up that leaves the server no room


class SignalPath:
    """The client's rate to the model's, the model, and back; as many samples come out as went in."""

    def __init__(self, stream: AnonymizerStream, client_rate: int, model_rate: int) -> None:
        self.stream = stream
        self.inward = StreamResampler(client_rate, model_rate)
        self.outward = StreamResampler(model_rate, client_rate)
        self.delay = self.inward.delay + stream.latency + self.outward.delay
        self.first = max(1, round(self.inward.delay * client_rate))  # samples until the model's stream gets one
        self.taken = 0
        self.given = 0

    def enter(self, samples: Wave, last: bool) -> torch.Tensor:
        """Return what the model's stream is to take next, at its own rate."""
        self.taken += len(samples)
        wave = self.inward.push(samples)
        if last:
            wave = np.concatenate([wave, self.inward.finish()])
        return torch.from_numpy(np.ascontiguousarray(wave))

    def leave(self, output: torch.Tensor, last: bool) -> Wave:
        """Return the model's output at the client's rate; with `last`, all that is owed."""
        wave = self.outward.push(output.numpy())
        if last:
            tail = self.outward.push(self.stream.finish().numpy())
            wave = np.concatenate([wave, tail, self.outward.finish()])
            owed = self.taken - self.given  # two roundings up may leave a sample too many
            wave = np.pad(wave[:owed], (0, max(0, owed - len(wave))))
        self.given += len(wave)
        return wave


class Session:
    """The engine's side of one client. `feed`, `end`, `read` and `close` are for the connection that serves it."""

    def __init__(
        self,
        slot: int,
        path: SignalPath,
        sample_rate: int,
        window: float,
        patience: float,
        clock: Any,
        fed: Callable[[], None] = lambda: None,
    ) -> None:
        """`fed` is called whenever audio has come."""
        self.slot = slot
        self.path = path
        self.sample_rate = sample_rate
        self.window = int(window * sample_rate)  # samples
        self.patience = patience
        self.clock = clock
        self.fed = fed
        self.inbox: deque[Wave] = deque()
        self.waiting = 0  # samples in the inbox
        self.outbox: deque[Wave] = deque()
        self.unread = 0  # samples in the outbox
        self.opened = clock()
        self.samples_in = 0
        self.samples_out = 0
        self.begun = False  # whether the model has had any of it
        self.ending = False
        self.finished = False
        self.closed = False
        self.refusal: Refusal | None = None
        self.farewell: Refusal | None = None
        self.blocked_since: float | None = None
        self.pressed: tuple[float, int] | None = None  # since when its window is never half empty; samples in by then
        self.arrivals: deque[tuple[int, float]] = deque()  # (samples in so far, when the last of them came)
        self.latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)
        self.late_steps = 0
        self._room = asyncio.Event()
        self._room.set()
        self._output = asyncio.Event()

    async def feed(self, samples: Wave) -> None:
        """Take samples [n]; returns when the session would hold less than its window, however long that takes.

        Raises Refusal when nothing of it is taken for `patience` seconds: "full" where its turn to begin has not come,
        "too_slow" where the client does not read its audio, else "internal"; "too_fast" where the client has taken up
        all the room that it was given for so long, at more than PACE times real time, and is ahead of real time by
        more than its window; or what ended the session.
        """
        self._check()
        if len(samples) == 0 or self.farewell is not None:
            return
        if self.ending:
            raise Refusal("bad_message", "audio after end")
        self.inbox.append(samples)
        self.waiting += len(samples)
        self.samples_in += len(samples)
        self.arrivals.append((self.samples_in, self.clock()))
        self._judge_pace()
        self.fed()
        while self.waiting > self.window:
            before = self.waiting
            self._room.clear()
            try:
                async with asyncio.timeout(self.patience):
                    await self._room.wait()
            except TimeoutError:
                if self.waiting == before:
                    raise self._stuck() from None
            self._check()

    def _stuck(self) -> Refusal:
        """Why nothing of what waits was taken for `patience` seconds."""
        if not self.begun:
            return Refusal("full", "too many calls begin on this replica at once")
        if self.unread > self.window:
            return Refusal("too_slow", "the client does not read its audio")
        return Refusal("internal", "the server does not get to this call")

    def _judge_pace(self) -> None:
        """Raise Refusal("too_fast") where the client answers back-pressure with more, for `patience` seconds.

        Each such time is judged by itself, so that who has once sent a burst, or is worked off slowly, is not blamed.
        Nor is who has sent no more than could have been spoken since the call was opened: a microphone whose line was
        down sends all that it missed as fast as it is taken.
        """
        now = self.clock()
        if self.waiting < self.window / 2:
            self.pressed = None
        elif self.pressed is None:
            if self.waiting > self.window:
                self.pressed = now, self.samples_in
        elif now - self.pressed[0] >= self.patience:
            (since, samples), self.pressed = self.pressed, (now, self.samples_in)
            fast = self.samples_in - samples > PACE * (now - since) * self.sample_rate
            if fast and self.samples_in > (now - self.opened) * self.sample_rate + self.window:
                seconds = self.window / self.sample_rate
                raise Refusal("too_fast", f"more than {seconds:g} s of audio waits all the time; keep to real time")

    @property
    def can_begin(self) -> bool:
        """Whether the model would get some of what waits, or the session ends without."""
        return self.ending or self.waiting >= self.path.first

    def end(self) -> None:
        """No more audio will come: the tail is worked off, and `read` returns None after it."""
        self.ending = True

    async def read(self) -> Wave | None:
        """Return the next anonymous samples [m], all that there are, or None after the last; raises Refusal."""
        while not self.outbox:
            if self.refusal is not None:
                raise self.refusal
            if self.finished:
                if self.farewell is not None:
                    raise self.farewell
                return None
            self._output.clear()
            await self._output.wait()
        wave = np.concatenate(self.outbox) if len(self.outbox) > 1 else self.outbox[0]
        self.outbox.clear()
        self.unread = 0
        return wave

    def fail(self, refusal: Refusal) -> None:
        """End the session for a reason that its client is told."""
        if self.refusal is None:
            self.refusal = refusal
        self._room.set()
        self._output.set()

    def retire(self, farewell: Refusal) -> None:
        """End the session for its client's next one to go on elsewhere: `read` gives the tail, then raises."""
        self.farewell = farewell
        self.ending = True

    def take(self, most: int) -> tuple[Wave, bool]:
        """Return at most `most` samples from the inbox, and whether they are the session's last."""
        parts: list[Wave] = []
        count = 0
        while self.inbox and count < most:
            part = self.inbox.popleft()
            if count + len(part) > most:
                self.inbox.appendleft(part[most - count :])
                part = part[: most - count]
            parts.append(part)
            count += len(part)
        self.waiting -= count
        self.begun = self.begun or count > 0
        if self.waiting <= self.window:
            self._room.set()
        wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return wave, self.ending and self.waiting == 0

    def give(self, wave: Wave, last: bool) -> list[float]:
        """Take the step's output; return the latency (seconds) of each message of the client that is now answered."""
        answered = []
        if len(wave):
            self.outbox.append(wave)
            self.unread += len(wave)
            self.samples_out += len(wave)
            now = self.clock()
            while self.arrivals and self.arrivals[0][0] <= self.samples_out:
                answered.append(now - self.arrivals.popleft()[1])
            self.latencies.extend(answered)
        self.finished = self.finished or last
        if len(wave) or last:
            self._output.set()
        return answered

    def statistics(self) -> dict[str, Any]:
        """Return the body of the `stats` message: seconds of audio, milliseconds of latency at the server."""
        measured = np.array(self.latencies) * 1e3
        quantiles = np.percentile(measured, [50, 95, 99]) if len(measured) else [0.0, 0.0, 0.0]
        return {
            "seconds_in": round(self.samples_in / self.sample_rate, 3),
            "seconds_out": round(self.samples_out / self.sample_rate, 3),
            "backlog_ms": round(1e3 * self.waiting / self.sample_rate, 1),
            "server_latency_ms": dict(zip(("p50", "p95", "p99"), (round(float(q), 1) for q in quantiles), strict=True)),
            "late_steps": self.late_steps,
        }

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal
