"""Codes that spell: letters of a text, a loss that falls, and errors counted as letters that are wrong."""

import pytest
import torch

from models.streamvoiceanon.training.spelling import LETTERS, Speller, misspelt, pad_letters, spell, spelling_loss


def read(letters: list[int]) -> str:
    return "".join(LETTERS[letter - 1] for letter in letters)


def test_a_text_is_spelled_in_plain_letters() -> None:
    assert read(spell("  It\u2019s Café-time,then “now”!\n")) == "it's cafe time then now"


@pytest.mark.parametrize("text", ["in 1984", "you & me", "5 €", "Straße", "søn", "да"])
def test_what_can_be_read_in_several_ways_or_other_letters_is_not_known(text: str) -> None:
    assert spell(text) == []


def likely(letters: list[int], frames: int) -> torch.Tensor:
    """Log-probabilities [1, frames, letters + 1] of one who is almost sure: each letter once, then blanks."""
    places = torch.zeros(frames, dtype=torch.int64)
    places[: 2 * len(letters) : 2] = torch.tensor(letters)
    return torch.nn.functional.one_hot(places, len(LETTERS) + 1).float().mul(20).log_softmax(-1).unsqueeze(0)


def test_who_spells_rightly_pays_little_and_who_errs_pays_much() -> None:
    letters, counts = pad_letters([spell("anna")])
    frames = torch.tensor([12])
    right, wrong = (spelling_loss(likely(spell(word), 12), frames, letters, counts) for word in ("anna", "otto"))
    assert right < 0.1 < 5.0 < wrong
    assert misspelt(likely(spell("anna"), 12), frames, letters, counts) == (0, 4)
    assert misspelt(likely(spell("ana"), 12), frames, letters, counts) == (1, 4)


def test_items_whose_text_nobody_knows_cost_nothing() -> None:
    letters, counts = pad_letters([spell("anna"), []])
    both = torch.cat([likely(spell("anna"), 12), likely(spell("otto"), 12)])
    one = spelling_loss(both[:1], torch.tensor([12]), letters[:1], counts[:1])
    assert torch.equal(spelling_loss(both, torch.tensor([12, 12]), letters, counts), one)
    assert spelling_loss(both[1:], torch.tensor([12]), letters[1:], counts[1:]) == 0.0


def test_a_speller_learns_what_bits_say() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randn(4, 6, 20, generator=generator).sign()
    letters, counts = pad_letters([spell(word) for word in ("one", "two", "three", "four")])
    frames = torch.full((4,), 20)
    torch.manual_seed(0)
    speller = Speller(6, 32)
    optimizer = torch.optim.Adam(speller.parameters(), 1e-2)
    for _ in range(60):
        loss = spelling_loss(speller(bits), frames, letters, counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert misspelt(speller(bits), frames, letters, counts)[0] <= 1
