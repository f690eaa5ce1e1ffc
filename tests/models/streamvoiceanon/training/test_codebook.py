"""A codebook lies where speech is, tells what the teacher tells, and is what inference quantizes with."""

import pytest
import torch

from models.streamvoiceanon.content_encoder import NearestQuantizer
from models.streamvoiceanon.training.codebook import Taught, agreement, draw, fit_quantizer, k_means
from models.streamvoiceanon.training.initial import initialise

WIDTH, PHONES = 12, 4


@pytest.fixture
def corpus() -> list[Taught]:
    """Features that tell one of four phonemes, and a prosody of one channel, through a random map and some noise."""
    generator = torch.Generator().manual_seed(0)
    tells = torch.randn(PHONES + 1, WIDTH, generator=generator)
    corpus = []
    for length in (40, 55, 60, 80, 30, 90):
        said = torch.nn.functional.one_hot(torch.randint(PHONES, (length,), generator=generator), PHONES).float()
        teacher = torch.cat([said, torch.randn(length, 1, generator=generator)], dim=1)
        noise = 0.3 * torch.randn(length, WIDTH, generator=generator)
        corpus.append(Taught(teacher @ tells + noise, teacher))
    return corpus


def test_what_was_said_is_told_from_few_codes(corpus: list[Taught]) -> None:
    quantizer = NearestQuantizer(WIDTH, 3, 4)
    teller = fit_quantizer(quantizer, corpus, PHONES, steps=300, seed=0)
    right, bits = agreement(quantizer, teller, corpus, PHONES, quantized=True)
    assert right > 0.85, "chance is 0.25"
    assert 3.0 < bits <= 4.0


def test_equal_seeds_give_equal_quantizers(corpus: list[Taught]) -> None:
    first, second = NearestQuantizer(WIDTH, 3, 3), NearestQuantizer(WIDTH, 3, 3)
    for quantizer in (first, second):
        fit_quantizer(quantizer, corpus, PHONES, steps=5, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_code_is_the_nearest_vector_of_the_codebook() -> None:
    quantizer = NearestQuantizer(WIDTH, 3, 4)
    initialise(quantizer, 0)
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(points, quantizer.codebook.weight.detach().expand(2, -1, -1))
    assert torch.equal(quantizer.nearest(points), distances.argmin(-1))


def test_crops_of_a_draw_are_of_one_length_and_keep_their_teacher(corpus: list[Taught]) -> None:
    numbered = [Taught(t.features, torch.arange(float(len(t.features))).unsqueeze(1)) for t in corpus]
    features, teacher = draw(numbered, torch.Generator().manual_seed(0))
    assert features.shape[:2] == teacher.shape[:2]
    assert (teacher[:, 1:, 0] - teacher[:, :-1, 0] == 1).all()


def test_too_little_speech_is_refused() -> None:
    with pytest.raises(ValueError, match="10 frames of speech are too few for 16 codes"):
        k_means(torch.randn(10, 3), 16, seed=0)
