"""An anonymizer as the engine steps it: many streams at once, each with what it has.

Some anonymizers take chunks of any length. A network that reads frames moves all its streams in one batch: every stream
has a slot of it, and moves whenever it has a whole frame.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from models.anonymizer import Anonymizer, AnonymizerStream


class LiveModel(Protocol):
    """What moves the streams of a replica. `push_many` and the streams themselves belong to the engine's worker."""

    frame: float  # seconds of audio that it reads at a time; 0 where any length will do
    reads_voices: bool  # whether a stream's first samples cost about a step, because its voice is read with them

    def open_stream(self, voice: Any, seed: int) -> AnonymizerStream:
        """Open a stream that speaks with `voice`; what is costly about it waits for its first samples."""
        ...

    def push_many(self, streams: Sequence[Any], chunks: Sequence[Tensor]) -> list[Tensor]:
        """Push a chunk [n] into each stream and return what each gives back [m]. No stream may appear twice."""
        ...

    def leave(self, stream: Any) -> None:
        """Give up a stream, finished or not."""
        ...


def live_model(anonymizer: Anonymizer[Any], slots: int) -> LiveModel:
    """Return the anonymizer as the engine steps it, with room for `slots` streams."""
    return FramewiseModel(anonymizer, slots) if hasattr(anonymizer, "open_batch") else AnyLengthModel(anonymizer)


class AnyLengthModel:
    """Streams that share nothing: pushed in one call where the anonymizer knows how, else one by one."""

    frame = 0.0
    reads_voices = False

    def __init__(self, anonymizer: Anonymizer[Any]) -> None:
        self.anonymizer = anonymizer

    def open_stream(self, voice: Any, seed: int) -> AnonymizerStream:
        """Open a stream that speaks with `voice`."""
        return self.anonymizer.open_stream(voice, seed)

    def push_many(self, streams: Sequence[Any], chunks: Sequence[Tensor]) -> list[Tensor]:
        """Push a chunk [n] into each stream and return what each gives back [m]."""
        together = getattr(self.anonymizer, "push_many", None)
        if together is not None:
            return list(together(streams, chunks))
        return [stream.push(chunk) for stream, chunk in zip(streams, chunks, strict=True)]

    def leave(self, stream: Any) -> None:
        """Nothing outlives a stream."""


class FramewiseModel:
    """The streams of StreamVoiceAnon, all in one batch of `slots`.

    Only the engine's worker touches the batch: who gives a stream up leaves word, and the slot is free before another
    stream can want one.
    """

    reads_voices = True

    def __init__(self, anonymizer: Any, slots: int) -> None:
        self.frame = anonymizer.frame_samples / anonymizer.sample_rate
        self.batch, self.delay = anonymizer.open_batch(slots), anonymizer.delay
        self.left: list[Any] = []
        # The first frames of a process take seconds on some devices; they should be nobody's.
        first = self.open_stream(anonymizer.draw_voice(0), 0)
        first.push(torch.zeros(anonymizer.frame_samples))
        first.finish()

    def open_stream(self, voice: Any, seed: int) -> AnonymizerStream:
        """Open a stream; its slot is taken, and its voice read, with its first samples."""
        from models.streamvoiceanon.stream import Stream

        return Stream(self.batch, voice, self.delay, torch.Generator().manual_seed(seed))

    def push_many(self, streams: Sequence[Any], chunks: Sequence[Tensor]) -> list[Tensor]:
        """Push a chunk [n] into each stream and return what each gives back [m], as many in a step as have a frame."""
        from models.streamvoiceanon.stream import push_many

        kept = []
        while self.left:
            stream = self.left.pop()
            if any(stream is moving for moving in streams):  # left after this step had been put together
                kept.append(stream)
            else:
                stream.drop()
        self.left.extend(kept)
        return push_many(streams, chunks)

    def leave(self, stream: Any) -> None:
        """Give up a stream, finished or not."""
        self.left.append(stream)
