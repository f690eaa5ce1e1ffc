"""Feeds: what the loop asks for its batches. Which items a batch holds follows from its number alone."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import lru_cache
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]
Arrays = dict[str, np.ndarray]
AHEAD = 2  # batches, for each reader, that are read while another is computed


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
    """Reads a sequence of batches of a feed ahead of their use, in a thread or in processes of their own."""

    def __init__(self, feed: Feed, numbers: Iterator[int], readers: int = 0) -> None:
        """`readers`: how many processes; 0 is a thread. Their batches come in the order of the numbers all the same."""
        self.feed, self.numbers = feed, numbers
        self.pool: Executor
        if readers:
            self.pool = ProcessPoolExecutor(readers, get_context("spawn"), _adopt, (feed,))
            self._read: Callable[[int], Batch | Arrays] = _read_adopted
        else:
            self.pool, self._read = ThreadPoolExecutor(1), feed.batch
        self.most = AHEAD * max(1, readers)
        self.waiting: list[Future[Batch | Arrays]] = []
        self._ask()

    def _ask(self) -> None:
        while len(self.waiting) < self.most and (number := next(self.numbers, None)) is not None:
            self.waiting.append(self.pool.submit(self._read, number))

    def next(self) -> Batch:
        """Return the next batch. Raises what reading it raised, and IndexError past the last."""
        batch = self.waiting.pop(0).result()
        self._ask()
        return {name: torch.as_tensor(value) for name, value in batch.items()}

    def close(self) -> None:
        """Stop reading; batches that were read ahead are let go."""
        self.pool.shutdown(wait=True, cancel_futures=True)


_adopted: Feed


def _adopt(feed: Feed) -> None:
    """Make a feed that of this process, which reads and leaves other cores to other readers."""
    global _adopted
    _adopted = feed
    torch.set_num_threads(1)
    Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the training, also where it was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_adopted(number: int) -> Arrays:
    """Return a batch as arrays: tensors would travel through shared memory, of which there may be little."""
    return {name: value.numpy() for name, value in _adopted.batch(number).items()}
