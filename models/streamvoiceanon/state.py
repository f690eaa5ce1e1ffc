"""The memory of streams: nested tuples of tensors whose first axis is the stream, and what is done to them as a whole.

Every layer that remembers the past makes its own state with `initial_state(batch)`, and its `forward` takes audio and
state and hands both on. A fresh state is all zeros, which is what the networks pad their past with, so an offline
pass is a fresh state and one long chunk. Streams of one batch start, pause and end on their own: a step takes the
rows of the streams that move, and what became of them is put back before others move; a stream that pauses costs
nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

State = Any  # a Tensor [batch, ...], or a tuple of States; `transformer.TransformerState` is one


def take(state: State, streams: Tensor) -> State:
    """Return the state of the rows `streams` (int64 [n]) alone. Key-value caches are shared, not copied."""
    if isinstance(state, Tensor):
        return state[streams.to(state.device)]
    if isinstance(state, tuple):
        return tuple(take(part, streams) for part in state)
    return state.take(streams)


def put(state: State, streams: Tensor, moved: State) -> None:
    """Write what became of the rows `streams` back into `state`, in place."""
    if isinstance(state, Tensor):
        state[streams.to(state.device)] = moved
    elif isinstance(state, tuple):
        for part, after in zip(state, moved, strict=True):
            put(part, streams, after)
    else:
        state.put(streams, moved)


def restart(state: State, stream: int) -> None:
    """Make row `stream` of a state fresh again, in place."""
    if isinstance(state, Tensor):
        state[stream] = 0
    elif isinstance(state, tuple):
        for part in state:
            restart(part, stream)
    else:
        state.restart(stream)


class Rows:
    """The state of a batch, of which the streams that moved last are held apart.

    Mostly those move again, and then nothing is copied.
    """

    def __init__(self, whole: State, streams: int) -> None:
        """Take the state of so many `streams`."""
        self._whole, self._all = whole, list(range(streams))
        self._apart: list[int] = []
        self._held: State = None

    def take(self, streams: Sequence[int]) -> State:
        """Return the state of these streams alone, until `put` says what became of it. It is not to be written to."""
        wanted = list(streams)
        if wanted != self._apart:
            self._join()
            held = self._whole if wanted == self._all else take(self._whole, torch.tensor(wanted))
            self._apart, self._held = wanted, held
        return self._held

    def put(self, moved: State) -> None:
        """Keep what became of the streams that were taken last."""
        self._held = moved

    def restart(self, stream: int) -> None:
        """Make the state of a stream fresh again."""
        self._join()
        restart(self._whole, stream)

    def _join(self) -> None:
        if self._apart == self._all:
            self._whole = self._held
        elif self._apart:
            put(self._whole, torch.tensor(self._apart), self._held)
        self._apart, self._held = [], None
