"""How speech is anonymized hangs on the index.

The recogniser who hears to the end knows English alone, and emotions that are labelled are kept.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from models.streamvoiceanon import StreamVoiceAnon, VoiceBank
from models.streamvoiceanon.checkpoint import save_converted
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.initial import fresh_networks
from pipelines.anonymize import anonymizer_used, choose_anonymizer
from pipelines.config import Job, load_job
from pipelines.release import plan_job
from pipelines.survey import survey_index


@pytest.fixture
def job_of(sample_rows: list[dict[str, Any]], tmp_path: Path) -> Any:
    """A function that returns a job on an index whose rows speak the given languages by turns."""

    def make(languages: tuple[str | None, ...], emotions: tuple[str | None, ...] = (None,), **options: Any) -> Job:
        path = tmp_path / f"{'-'.join(map(str, languages))}.parquet"
        rows = [
            row | {"language": languages[n % len(languages)], "emotion": emotions[n % len(emotions)]}
            for n, row in enumerate(sample_rows[:4])
        ]
        table = pa.Table.from_pylist(rows)
        pq.write_table(table if any(languages) else table.drop_columns(["language"]), path)
        return load_job(None, {"index": str(path), "name": "n", "output": tmp_path, **options})

    return make


@pytest.mark.parametrize(
    ("languages", "assumed", "foreign"),
    [
        ((None,), None, ""),
        ((None,), "de", "de"),
        (("en", "en-US", "EN_gb "), None, ""),
        (("en",), "de", ""),  # every row says what it is
        (("en", None), "de", "de"),
        (("en", " "), None, ""),
        (("de",), None, "de"),
        (("de", "en", "pt_BR"), None, "de, pt_BR"),
    ],
)
def test_who_speaks_another_language_is_heard_as_in_a_call(
    job_of: Any, languages: tuple[str | None, ...], assumed: str | None, foreign: str
) -> None:
    job = job_of(languages, language=assumed)
    decided, used, told = choose_anonymizer(job, survey_index(job.index))
    assert decided.context == ("causal" if foreign else "auto")
    assert f"({foreign})" in told[0] if foreign else told == ()
    plan = plan_job(job, "audit")
    assert plan.job == decided, "what runs is what was decided"
    assert plan.anonymizer == used
    assert plan.anonymizer.config["context"] == ("causal" if foreign else "full")
    assert plan.told == told


@pytest.mark.parametrize(
    ("emotions", "kept"),
    [
        ((None,), "reduced"),
        (("", " "), "reduced"),
        (("unknown", "nan", "boredom"), "reduced"),
        (("neutral",), "reduced"),
        (("neutral", "neu", "Neutral "), "reduced"),
        ((None, "sadness", "", "hap"), "full"),
    ],
)
def test_emotions_that_are_labelled_are_kept(job_of: Any, emotions: tuple[str | None, ...], kept: str) -> None:
    job = job_of(("en",), emotions)
    decided, used, told = choose_anonymizer(job, survey_index(job.index))
    assert used.config["prosody"] == kept
    assert decided.prosody == ("full" if kept == "full" else "auto")
    assert ("Since emotions are labelled (happy, sad), intonation" in told[0]) if kept == "full" else told == ()
    plan = plan_job(job, "audit")
    assert (plan.job, plan.anonymizer, plan.told) == (decided, used, told)
    asked = job_of(("en",), emotions, prosody="reduced")
    assert choose_anonymizer(asked, survey_index(asked.index)) == (asked, anonymizer_used(asked), ())
    assert plan_job(asked, "audit").anonymizer.config["prosody"] == "reduced"


def test_emotion_in_another_language_is_told_twice(job_of: Any) -> None:
    job = job_of(("de",), ("sad", "angry"))
    decided, _, told = choose_anonymizer(job, survey_index(job.index))
    assert (decided.context, decided.prosody) == ("causal", "full")
    assert len(told) == 2


def test_what_was_asked_for_is_done(job_of: Any) -> None:
    for context in ("full", "causal"):
        job = job_of(("de",), context=context)
        assert choose_anonymizer(job, survey_index(job.index)) == (job, anonymizer_used(job), ())
        assert plan_job(job, "audit").anonymizer.config["context"] == context
    job = job_of(("en",), prosody="full")
    decided, used, told = choose_anonymizer(job, survey_index(job.index))
    assert (decided, used) == (job, anonymizer_used(job))
    assert "As asked for, intonation, beside the pitch" in told[0]
    other = job_of(("de",), anonymizer="mcadams")
    assert choose_anonymizer(other, survey_index(other.index)) == (other, anonymizer_used(other), ())


def test_of_a_model_that_has_one_way_only_nothing_is_said(job_of: Any, tmp_path: Path) -> None:
    save_converted(tmp_path / "model", fresh_networks(MINI, 0), MINI, {})
    model = StreamVoiceAnon.from_pretrained(tmp_path / "model")
    wave = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    VoiceBank([model.make_voice(wave, voice_id="one")]).save(tmp_path / "voices.parquet")
    job = job_of(("de",), ("sad", "angry"), model=str(tmp_path / "model"), voices=str(tmp_path / "voices.parquet"))
    plan = plan_job(job, "audit")
    assert plan.told == ()
    assert {"context", "prosody"}.isdisjoint(plan.anonymizer.config)
