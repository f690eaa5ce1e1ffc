"""Training the codec: what it hears, what its losses are, who moves whom, and what is exported."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.config import build_networks
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.fsq import FiniteScalarQuantizer
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.training.audio import collate_waves
from models.streamvoiceanon.training.codec import CodecTask, CodecTaskConfig
from models.streamvoiceanon.training.discriminators import DiscriminatorConfig, Discriminators
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.spectra import SpectralDistance, SpectrumConfig
from models.streamvoiceanon.training.task import Batch

FRAMES = MINI.frames
SMALL = replace(MINI.codec, depths=(1, 1), widths=(16, 32), spectral=SpectralConfig(depth=1))
SPECTRUM = SpectrumConfig((128, 512), (10, 40))
LIGHT = DiscriminatorConfig(periods=(2, 5), windows=(256,), channels=4)


def make_task(adversarial: float = 1.0, shape: FrameConfig = FRAMES, frozen_codes: bool = False) -> CodecTask:
    codec = Codec(SMALL, shape)
    initialise(codec, seed=0)
    settings = CodecTaskConfig(
        adversarial_weight=adversarial, spectrum=SPECTRUM, discriminator=LIGHT, frozen_codes=frozen_codes
    )
    return CodecTask(codec, shape, settings)


@pytest.fixture
def batch(waves: list[np.ndarray]) -> Batch:
    return collate_waves(
        [{"wave": wave[4_000:length]} for wave, length in zip(waves, (14_000, 12_100), strict=False)], 640
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def moved(task: CodecTask, player: str, batch: Batch) -> dict[str, bool]:
    """Which players have gradients once one has asked for its losses."""
    for network in task.players.values():
        network.zero_grad()
    task.losses(player, batch, generator())["total"].backward()
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
        for name, network in task.players.items()
    }


def test_training_hears_what_inference_decodes(batch: Batch) -> None:
    """Through the rounding with a gradient, and through the codes: the same samples."""
    task = make_task()
    codec = task.players["codec"]
    assert isinstance(codec, Codec)
    samples = batch["samples"][:1, :9_600]
    with torch.no_grad():
        codes, _ = codec.encode(samples, codec.initial_encoder_state(1))
        decoded, _ = codec.decode(codes, codec.initial_decoder_state(1))
        made = task.reconstruct({"samples": samples, "lengths": torch.tensor([9_600])})
    assert torch.allclose(made.clamp(-1, 1), decoded, atol=1e-5)


@pytest.mark.parametrize(("levels", "bounds"), [((8, 5, 5, 5), 2), ((4, 4, 4, 4), 1)])
def test_the_round_trip_is_the_code_decoded_and_has_a_gradient(levels: tuple[int, ...], bounds: int) -> None:
    quantizer = FiniteScalarQuantizer(24, levels, bounds)
    x = torch.randn(50, 24, generator=generator(), requires_grad=True)
    y = quantizer.round_trip(x)
    assert torch.allclose(y, quantizer.decode(quantizer.values(quantizer.encode(x))), atol=1e-6)
    y.sum().backward()
    assert bool(x.grad.abs().sum(1).gt(0).all())


def test_a_few_steps_bring_the_loss_down(batch: Batch) -> None:
    task = make_task(adversarial=0.0)
    before = task.validate(batch)["total"]
    optimizer = torch.optim.AdamW(task.players["codec"].parameters(), lr=5e-3)
    for _ in range(25):
        optimizer.zero_grad()
        task.losses("codec", batch, generator())["total"].backward()
        optimizer.step()
    assert task.validate(batch)["total"] < 0.8 * before


def test_each_player_moves_itself_alone(batch: Batch) -> None:
    task = make_task()
    assert list(task.players) == ["discriminator", "codec"]
    assert moved(task, "discriminator", batch) == {"discriminator": True, "codec": False}
    assert moved(task, "codec", batch) == {"discriminator": False, "codec": True}


def test_without_weight_there_is_no_discriminator(batch: Batch) -> None:
    task = make_task(adversarial=0.0)
    assert list(task.players) == ["codec"]
    assert task.losses("codec", batch, generator()).keys() == {"total", "stft", "mel"}


def test_discriminators_learn_to_tell(batch: Batch) -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(LIGHT)
    real, made = batch["samples"], 0.1 * torch.randn(batch["samples"].shape)
    optimizer = torch.optim.AdamW(discriminators.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = discriminators.own_loss(real, made)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.0  # 2 is chance
    judged = discriminators.makers_losses(real, made)
    assert judged["adversarial"] > discriminators.makers_losses(real, real)["adversarial"]
    assert float(discriminators.makers_losses(real, real)["matching"].detach()) == pytest.approx(0.0, abs=1e-6)


def test_equal_waves_have_no_distance_and_unequal_ones_have_more() -> None:
    distance = SpectralDistance(16_000, SPECTRUM)
    wave = 0.1 * torch.randn(1, 8_000, generator=generator())
    far = 0.1 * torch.randn(1, 8_000, generator=torch.Generator().manual_seed(1))

    def total(other: Tensor) -> float:
        return float(sum(distance(other, wave).values()))

    assert total(wave) == pytest.approx(0.0, abs=1e-6)
    assert 0 < total(0.9 * wave) < total(0.5 * wave)
    assert total(far) > 1.0


def test_a_gain_is_heard_as_its_logarithm() -> None:
    """Half the amplitude: log-mel lower by log 2 everywhere, and the spectral convergence is one half."""
    figures = SpectralDistance(16_000, SpectrumConfig((512,), (40,)))
    wave = 0.5 * torch.randn(1, 16_000, generator=generator())
    distances = figures(0.5 * wave, wave)
    assert float(distances["mel"]) == pytest.approx(np.log(2), rel=1e-3)
    assert float(distances["stft"]) == pytest.approx(0.5 + np.log(2), rel=1e-2)


def test_a_sine_is_seen_with_its_amplitude() -> None:
    wave = 0.3 * torch.sin(2 * np.pi * 1_000 / 16_000 * torch.arange(16_000)).unsqueeze(0)
    peak = SpectralDistance(16_000, SPECTRUM).magnitude(wave, 512)[0, 20:-20].amax(1)
    assert torch.allclose(peak, torch.full_like(peak, 0.3), rtol=0.01)


def test_what_lies_past_an_utterance_is_silent(batch: Batch) -> None:
    made = make_task().reconstruct(batch)
    assert made.shape == batch["samples"].shape
    assert not bool(made[1, 8_100:].any())
    assert bool(made[1, 8_000:8_100].any())


def test_an_export_fits_the_network_that_speaks() -> None:
    exported = make_task().export()
    config = replace(MINI, codec=SMALL)
    network = build_networks(config)["codec"].state_dict()
    assert {key: value.shape for key, value in exported["codec"].items()} == {k: v.shape for k, v in network.items()}


def test_the_published_shape_trains_as_well(waves: list[np.ndarray]) -> None:
    """With the HiFi-GAN head, at 44.1 kHz and small widths."""
    shape = FrameConfig()
    codec = Codec(replace(SMALL, kernels=(3,), dilations=(1,), spectral=None), shape)
    initialise(codec, seed=0)
    task = CodecTask(codec, shape, CodecTaskConfig(adversarial_weight=0.0, spectrum=SPECTRUM))
    batch = collate_waves([{"wave": waves[0][:8_000]}], shape.samples)
    task.losses("codec", batch, generator())["total"].backward()
    assert all(p.grad is not None for p in codec.head.parameters())


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"wave": np.zeros(0, np.float32)}, "item 1: the wave is empty"),
        ({"wave": np.full(700, np.nan, np.float32)}, "item 1: .* not finite"),
        ({"wave": np.zeros(700, np.float32), "teacher": np.zeros((3, 4))}, "item 1: 3 teacher frames for 2 frames"),
    ],
)
def test_items_that_cannot_be_trained_on_are_named(item: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate_waves([{"wave": np.zeros(640, np.float32)}, item], 640)


def test_with_frozen_codes_the_decoder_learns_and_every_code_stays(batch: Batch) -> None:
    task = make_task(adversarial=0.0, frozen_codes=True)
    codec = task.players["codec"]
    assert isinstance(codec, Codec)

    def codes_and_wave() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            codes, _ = codec.encode(batch["samples"], codec.initial_encoder_state(len(batch["samples"])))
            wave, _ = codec.decode(codes, codec.initial_decoder_state(len(codes)))
        return codes, wave

    before, spoken = codes_and_wave()
    optimizer = torch.optim.AdamW([p for p in codec.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        task.losses("codec", batch, generator())["total"].backward()
        optimizer.step()
    after, otherwise = codes_and_wave()
    assert torch.equal(before, after)
    assert float((spoken - otherwise).abs().max()) > 1e-3
