"""StreamVoiceAnon live, in a size for tests: one batch for all calls, the bank's voices by name, the true latency."""

import asyncio
import json
import urllib.request
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_server import LiveServer, live_server, speech_like
from test_serve_config import command
from tiny_network import VOICES, write_tiny_network

from models.streamvoiceanon.frontend import FRAME_SAMPLES, SAMPLE_RATE
from pipelines.serve import serve
from serve.client import Connection, Report, stream_wave
from serve.config import parse_config
from serve.engine import Engine, EngineSettings
from serve.service import Service

# A batch of another size may add up in another order where there is no compiler for the kernels; then 16 bits.
ROUNDING = 1e-4
STEP = 1 / 32_768


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_tiny_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def server(files: tuple[Path, Path]) -> Iterator[LiveServer]:
    model, voices = files
    with live_server(anonymizer="streamvoiceanon", model=str(model), voices=str(voices), slots=4) as server:
        yield server


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 300))


def words(seed: int, seconds: float = 0.8) -> np.ndarray:
    """Something to say at the model's rate, as 16 bits carry it."""
    wave = np.repeat(speech_like(seconds, seed), 3)[: int(seconds * SAMPLE_RATE)]
    return (np.rint(wave * 32_768) / 32_768).astype(np.float32)


def test_the_banks_voices_are_listed_and_the_latency_is_the_models(server: LiveServer) -> None:
    with urllib.request.urlopen(server.http + "/v1/about", timeout=300) as answer:
        about = json.load(answer)
    assert about["anonymizer"] == "streamvoiceanon"
    assert about["voices"] == sorted(VOICES)
    assert about["sample_rate"] == SAMPLE_RATE

    async def scene() -> dict[str, Any]:
        async with Connection(server.stream, SAMPLE_RATE, voice={"kind": "named", "name": "anna"}) as call:
            return call.ready

    ready = run(scene())
    assert ready["frame_samples"] == FRAME_SAMPLES
    # A frame until it is whole, and two frames of the model's delay.
    assert ready["latency_ms"] == pytest.approx(3 * 1e3 * FRAME_SAMPLES / SAMPLE_RATE, abs=0.1)
    assert ready["latency_ms"] < 180


def test_calls_together_in_one_batch_get_what_each_would_get_alone(server: LiveServer) -> None:
    waves = [words(seed) for seed in range(3)]

    async def scene() -> list[Report]:
        calls = (
            stream_wave(wave, SAMPLE_RATE, server.stream, voice={"kind": "named", "name": name})
            for wave, name in zip(waves, VOICES, strict=True)
        )
        return await asyncio.gather(*calls)

    model = server.service.anonymizer
    bank = {voice.voice_id: voice for voice in model.voices.voices}
    for report, wave, name in zip(run(scene()), waves, VOICES, strict=True):
        _, seed = server.service.voices.voice(name)
        (alone,) = model.anonymize([torch.from_numpy(wave)], [bank[name]], [seed])
        np.testing.assert_allclose(report.wave, alone.numpy(), atol=STEP + ROUNDING)


def test_a_call_at_another_rate_comes_back_whole(server: LiveServer) -> None:
    wave = speech_like(0.7)
    report = run(stream_wave(wave, 16_000, server.stream, voice={"kind": "seed", "seed": 3}))
    assert len(report.wave) == len(wave)
    assert np.abs(report.wave).max() > 0


def test_a_file_goes_through_the_same_model(server: LiveServer) -> None:
    import io

    import soundfile

    wave, body = words(5), io.BytesIO()
    soundfile.write(body, wave, SAMPLE_RATE, "PCM_16", format="WAV")
    request = urllib.request.Request(server.http + "/v1/anonymize?voice=clara", body.getvalue())
    with urllib.request.urlopen(request, timeout=300) as answer:
        returned, _ = soundfile.read(io.BytesIO(answer.read()), dtype="float32")
    voice, seed = server.service.voices.voice("clara")
    (alone,) = server.service.anonymizer.anonymize([torch.from_numpy(wave)], [voice], [seed])
    np.testing.assert_allclose(returned, alone.numpy(), atol=STEP + ROUNDING)


def test_who_has_a_frame_moves_with_the_others_in_one_step(server: LiveServer) -> None:
    model = server.service.anonymizer

    async def scene() -> list[int]:
        engine = Engine(model, EngineSettings(slots=4))
        moved: list[int] = []
        step = engine.model.batch.step  # type: ignore[attr-defined]

        def counted(frames: Mapping[int, torch.Tensor], *rest: Any) -> Any:
            moved.append(len(frames))
            return step(frames, *rest)

        engine.model.batch.step = counted  # type: ignore[attr-defined]
        sessions = [engine.open(model.draw_voice(seed), seed, SAMPLE_RATE) for seed in range(4)]
        for session in sessions:
            await session.feed(words(0)[:100])
        for _ in sessions:  # their voices are read, one in a step
            engine.compute(engine.collect())
        for session in sessions[:3]:
            await session.feed(words(0)[100:FRAME_SAMPLES])
        await sessions[3].feed(words(0)[100 : FRAME_SAMPLES - 1])  # not a whole frame yet
        engine.compute(engine.collect())
        return moved

    assert run(scene()) == [3]


