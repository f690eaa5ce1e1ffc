"""Losses that hear: what they compare, what learns from them, and what does not."""

from dataclasses import replace

import pytest
import torch
from tiny_small import TINY_SMALL
from torch import Tensor

from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.config import Config
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.training.codec import CodecTask, CodecTaskConfig
from models.streamvoiceanon.training.initial import fresh_networks
from models.streamvoiceanon.training.language_model import (
    LanguageModelTask,
    LanguageModelTaskConfig,
    draw_stretches,
)
from models.streamvoiceanon.training.listening import Listener, Loudspeaker

FRAME = TINY_SMALL.frames.samples
UNPITCHED = replace(TINY_SMALL, codec=replace(TINY_SMALL.codec, spectral=SpectralConfig(depth=1)))
CHOOSING = replace(TINY_SMALL, acoustic_lm=replace(TINY_SMALL.acoustic_lm, averaged=False))


class Networks:
    def __init__(self, config: Config) -> None:
        self.config = config
        networks = fresh_networks(config, seed=0)
        lm, encoder, codec = (networks[name] for name in ("acoustic_lm", "content_encoder", "codec"))
        assert isinstance(lm, AcousticLM)
        assert isinstance(encoder, ContentEncoder)
        assert isinstance(codec, Codec)
        self.lm, self.encoder, self.codec = lm.requires_grad_(True), encoder, codec
        self.listener = Listener(encoder, config.frames)
        self.loudspeaker = Loudspeaker(codec, self.listener, config.frames)


@pytest.fixture(params=[TINY_SMALL, UNPITCHED, CHOOSING], ids=["pulses", "no pulses", "codes"])
def networks(request: pytest.FixtureRequest) -> Networks:
    return Networks(request.param)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes_like(networks: Networks, *shape: int, seed: int = 0) -> Tensor:
    most = networks.config.acoustic_lm.acoustic_codes
    return torch.randint(0, most, shape, generator=torch.Generator().manual_seed(seed))


def test_a_listener_hears_no_difference_between_a_wave_and_itself() -> None:
    listener = Networks(TINY_SMALL).listener
    wave, other = 0.1 * draw(2, 6 * FRAME), 0.1 * draw(2, 6 * FRAME, seed=1)
    assert float(listener.distance(wave, wave)) == 0.0
    nearer = listener.distance(wave + 0.01 * other, wave)
    assert 0.0 < float(nearer) < float(listener.distance(other, wave))


def test_who_made_a_wave_learns_and_who_listens_does_not() -> None:
    networks = Networks(TINY_SMALL)
    made = (0.1 * draw(1, 6 * FRAME)).requires_grad_(True)
    networks.listener.distance(made, 0.1 * draw(1, 6 * FRAME, seed=1)).backward()
    assert made.grad is not None
    assert bool(made.grad.any())
    assert all(parameter.grad is None for parameter in networks.encoder.parameters())


def test_what_is_written_as_wanted_sounds_as_wanted(networks: Networks) -> None:
    lm, hidden = networks.lm, draw(2, 5, 32)
    with torch.no_grad():  # so sure of its codes that their mean is they
        lm.decoder.model.fast_output.weight.mul_(1e5)
        written = lm.write_frame(hidden.flatten(0, 1), lambda logits: logits.argmax(-1), lm.fast_state(10))
    right = networks.loudspeaker(lm, hidden, written.unflatten(0, (2, 5)))
    wrong = networks.loudspeaker(lm, hidden, codes_like(networks, 2, 5, 8))
    for name in ("listening", "spectra"):
        assert float(right[name].detach()) < 1e-3 < float(wrong[name].detach()), name


