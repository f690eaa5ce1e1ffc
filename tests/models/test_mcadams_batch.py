"""Many McAdams streams in one call give what each would give alone."""

import numpy as np
import pytest
import torch

from models.mcadams import McAdams

# A sum over a longer batch may run in another order inside numpy: rounding of float64, seen through float32.
ROUNDING = 1e-6


def noise(samples: int, seed: int) -> torch.Tensor:
    return torch.from_numpy((0.2 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32))


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100])
def test_streams_pushed_together_equal_streams_pushed_alone(sample_rate: int) -> None:
    anonymizer = McAdams(sample_rate)
    generator = np.random.default_rng(0)
    waves = [noise(sample_rate // 2, seed) for seed in range(7)]
    together = [anonymizer.open_stream(anonymizer.draw_voice(seed)) for seed in range(7)]
    alone = anonymizer.anonymize(waves, [anonymizer.draw_voice(seed) for seed in range(7)])
    positions = [0] * 7
    outputs: list[list[torch.Tensor]] = [[] for _ in range(7)]
    while any(position < len(wave) for position, wave in zip(positions, waves, strict=True)):
        sizes = [int(generator.integers(0, sample_rate // 30)) for _ in range(7)]
        chunks = [wave[at : at + size] for wave, at, size in zip(waves, positions, sizes, strict=True)]
        for output, given in zip(outputs, anonymizer.push_many(together, chunks), strict=True):
            output.append(given)
        positions = [min(len(wave), at + size) for wave, at, size in zip(waves, positions, sizes, strict=True)]
    for stream, output, expected in zip(together, outputs, alone, strict=True):
        output.append(stream.finish())
        torch.testing.assert_close(torch.cat(output), expected, atol=ROUNDING, rtol=0)


def test_a_batch_without_a_whole_frame_gives_nothing() -> None:
    anonymizer = McAdams()
    streams = [anonymizer.open_stream(anonymizer.draw_voice(seed)) for seed in range(3)]
    outputs = anonymizer.push_many(streams, [torch.zeros(size) for size in (0, 1, anonymizer.hop - 1)])
    assert [len(output) for output in outputs] == [0, 0, 0]


def test_what_another_stream_says_changes_nothing() -> None:
    anonymizer = McAdams()
    wave = noise(8_000, 1)
    voice = anonymizer.draw_voice(3)
    outputs = []
    for company in (torch.zeros(8_000), torch.ones(8_000), noise(8_000, 9)):
        streams = [anonymizer.open_stream(voice) for _ in range(2)]
        outputs.append(anonymizer.push_many(streams, [wave, company])[0])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(
    "kind", ["silence", "full-scale square", "one impulse", "denormal", "constant", "highest tone"]
)
def test_no_signal_makes_it_stumble(kind: str) -> None:
    time_axis = np.arange(16_000)
    wave = {
        "silence": np.zeros(16_000),
        "full-scale square": np.sign(np.sin(time_axis * 0.3)),
        "one impulse": (time_axis == 5_000) * 1.0,
        "denormal": np.full(16_000, 1e-40),
        "constant": np.ones(16_000),
        "highest tone": (-1.0) ** time_axis,
    }[kind]
    anonymizer = McAdams()
    streams = [anonymizer.open_stream(anonymizer.draw_voice(seed)) for seed in range(4)]
    for output in anonymizer.push_many(streams, [torch.from_numpy(wave.astype(np.float32))] * 4):
        assert torch.isfinite(output).all()