def test_calls_that_begin_together_have_their_voices_read_one_a_step(server: LiveServer) -> None:
    model = server.service.anonymizer

    async def scene() -> tuple[list[int], list[int], list[int]]:
        engine = Engine(model, EngineSettings(slots=5))
        read: list[int] = []
        voice = engine.model.batch.open  # type: ignore[attr-defined]

        def counted(*start: Any) -> Any:
            read[-1] += 1
            return voice(*start)

        engine.model.batch.open = counted  # type: ignore[attr-defined]

        def step() -> None:
            read.append(0)
            portions = engine.collect()
            engine.deliver(portions, engine.compute(portions))

        talking, drop, *newcomers = (engine.open(model.draw_voice(seed), seed, 16_000) for seed in range(5))
        await talking.feed(speech_like(0.1))
        step()
        await drop.feed(speech_like(0.1)[:1])  # never enough for a voice to be needed: it is in nobody's way
        moved = []
        for newcomer in newcomers:
            await newcomer.feed(speech_like(0.4))
        for _ in newcomers:
            before = talking.samples_in - talking.waiting
            await talking.feed(speech_like(0.05))
            step()
            moved.append(talking.samples_in - talking.waiting - before)
        for _ in range(20):
            step()
        return read, moved, [newcomer.samples_out for newcomer in newcomers]

    read, moved, spoken = run(scene())
    assert read[:4] == [1, 1, 1, 1]
    assert sum(read) == 4
    assert min(moved) > 0, "who talks already waits for the newcomers"
    assert min(spoken) > 0


def test_a_call_that_leaves_while_a_step_is_put_together_harms_nobody(server: LiveServer) -> None:
    model = server.service.anonymizer

    async def scene() -> list[int]:
        engine = Engine(model, EngineSettings(slots=2))
        stays, leaves = (engine.open(model.draw_voice(seed), seed, SAMPLE_RATE) for seed in range(2))
        for session in (stays, leaves):
            await session.feed(words(0)[: 6 * FRAME_SAMPLES])
        portions = engine.collect()
        engine.close(leaves, "left")
        newcomer = engine.open(model.draw_voice(2), 2, SAMPLE_RATE)
        await newcomer.feed(words(0)[: 6 * FRAME_SAMPLES])
        for _ in range(4):
            engine.deliver(portions, engine.compute(portions))
            portions = engine.collect()
        assert stays.refusal is None
        return [stays.samples_out, newcomer.samples_out]

    assert min(run(scene())) >= 2 * FRAME_SAMPLES


def test_a_reused_slot_remembers_nobody(server: LiveServer) -> None:
    """Many calls over three slots, most of them given up in the middle: each is what it would be on a fresh machine."""
    model = server.service.anonymizer
    waves = [words(seed, 0.6) for seed in range(5)]
    voices = [model.draw_voice(seed) for seed in range(5)]
    alone = [model.anonymize([torch.from_numpy(wave)], [voices[i]], [i])[0].numpy() for i, wave in enumerate(waves)]

    async def scene() -> int:
        engine = Engine(model, EngineSettings(slots=3))
        generator = np.random.default_rng(0)
        live: list[tuple[Any, int, int]] = []  # session, which wave, samples read back
        calls = heard = 0
        while calls < 600:
            while len(live) < 3:
                index = int(generator.integers(5))
                live.append((engine.open(voices[index], index, SAMPLE_RATE), index, 0))
                calls += 1
            for session, index, _ in live:
                at = session.samples_in
                await session.feed(waves[index][at : at + int(generator.integers(1, 3 * FRAME_SAMPLES))])
            portions = engine.collect()
            engine.deliver(portions, engine.compute(portions))
            for turn, (session, index, read) in reversed(list(enumerate(live))):
                if session.unread:
                    part = await session.read()
                    np.testing.assert_allclose(part, alone[index][read : read + len(part)], atol=ROUNDING)
                    live[turn] = (session, index, read + len(part))
                    heard += 1
                if session.samples_in == len(waves[index]) or generator.random() < 0.2:
                    engine.close(session, "left")
                    live.pop(turn)
        return heard

    assert run(scene()) > 600


def test_a_replica_with_a_gpu_uses_it_and_asks_ray_for_it() -> None:
    from serve.app import build

    fields = {"anonymizer": "streamvoiceanon", "model": "m", "voices": "v"}
    assert parse_config(fields).anonymizer_spec.device == "cpu"
    fields["replicas"] = {"gpus": 0.5, "cpus": 2}
    assert parse_config(fields).anonymizer_spec.device == "cuda"
    options = build(fields)._bound_deployment.ray_actor_options
    assert (options["num_gpus"], options["num_cpus"]) == (0.5, 2)


def test_the_spec_of_the_file_reaches_the_loader(files: tuple[Path, Path]) -> None:
    model, voices = files
    fields = {"anonymizer": "streamvoiceanon", "model": str(model), "voices": str(voices), "alpha": 0.25}
    service = Service(parse_config(fields | {"slots": 1}))
    assert service.anonymizer.alpha == 0.25  # type: ignore[attr-defined]
    first, again = (service.voices.voice("anna")[0] for _ in range(2))
    assert torch.equal(first.style, again.style), "a named voice is always the same"
    assert not torch.equal(first.style, service.voices.bank["anna"].style), "alpha mixes noise in"  # type: ignore[index]
    service.stop()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "MODEL"], "--voices"),
        (["--model", "/nowhere", "--voices", "/nowhere"], "/nowhere"),
        (["--model", "MODEL", "--voices", "/nowhere"], "voices build"),
    ],
)
def test_weights_that_are_not_there_are_said_before_anything_starts(
    files: tuple[Path, Path], options: list[str], said: str
) -> None:
    options = [str(files[0]) if option == "MODEL" else option for option in options]
    code, output = command(serve, "--anonymizer", "streamvoiceanon", *options)
    assert code == 2
    assert said in output