def test_the_language_model_alone_learns_from_the_sound(networks: Networks) -> None:
    hidden = draw(2, 5, 32).requires_grad_(True)
    sound = networks.loudspeaker(networks.lm, hidden, codes_like(networks, 2, 5, 8))
    sound["listening"].backward()
    output = networks.lm.decoder.model.fast_output.weight.grad
    assert hidden.grad is not None
    assert output is not None
    assert bool(hidden.grad.any(dim=2).all())
    assert bool(output.any())
    assert all(p.grad is None for network in (networks.codec, networks.encoder) for p in network.parameters())


def batch_of(networks: Networks) -> dict[str, Tensor]:
    config = networks.config
    return {
        "content": torch.randint(0, 32 * 32, (2, 14), generator=torch.Generator().manual_seed(1)),
        "acoustic": codes_like(networks, 2, 8, 14, seed=2),
        "prompt_lengths": torch.tensor([4, 3]),
        "lengths": torch.tensor([14, 10]),
        "style": draw(2, config.acoustic_lm.style_width),
        "timbre": torch.zeros(2, 0, 0),
    }


def learn(task: LanguageModelTask, batch: dict[str, Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW([p for p in task.players["lm"].parameters() if p.requires_grad], lr=5e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        task.losses("lm", batch, draws)["total"].backward()
        optimizer.step()


def test_stretches_lie_in_the_sources_and_hang_on_the_generator(networks: Networks) -> None:
    batch = batch_of(networks)
    assert draw_stretches(batch, 40, None).tolist() == [[*range(4, 11)], [*range(3, 10)]]
    drawn = {tuple(draw_stretches(batch, 5, torch.Generator().manual_seed(seed))[:, 0].tolist()) for seed in range(200)}
    assert {first for first, _ in drawn} == {*range(4, 10)}
    assert {second for _, second in drawn} == {*range(3, 6)}


def test_listening_brings_the_sound_nearer(networks: Networks) -> None:
    config = LanguageModelTaskConfig(0.0, smallest_delay=2, largest_delay=2, listening_weight=1.0, listening_frames=6)
    task = LanguageModelTask(networks.lm, config, loudspeaker=networks.loudspeaker)
    batch = batch_of(networks)
    before = task.validate(batch)
    assert before["total"] == pytest.approx(sum(float(before[n]) for n in ("acoustic", "listening", "spectra")))
    learn(task, batch, 40)
    after = task.validate(batch)
    assert after["listening"] < 0.8 * before["listening"]
    assert after["acoustic"] < before["acoustic"]


def test_a_decoder_learns_to_speak_what_is_written(networks: Networks) -> None:
    config = LanguageModelTaskConfig(
        0.0, smallest_delay=2, largest_delay=2, listening_weight=1.0, listening_frames=6, decoder_learns=True
    )
    task = LanguageModelTask(networks.lm, config, loudspeaker=networks.loudspeaker)
    batch = batch_of(networks) | {"samples": 0.1 * draw(2, 10, FRAME)}
    begun, before = task.export()["codec"], task.validate(batch)
    told = {"pitch", "voicing"} if networks.codec.quantizer.residual_fsq.pitch is not None else set()
    heard = {"listening", "spectra"} | told
    assert heard <= before.keys()
    assert before["total"] == pytest.approx(sum(float(before[name]) for name in ("acoustic", *heard)))
    learn(task, batch, 20)
    after = task.validate(batch)
    assert after["spectra"] < before["spectra"]
    moved = {key for key, value in task.export()["codec"].items() if not torch.equal(value, begun[key])}
    assert any(key.startswith("head.") for key in moved)
    assert not {key for key in moved if key.startswith(("backbone.", "quantizer.downsample.")) or "project_in" in key}
    assert all(parameter.grad is None for parameter in networks.encoder.parameters())


def test_recordings_are_heard_where_their_codes_are() -> None:
    """A drawn stretch is compared with what was recorded there: both are numbered by their place in the source."""
    networks = Networks(TINY_SMALL)
    config = LanguageModelTaskConfig(
        0.0, smallest_delay=2, largest_delay=2, listening_weight=1.0, listening_frames=4, decoder_learns=True
    )
    task = LanguageModelTask(networks.lm, config, loudspeaker=networks.loudspeaker)
    heard: list[tuple[Tensor, Tensor]] = []

    def listen(lm: AcousticLM, hidden: Tensor, wanted: Tensor, recorded: Tensor) -> dict[str, Tensor]:
        heard.append((wanted[:, :, 0], recorded[:, ::FRAME]))
        return {"listening": hidden.sum(), "spectra": hidden.sum()}

    networks.loudspeaker.forward = listen  # type: ignore[method-assign, assignment]
    batch = batch_of(networks)
    batch["acoustic"][:] = torch.arange(14) - batch["prompt_lengths"].view(2, 1, 1)
    batch["acoustic"].clamp_(min=0)
    batch["samples"] = torch.arange(10).view(1, 10, 1).expand(2, -1, FRAME).float()
    for seed in range(20):
        task.losses("lm", batch, torch.Generator().manual_seed(seed))
    for wanted, recorded in heard:
        assert torch.equal(wanted.float(), recorded)
    assert len({tuple(recorded[0].tolist()) for _, recorded in heard}) > 3


def test_the_first_frames_are_not_compared_with_a_recording(networks: Networks) -> None:
    hidden, wanted, recorded = draw(2, 8, 32), codes_like(networks, 2, 8, 8), 0.1 * draw(2, 8 * FRAME)
    changed, later = recorded.clone(), recorded.clone()
    changed[:, : 3 * FRAME] += 0.1
    later[:, -FRAME:] += 0.1
    with torch.no_grad():
        first, same, other = (
            networks.loudspeaker(networks.lm, hidden, wanted, wave)["spectra"] for wave in (recorded, changed, later)
        )
    if networks.codec.quantizer.residual_fsq.pitch is None:  # else pulses come at the recording's pitch
        assert torch.equal(first, same)
    assert not torch.isclose(first, other)


def test_the_first_codebook_may_count_more() -> None:
    networks = Networks(TINY_SMALL)
    once, twice = (
        LanguageModelTask(networks.lm, LanguageModelTaskConfig(0.0, first_codebook_weight=weight)).validate(
            batch_of(networks)
        )
        for weight in (1.0, 2.0)
    )
    assert once["total"] == pytest.approx(float(once["acoustic"]))
    first = 9 * twice["total"] - 8 * once["total"]
    assert float(first) > 0.0
    rest = LanguageModelTask(networks.lm, LanguageModelTaskConfig(0.0, first_codebook_weight=1e9)).validate(
        batch_of(networks)
    )
    assert float(first) == pytest.approx(float(rest["total"]), rel=1e-3)


def test_nobody_listens_without_ears(networks: Networks) -> None:
    with pytest.raises(ValueError, match="none is given"):
        LanguageModelTask(networks.lm, LanguageModelTaskConfig(listening_weight=1.0))
    with pytest.raises(ValueError, match="nobody listens"):
        LanguageModelTask(networks.lm, LanguageModelTaskConfig(decoder_learns=True))
    with pytest.raises(ValueError, match="no listener is given"):
        CodecTask(networks.codec, networks.config.frames, CodecTaskConfig(listening_weight=1.0))


def test_a_codec_is_compared_by_ear(networks: Networks) -> None:
    config = CodecTaskConfig(adversarial_weight=0.0, listening_weight=2.0, frozen_codes=True)
    task = CodecTask(networks.codec, networks.config.frames, config, networks.listener)
    batch = {"samples": 0.1 * draw(1, 8 * FRAME), "lengths": torch.tensor([8 * FRAME])}
    figures = task.losses("codec", batch, torch.Generator().manual_seed(0))
    assert float(figures["listening"].detach()) > 0.0
    figures["total"].backward()
    assert all(parameter.grad is None for parameter in networks.encoder.parameters())
    assert "listening" in task.validate(batch)
