"""The probes of content codes: they learn what codes tell, and from codes that tell nothing they learn nothing."""

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.content import REACH, PhoneProbe, Speech, agreement, minimise, probe_speakers, shuffled

CODES, PHONES = 6, 3


def test_phonemes_are_learnt_from_codes_in_their_order_alone() -> None:
    """Each phoneme is the code's, halved; the codes of another order say only how frequent it is."""
    torch.manual_seed(0)
    learnt, measured = ([torch.randint(CODES, (30,)) for _ in range(80)] for _ in range(2))
    speech = Speech([str(n) for n in range(80)], [f"s{n % 4}" for n in range(80)], [])

    def right(to_learn: list[Tensor], to_read: list[Tensor]) -> float:
        probe = PhoneProbe(nn.Embedding(CODES, PHONES * (2 * REACH + 1)))
        probe.learn(to_learn, [codes // 2 for codes in learnt])
        return agreement(probe, to_read, [codes // 2 for codes in measured], speech).value

    assert right(learnt, measured) > 0.99
    assert right(shuffled(learnt), shuffled(measured)) < 0.45, "chance is a third"


def test_people_are_told_apart_by_what_is_theirs_and_not_by_what_is_loud() -> None:
    """Vectors of six people, each with a direction of its own, in noise along another that drowns them."""
    drawn = np.random.default_rng(0)
    own, loud = drawn.normal(size=(6, 16)), drawn.normal(size=16)
    people = np.repeat([f"s{n}" for n in range(6)], 40)
    same = people[:, None] == people

    def spoken() -> np.ndarray:
        said = np.repeat(own, 40, axis=0) + 3.0 * drawn.normal(size=(240, 1)) * loud
        return said + 0.1 * drawn.normal(size=said.shape)

    def likeness(vectors: np.ndarray) -> tuple[float, float]:
        """The mean cosines of what one person said, and of what two did."""
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return (unit @ unit.T)[same].mean(), (unit @ unit.T)[~same].mean()

    torch.manual_seed(0)
    learnt, measured = spoken(), spoken()
    assert likeness(measured)[0] < 0.3
    within, between = likeness(probe_speakers(learnt, list(people), measured))
    assert within > 0.9
    assert between < 0.1


def test_what_is_minimised_is_the_loss_of_all_and_decay_draws_back() -> None:
    wanted = torch.arange(40) / 40

    def found(decay: float) -> float:
        middle = nn.Parameter(torch.tensor(0.6))
        minimise(lambda rows: (middle - wanted[rows]).square().mean(), [middle], len(wanted), decay)
        return middle.item()

    assert abs(found(0.0) - wanted.mean().item()) < 0.02
    assert found(5.0) < found(0.0) - 0.1
