"""Codes that are alike learn together, and once trained are a plain table."""

import pytest
import torch

from models.streamvoiceanon.acoustic_lm import AcousticLM, AcousticLMConfig
from models.streamvoiceanon.fsq import FiniteScalarQuantizer
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.shared_codes import digits_of, plain_state, share_codes

LEVELS = (4, 2)
CONFIG = AcousticLMConfig(
    content_codes=16, acoustic_codes=8, codebooks=2, width=16, heads=2, hidden=16, slow_layers=1, fast_layers=1,
    timbre_width=0, style_width=4,
)  # fmt: skip


def lm_of(seed: int) -> AcousticLM:
    lm = AcousticLM(CONFIG, content_head=True)
    initialise(lm, seed)
    return lm


def test_digits_are_the_quantizers_own() -> None:
    quantizer = FiniteScalarQuantizer(8, LEVELS, 1)
    codes = torch.arange(quantizer.size)
    first, second = (codes.unsqueeze(-1) // quantizer.basis % quantizer.levels).T
    digits = digits_of(LEVELS)
    assert torch.equal(digits[:, :4].argmax(1), first)
    assert torch.equal(digits[:, 4:].argmax(1), second)
    torch.testing.assert_close(digits.norm(dim=1), torch.ones(quantizer.size))


def test_every_book_has_digits_of_its_own() -> None:
    first, second = digits_of(LEVELS, books=2).chunk(2)
    assert torch.equal(first, second.roll(sum(LEVELS), dims=1))
    assert not (first * second).any()


@pytest.mark.parametrize("content", [4, torch.randn(16, 3, generator=torch.Generator().manual_seed(0))])
def test_tables_begin_as_they_were_and_are_exported_as_one(content: torch.Tensor | int) -> None:
    before = lm_of(0).state_dict()
    lm = lm_of(0)
    share_codes(lm, content, LEVELS, seed=0)
    state = plain_state(lm)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_what_one_code_learns_a_code_with_a_common_digit_learns_too() -> None:
    lm = lm_of(0)
    share_codes(lm, 4, LEVELS, seed=0)
    before = plain_state(lm)["embedding.weight"]
    optimizer = torch.optim.SGD(lm.parameters(), lr=1.0)
    lm.embed_content(torch.tensor([0b0011])).sum().backward()
    optimizer.step()
    moved = (plain_state(lm)["embedding.weight"] - before).abs().sum(1)
    assert float(moved[0b0011]) > float(moved[0b0010]) > float(moved[0b1010]) > 0
    assert float(moved[0b1100]) == 0


def test_codes_whose_vectors_are_near_learn_together() -> None:
    codebook = torch.arange(16.0).unsqueeze(1)
    lm = lm_of(0)
    share_codes(lm, codebook, LEVELS, seed=0)
    table = plain_state(lm)["embedding.weight"]
    optimizer = torch.optim.Adam(lm.embedding.parametrizations.parameters(), lr=1e-2)  # type: ignore[attr-defined]
    for _ in range(50):
        optimizer.zero_grad()
        (lm.embed_content(torch.tensor([0, 15])) - torch.tensor([[-1.0], [1.0]])).square().sum().backward()
        optimizer.step()
    moved = (plain_state(lm)["embedding.weight"] - table).mean(1)
    assert moved[1] < -0.2 < 0.2 < moved[14]


def test_an_exported_table_computes_what_the_training_computed() -> None:
    lm = lm_of(0)
    share_codes(lm, 4, LEVELS, seed=0)
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain = lm_of(1)
    plain.load_state_dict(plain_state(lm))
    hidden, codes = torch.randn(3, CONFIG.width), torch.randint(0, 8, (3, 2))
    torch.testing.assert_close(plain.frame_logits(hidden, codes), lm.frame_logits(hidden, codes))


def test_another_count_of_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="a table of 16 codes, where there should be 8"):
        share_codes(lm_of(0), 3, LEVELS, seed=0)
