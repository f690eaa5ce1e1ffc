"""An encoder that learns beside the language model that reads it: what learns, from whom, and what does not."""

from dataclasses import replace

import pytest
import torch
from tiny_small import TINY_SMALL
from torch import Tensor

from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.config import Config
from models.streamvoiceanon.content_encoder import ContentEncoder, likeliest, only, without_pitch
from models.streamvoiceanon.training.hearing import free_hearing, hear, told
from models.streamvoiceanon.training.initial import fresh_networks
from models.streamvoiceanon.training.language_model import (
    LanguageModelTask,
    LanguageModelTaskConfig,
    collate_language_model,
    language_model,
    slow_states,
)
from models.streamvoiceanon.training.matching import quantizer_of

FRAME = TINY_SMALL.frames.samples


def networks_of(config: Config) -> tuple[AcousticLM, ContentEncoder]:
    encoder = fresh_networks(config, seed=0)["content_encoder"]
    assert isinstance(encoder, ContentEncoder)
    lm, quantizer = language_model(config.acoustic_lm), quantizer_of(encoder)
    with torch.no_grad():  # random weights are so small that all that is heard is the same
        quantizer.project_in.weight.mul_(200.0)
        quantizer.codebook.weight.mul_(50.0)
        lm.embedding.weight.mul_(50.0)
        lm.decoder.model.fast_output.weight.mul_(20.0)
    return lm, encoder


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "content": torch.randint(0, 32 * 32, (2, 14), generator=generator),
        "acoustic": torch.randint(0, 256, (2, 8, 14), generator=generator),
        "prompt_lengths": torch.tensor([4, 3]),
        "lengths": torch.tensor([14, 10]),
        "style": draw(2, TINY_SMALL.acoustic_lm.style_width),
        "timbre": torch.zeros(2, 0, 0),
        "heard": 0.1 * draw(2, 10, FRAME),
    }


def task_of(**delays: int) -> LanguageModelTask:
    lm, encoder = networks_of(TINY_SMALL)
    config = LanguageModelTaskConfig(content_weight=0.0, encoder_learns=True)
    return LanguageModelTask(lm, replace(config, **delays), encoder=encoder)


def test_it_hears_in_training_what_it_hears_in_a_stream() -> None:
    _, encoder = networks_of(TINY_SMALL)
    samples = 0.1 * draw(2, 6 * FRAME)
    heard = hear(encoder, samples, None)
    content, _ = encoder(samples, encoder.initial_state(2, 6))
    assert torch.equal(likeliest(heard), likeliest(without_pitch(content, 32)))
    torch.testing.assert_close(heard[..., 1], content[..., 1])


def test_what_is_heard_takes_the_places_of_the_source_at_the_pitch_of_its_codes() -> None:
    content = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]]) * 32 + 9
    source = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.bool)
    heard = only(torch.arange(6).view(2, 3) + 20, 4)
    whole = told(content, heard, source, 32)
    expected = torch.tensor([[1, 2, 20, 21, 22], [6, 23, 24, 0, 0]]) * 32 + 9
    assert torch.equal(likeliest(whole), expected)
    torch.testing.assert_close(whole[..., 1].sum(-1), torch.ones(2, 5))


def test_what_follows_the_trunk_learns_and_trunk_and_codebook_stay() -> None:
    task = task_of()
    encoder = task.players["lm"].encoder
    task.losses("lm", batch_of(), torch.Generator().manual_seed(0))["total"].backward()
    moved = {name for name, value in encoder.named_parameters() if value.grad is not None and bool(value.grad.any())}
    assert any(name.startswith("quantizer.pre_module") for name in moved)
    assert any(name.startswith("quantizer.residual_bsq.rvqs.0.project_in") for name in moved)
    assert not any(name.startswith(("backbone", "mel")) or "codebook" in name for name in moved)
    assert set(task.export()) == {"acoustic_lm", "content_encoder"}
    assert task.export()["content_encoder"].keys() == networks_of(TINY_SMALL)[1].state_dict().keys()


def test_learning_to_hear_brings_what_is_written_nearer() -> None:
    task, batch = task_of(smallest_delay=3, largest_delay=3, validation_delay=3), batch_of()
    task.players["lm"].lm.requires_grad_(False)
    learners = [value for value in task.players["lm"].parameters() if value.requires_grad]
    before = float(task.validate(batch)["total"])
    optimizer, draws = torch.optim.AdamW(learners, lr=5e-3), torch.Generator().manual_seed(0)
    for _ in range(30):
        optimizer.zero_grad()
        task.losses("lm", batch, draws)["total"].backward()
        optimizer.step()
    assert float(task.validate(batch)["total"]) < before - 0.01


def test_what_is_said_is_heard_and_not_read_from_the_codes() -> None:
    task, batch = task_of(), batch_of()
    same = task.validate(batch)["acoustic"]
    pitched = batch["content"] % 32
    others = batch | {"content": torch.where(torch.arange(14) >= 4, 7 * 32 + pitched, batch["content"])}
    first = {name: value[:1] for name, value in batch.items()}
    assert torch.equal(
        task.validate({name: value[:1] for name, value in others.items()})["acoustic"],
        task.validate(first)["acoustic"],
    )
    assert not torch.equal(task.validate(batch | {"heard": batch["heard"].flip(1)})["acoustic"], same)


def test_a_language_model_learns_from_several_codes_that_were_stored() -> None:
    lm, encoder = networks_of(TINY_SMALL)
    content = encoder(0.1 * draw(1, 8 * FRAME), encoder.initial_state(1, 8))[0][0]
    items = [
        {
            "prompt_content": likeliest(content)[:3].numpy(),
            "prompt_acoustic": torch.zeros(8, 3).numpy(),
            "source_content": content[3:].detach().numpy(),
            "source_acoustic": torch.zeros(8, 5).numpy(),
            "style": draw(160).numpy(),
            "timbre": torch.zeros(0, 0).numpy(),
        }
    ]
    batch = collate_language_model(items)
    assert batch["content"].shape == (1, 8, 4, 2)
    assert torch.equal(likeliest(batch["content"])[0], likeliest(content))
    torch.testing.assert_close(batch["content"][0, 3:], content[3:])
    assert slow_states(lm, batch, 3)[0].shape == (1, 11, 32)


def test_who_has_no_gradients_to_learn_from_is_refused() -> None:
    one = replace(TINY_SMALL, content_encoder=replace(TINY_SMALL.content_encoder, nearest=1))
    lm, encoder = networks_of(one)
    with pytest.raises(ValueError, match="no gradients"):
        free_hearing(encoder)
    with pytest.raises(ValueError, match="none is given"):
        LanguageModelTask(lm, LanguageModelTaskConfig(encoder_learns=True))
