"""The state of a batch, of which the rows that move are held apart."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.streamvoiceanon.state import Rows

STREAMS = 4


def state() -> tuple[Tensor, tuple[Tensor]]:
    return torch.zeros(STREAMS, 2), (torch.zeros(STREAMS, dtype=torch.int64),)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_moves_in_whatever_order_each_stream_goes_on_from_where_it_was(seed: int) -> None:
    random, rows, steps = np.random.default_rng(seed), Rows(state(), STREAMS), np.zeros(STREAMS, int)
    for _ in range(100):
        if random.random() < 0.2:
            rows.restart(fresh := int(random.integers(STREAMS)))
            steps[fresh] = 0
            continue
        moving = sorted(random.choice(STREAMS, random.integers(1, STREAMS + 1), replace=False).tolist())
        for _ in range(random.integers(1, 4)):
            numbers, (counts,) = rows.take(moving)
            assert counts.tolist() == steps[moving].tolist()
            assert numbers[:, 1].tolist() == [stream * steps[stream] for stream in moving]
            if random.random() < 0.2:  # the step failed
                break
            rows.put((numbers + torch.tensor([[0.0, stream] for stream in moving]), (counts + 1,)))
            steps[moving] += 1


def test_streams_that_do_not_exist_leave_the_others_as_they_were() -> None:
    rows = Rows(state(), STREAMS)
    numbers, counts = rows.take([1, 2])
    rows.put((numbers + 1.0, counts))
    with pytest.raises(IndexError):
        rows.take([1, STREAMS])
    numbers, _ = rows.take([0, 2])
    assert numbers.tolist() == [[0.0, 0.0], [1.0, 1.0]]
