"""Live streams: many in one batch, a frame of work for every frame of sound.

`StreamBatch` moves any of its streams by one frame; `Stream` is one stream of a batch with chunks of any length, and
`push_many` moves several of them together.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.streamvoiceanon.frontend import PUBLISHED, FrameConfig
from models.streamvoiceanon.generation import WriterBatch, check_delay
from models.streamvoiceanon.prosody import ProsodyFollower
from models.streamvoiceanon.state import Rows
from models.streamvoiceanon.voices import Voice

if TYPE_CHECKING:
    from models.streamvoiceanon.model import StreamVoiceAnon


def latency_seconds(delay: int, frames: FrameConfig = PUBLISHED) -> float:
    """Algorithmic latency: a frame must be whole before it is read, and is spoken `delay` frames later."""
    return (delay + 1) * frames.seconds


class StreamBatch:
    """Up to `slots` streams that start, pause and end on their own; a stream that pauses costs nothing."""

    def __init__(self, model: "StreamVoiceAnon", slots: int) -> None:
        self._model = model
        self.frames = model.config.frames
        self._encoder = Rows(model.content_encoder.initial_state(slots, chunk=1), slots)
        self._decoder = Rows(model.codec.initial_decoder_state(slots), slots)
        latents = model.config.timbre_latents + 1
        vectors = latents + 2 * model.config.acoustic_lm.max_frames
        self._writers = WriterBatch(model.acoustic_lm, slots, vectors, model.values)
        self._delays: dict[int, int] = {}
        self._followers: dict[int, ProsodyFollower] = {}

    def open(self, voice: Voice, delay: int, generator: torch.Generator | None) -> int:
        """Start a stream and return its slot; None for `generator` writes the best code always.

        Raises RuntimeError where every slot is taken, ValueError where `delay` is out of range.
        """
        slot = self._writers.free_slot()
        if slot is None:
            raise RuntimeError("every slot of the batch is taken")
        with torch.inference_mode():
            self._writers.start(slot, self._model.prompt(voice), delay, generator)
            self._encoder.restart(slot)
            self._decoder.restart(slot)
        self._delays[slot] = delay
        if (follower := self._model.open_follower()) is not None:
            self._followers[slot] = follower
        return slot

    def step(self, frames: Mapping[int, Tensor], mels: Mapping[int, int] | None = None) -> dict[int, Tensor]:
        """Read one frame of samples in each of these slots; return the frames that are spoken.

        A slot returns nothing in its first `delay` steps. `mels` says for a slot's last frame how many of its mel
        frames lie within the utterance.
        """
        if not frames:
            return {}
        model = self._model
        slots = sorted(frames)
        for slot in slots:
            if slot in self._followers:
                self._followers[slot].hear(frames[slot])
        all_mels = model.config.frames.mels_per_frame
        within = torch.tensor([(mels or {}).get(slot, all_mels) for slot in slots])
        whole = bool((within == all_mels).all())
        with torch.inference_mode():
            samples = torch.stack([frames[slot] for slot in slots]).to(model.device)
            codes, after = model.content_encoder(samples, self._encoder.take(slots), None if whole else within)
            self._encoder.put(after)
            vectors = model.acoustic_lm.embed_content(model.narrow(codes[:, 0]))
            return self._speak(self._writers.step(dict(zip(slots, vectors, strict=True))))

    def end(self, slot: int) -> list[Tensor]:
        """End a stream, free its slot and return the frames that the delay still held back."""
        tail = []
        with torch.inference_mode():
            wait = self._model.acoustic_lm.decoder.wait4end_embedding.weight
            for i in range(self._delays.pop(slot)):
                tail += list(self._speak(self._writers.step({slot: wait[i]})).values())
        self._writers.end(slot)
        self._followers.pop(slot, None)
        return tail

    def drop(self, slot: int) -> None:
        """Free a slot at once, whatever its stream still held back, even where `end` failed midway."""
        self._delays.pop(slot, None)
        self._followers.pop(slot, None)
        self._writers.end(slot)

    def _speak(self, written: dict[int, Tensor]) -> dict[int, Tensor]:
        if not written:
            return {}
        codes = torch.stack(list(written.values())).unsqueeze(2)
        samples, after = self._model.codec.decode(codes, self._decoder.take(list(written)))
        self._decoder.put(after)
        spoken = dict(zip(written, samples.cpu(), strict=True))
        return {
            slot: self._followers[slot].follow(frame) if slot in self._followers else frame
            for slot, frame in spoken.items()
        }


class Stream:
    """One live stream of a batch. Samples come out `latency` seconds after they went in, and as many of them.

    It takes its slot, and has its voice read, with its first samples.
    """

    def __init__(self, batch: StreamBatch, voice: Voice, delay: int, generator: torch.Generator | None) -> None:
        check_delay(delay)
        self._batch = batch
        self._start = (voice, delay, generator)
        self._slot: int | None = None
        self._waiting = torch.zeros(0)
        self._read = self._spoken = 0  # samples
        self._closed = False
        self.latency = latency_seconds(delay, batch.frames)

    def push(self, samples: Tensor) -> Tensor:
        """Take samples [n] and return the samples [m] that are ready. Raises ValueError on NaN or once closed."""
        return push_many([self], [samples])[0]

    def finish(self) -> Tensor:
        """Return the tail [m], close and free the slot. Raises ValueError when closed already."""
        self._check_open()
        self._closed = True
        spoken = [torch.zeros(0)]
        if self._slot is not None:
            if len(self._waiting):
                frames = self._batch.frames
                last = torch.nn.functional.pad(self._waiting, (0, frames.samples - len(self._waiting)))
                mels = len(self._waiting) // frames.hop
                spoken += self._batch.step({self._slot: last}, {self._slot: mels}).values()
            spoken += self._batch.end(self._slot)
            self._slot = None
        return torch.cat(spoken)[: self._read - self._spoken]

    def drop(self) -> None:
        """Close and free the slot at once, whatever was still to come. Does nothing once closed."""
        self._closed = True
        if self._slot is not None:
            self._batch.drop(self._slot)
            self._slot = None

    def _take(self, samples: Tensor) -> None:
        self._read += len(samples)
        self._waiting = torch.cat([self._waiting, samples.float()])
        if self._slot is None and self._read:
            self._slot = self._batch.open(*self._start)

    def _next_frame(self) -> Tensor | None:
        """Take the next whole frame, if there is one."""
        length = self._batch.frames.samples
        if len(self._waiting) < length:
            return None
        frame, self._waiting = self._waiting[:length], self._waiting[length:].clone()
        return frame

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the stream is closed")


def push_many(streams: Sequence[Stream], chunks: Sequence[Tensor]) -> list[Tensor]:
    """Push a chunk [n] into each of these streams of one batch; return what each gives back [m], as its `push` would.

    Those that have a whole frame move together. No stream may appear twice. Raises ValueError on NaN or a closed
    stream; nothing has moved then.
    """
    for stream, chunk in zip(streams, chunks, strict=True):
        stream._check_open()
        check_wave(chunk)
    for stream, chunk in zip(streams, chunks, strict=True):
        stream._take(chunk)
    spoken: dict[int, list[Tensor]] = {stream._slot: [] for stream in streams if stream._slot is not None}
    while True:
        ready = ((stream._slot, stream._next_frame()) for stream in streams if stream._slot is not None)
        frames = {slot: frame for slot, frame in ready if frame is not None}
        if not frames:
            break
        for slot, samples in streams[0]._batch.step(frames).items():
            spoken[slot].append(samples)
    given = []
    for stream in streams:
        parts = [] if stream._slot is None else spoken[stream._slot]
        given.append(torch.cat([torch.zeros(0), *parts]))
        stream._spoken += len(given[-1])
    return given


def check_wave(wave: Tensor) -> None:
    """Raise ValueError unless `wave` is [samples] and finite."""
    if wave.ndim != 1:
        raise ValueError(f"a wave is one channel of samples, not a tensor of shape {list(wave.shape)}")
    if not bool(torch.isfinite(wave).all()):
        raise ValueError("the wave holds samples that are not finite")
