"""The memory of streams: nested tuples of tensors whose first axis is the stream, and what is done to them as a whole.

Every layer that remembers the past makes its own state with `initial_state(batch)`, and its `forward` takes audio and
state and hands both on. A fresh state is all zeros, which is what the networks pad their past with, so an offline
pass is a fresh state and one long chunk. Streams of one batch start, pause and end on their own: a step takes the
rows of the streams that move, and puts back what became of them; a stream that pauses costs nothing.
"""

from typing import Any

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
