"""Feeds: what the loop asks for its batches. Which items a batch holds follows from its number alone."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import numpy as np
from torch import Tensor

Batch = dict[str, Tensor]
AHEAD = 2  # batches that are read while another is computed


class Feed(Protocol):
    """Batches of a task, on the CPU, padded. Equal numbers give equal batches, in whatever process."""

    def batch(self, number: int) -> Batch:
        """Return training batch `number`, counted over all workers and epochs."""
        ...

    def names(self, number: int) -> list[str]:
        """Return what training batch `number` is made of, for a message to people."""
        ...

    def validation(self) -> list[Batch]:
        """Return the batches of held-out speakers, always the same."""
        ...


def item_at(position: int, items: int, seed: int) -> tuple[int, int]:
    """Return (epoch, index) of the item at a position in an endless row of shuffled epochs of `items` items."""
    epoch, place = divmod(position, items)
    return epoch, int(_shuffled(items, seed, epoch)[place])


@lru_cache(maxsize=2)
def _shuffled(items: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(items)


class Ahead:
    """Reads a sequence of batches of a feed ahead of their use, in a thread of its own."""

    def __init__(self, feed: Feed, numbers: Iterator[int]) -> None:
        self.feed, self.numbers = feed, numbers
        self.pool = ThreadPoolExecutor(1)
        self.waiting: list[Future[Batch]] = []
        self._ask()

    def _ask(self) -> None:
        while len(self.waiting) < AHEAD and (number := next(self.numbers, None)) is not None:
            self.waiting.append(self.pool.submit(self.feed.batch, number))

    def next(self) -> Batch:
        """Return the next batch. Raises what reading it raised, and IndexError past the last."""
        batch = self.waiting.pop(0).result()
        self._ask()
        return batch

    def close(self) -> None:
        """Stop reading; batches that were read ahead are let go."""
        self.pool.shutdown(wait=True, cancel_futures=True)
