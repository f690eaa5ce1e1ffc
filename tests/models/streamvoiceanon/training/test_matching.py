"""What follows the trunk learns the codes that other speech has; the trunk and the codebook stay as they are."""

from collections.abc import Callable

import pytest
import torch

from models.streamvoiceanon.content_encoder import ContentEncoder, ContentEncoderConfig
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.training import matching
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.matching import UNKNOWN, Told, agreement, delayed, fit, phones_of_codes, trunk
from models.streamvoiceanon.whisper_trunk import WhisperConfig

WIDTH, CODES = 16, 8
CONFIG = ContentEncoderConfig(
    depths=(),
    widths=(WIDTH,),
    heads=2,
    hidden=16,
    layers=1,
    window=8,
    bits=3,
    whisper=WhisperConfig(width=WIDTH, heads=2, hidden=16, layers=1, window=6),
    code_width=4,
)


@pytest.fixture
def encoder() -> ContentEncoder:
    encoder = ContentEncoder(CONFIG, SMALL.frames).eval().requires_grad_(False)
    initialise(encoder, 0)
    return encoder


@pytest.fixture
def corpus() -> Callable[[int], list[Told]]:
    """Makes utterances of eight sounds, a code each; two codes tell one phoneme, of the frame before."""
    sounds = torch.randn(CODES, WIDTH, generator=torch.Generator().manual_seed(1))

    def utterances(seed: int) -> list[Told]:
        generator = torch.Generator().manual_seed(seed)
        said = []
        for length in (30, 24, 40, 18):
            codes = torch.randint(CODES, (length,), generator=generator)
            heard = sounds[codes].repeat_interleave(2, 0) + 0.1 * torch.randn(2 * length, WIDTH, generator=generator)
            phones = torch.cat([codes[1:] // 2, torch.tensor([UNKNOWN])])
            said.append(Told((heard.half(),), codes, phones))
        return said

    return utterances


def test_new_speech_gets_the_codes_that_are_wanted(
    encoder: ContentEncoder, corpus: Callable[[int], list[Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "PEAK_RATE", 1e-2)
    knows = torch.eye(4).repeat_interleave(2, 0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    losses = list(fit(encoder, corpus(0), knows, lag=1, steps=250, seed=0))
    right, alike = agreement(encoder, corpus(5), knows, lag=1)
    assert right > 0.85, "chance is 0.25"
    assert alike > 0.7, "chance is 0.125"
    assert losses[-1][0] < losses[0][0] / 2
    now, _ = agreement(encoder, corpus(5), knows, lag=0)
    assert now < 0.5, "the codes tell the frame before, not their own"
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("quantizer.") and not name.endswith("codebook.weight") for name in changed)
    assert not any(value.requires_grad for value in encoder.parameters())


def test_what_is_not_known_counts_for_nothing(encoder: ContentEncoder, corpus: Callable[[int], list[Told]]) -> None:
    knows = torch.eye(4).repeat_interleave(2, 0)
    unknown = [Told(t.heard, torch.full_like(t.codes, UNKNOWN), torch.full_like(t.phones, UNKNOWN)) for t in corpus(0)]
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    list(fit(encoder, unknown, knows, lag=1, steps=1, seed=0))
    moved = torch.stack([(value - before[name]).abs().max() for name, value in encoder.state_dict().items()]).max()
    assert float(moved) < 1e-4, "weight decay alone"
    with pytest.raises(ValueError, match="nothing is known"):
        agreement(encoder, unknown, knows, lag=1)


def test_a_loss_that_is_not_a_number_ends_the_training(
    encoder: ContentEncoder, corpus: Callable[[int], list[Told]]
) -> None:
    broken = [Told((torch.full_like(t.heard[0], torch.nan),), t.codes, t.phones) for t in corpus(0)]
    with pytest.raises(ValueError, match="step 0: a loss is not a number"):
        list(fit(encoder, broken, torch.eye(4).repeat_interleave(2, 0), lag=1, steps=1, seed=0))


def test_numbers_come_later_and_their_ends_are_lost() -> None:
    numbers = torch.tensor([4, 5, 6])
    assert delayed(numbers, 0, 3).tolist() == [4, 5, 6]
    assert delayed(numbers, 2, 3).tolist() == [UNKNOWN, UNKNOWN, 4]
    assert delayed(numbers, 1, 6).tolist() == [UNKNOWN, 4, 5, 6, UNKNOWN, UNKNOWN]
    assert delayed(numbers, 5, 3).tolist() == [UNKNOWN] * 3


def test_a_code_tells_what_stood_with_it_and_near_it() -> None:
    codebook = torch.cat([torch.zeros(9, 2), torch.full((9, 2), 10.0)]) + 0.01 * torch.arange(18.0).unsqueeze(1)
    codes, phones = torch.tensor([0, 0, 9, 3, 17]), torch.tensor([1, 1, 0, UNKNOWN, 0])
    knows = phones_of_codes(codebook, codes, phones, 3)
    assert torch.allclose(knows.sum(1), torch.ones(18))
    assert knows.argmax(1).tolist() == [1] * 9 + [0] * 9, "also of codes that nobody used"


def test_the_trunk_hears_what_the_encoder_hears(encoder: ContentEncoder) -> None:
    samples = 0.1 * torch.randn(10 * SMALL.frames.samples, generator=torch.Generator().manual_seed(0))
    heard = trunk(encoder, samples, SMALL.frames.samples)
    assert heard.shape == (20, WIDTH)
    codes, _ = encoder(samples.unsqueeze(0), encoder.initial_state(1, 10))
    points = matching.points(encoder, heard.float().unsqueeze(0))
    assert float((matching.quantizer_of(encoder).nearest(points) == codes).float().mean()) > 0.8, "half precision"
    assert not torch.equal(heard, trunk(encoder, samples, SMALL.frames.samples, place=100))


def test_signs_cannot_be_matched() -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="a codebook"):
        matching.quantizer_of(ContentEncoder(replace(CONFIG, code_width=0), SMALL.frames))
