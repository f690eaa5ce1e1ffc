"""Learning where in a codebook a recogniser's frames lie."""

import pytest
import torch

from models.streamvoiceanon.full_context import FullContext, FullContextConfig
from models.streamvoiceanon.training.full_context import Wanted, agreement, draw, fit

SIZES = FullContextConfig(frame_width=4, width=16, hidden=16, layers=1, kernel=3)
CODEBOOK = 3.0 * torch.tensor([[code // 4 % 2, code // 2 % 2, code % 2] for code in range(8)]).float()


def corpus(count: int, seed: int) -> list[Wanted]:
    """Frames from which the code can be told: its number in binary, in both frames of a turn, and noise."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        codes = torch.randint(8, (30,), generator=generator)
        bits = torch.stack([codes // 4 % 2, codes // 2 % 2, codes % 2, torch.zeros(30)], dim=1).float()
        frames = bits.repeat_interleave(2, 0) + 0.05 * torch.randn(60, 4, generator=generator)
        made.append(Wanted((frames.half(),), CODEBOOK[codes]))
    return made


def test_it_learns_what_can_be_told() -> None:
    network, unheard = FullContext(SIZES, 3), corpus(4, 5)
    losses = list(fit(network, corpus(20, 4), CODEBOOK, 1.0, 300, 0))
    assert losses[-1] < 0.2 * losses[0]
    assert agreement(network, unheard, CODEBOOK) > 0.95
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())


def test_equal_seeds_make_equal_weights() -> None:
    networks = [FullContext(SIZES, 3) for _ in range(2)]
    for network in networks:
        list(fit(network, corpus(3, 4), CODEBOOK, 1.0, 3, 7))
    for name, value in networks[0].state_dict().items():
        assert torch.equal(value, networks[1].state_dict()[name]), name


def test_what_fills_short_crops_up_counts_for_nothing() -> None:
    long, short = corpus(1, 1)[0], corpus(1, 2)[0]
    short = Wanted((short.heard[0][:20],), short.points[:10])
    heard, points, known = draw([long, short], torch.Generator().manual_seed(0))
    assert heard.shape[1:] == (60, 4)
    assert points.shape[1:] == (30, 3)
    assert {int(count) for count in known.sum(1)} == {10, 30}


def test_a_loss_that_is_no_number_ends_it() -> None:
    spoilt = [Wanted(wanted.heard, wanted.points * torch.nan) for wanted in corpus(2, 3)]
    with pytest.raises(ValueError, match="step 0: the loss is not a number"):
        list(fit(FullContext(SIZES, 3), spoilt, CODEBOOK, 1.0, 2, 0))
