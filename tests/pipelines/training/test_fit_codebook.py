"""From signs to a codebook, and on to a language model whose tables share what its vectors have in common."""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parent))

from test_codes_feed import write_parts

from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.content_encoder import likeliest
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.training.initial import fresh_networks
from models.streamvoiceanon.training.shared_codes import CODEBOOK, plain_state, share_codes
from models.streamvoiceanon.whisper_trunk import WhisperConfig
from operators.codes import CountFrames
from operators.encode import Encode
from operators.schema import AUDIO_TYPE
from pipelines import fit_codebook
from pipelines.training.model_folder import fresh_base, read_base, write_model
from pipelines.training.run_folder import DESCRIPTION

TRUNK = WhisperConfig(width=16, heads=2, hidden=16, layers=1, window=6)
ENCODER = replace(
    SMALL.content_encoder,
    widths=(16,),
    heads=2,
    hidden=16,
    window=4,
    bits=4,
    whisper=TRUNK,
    code_width=3,
    pitch_codes=8,
)
TINY = replace(
    SMALL,
    content_encoder=ENCODER,
    acoustic_lm=replace(SMALL.acoustic_lm, content_codes=16, pitch_codes=8, slow_layers=1, fast_layers=1),
)
TINY_SIGNS = replace(TINY, content_encoder=replace(ENCODER, code_width=0, nearest=1))


@pytest.fixture
def folders(
    tmp_path: Path, few_rows: Callable[[int, int], list[dict[str, Any]]], monkeypatch: Any
) -> tuple[Path, Path]:
    """A content stage's folder of four speakers with a teacher of two phonemes, and its model by signs."""
    monkeypatch.setattr(fit_codebook, "SMALL", TINY)
    monkeypatch.setattr(fit_codebook, "SMALL_SIGNS", TINY_SIGNS)
    rows = few_rows(4, 2)
    batch: dict[str, Any] = {
        "utt_id": np.array([row["utt_id"] for row in rows], dtype=object),
        "reason": np.array([""] * len(rows), dtype=object),
        "wave": np.empty(len(rows), dtype=object),
    }
    for number, row in enumerate(rows):
        batch["wave"][number], _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    batch = Encode(16_000)(CountFrames(TINY.frames.samples)(batch))
    taught = []
    for number, row in enumerate(rows):
        frames = int(batch["frames"][number])
        loud = np.arange(frames) % 2
        teacher = np.stack([loud, 1 - loud, loud, loud, loud], axis=1).astype(np.float32)
        said = {name: row[name] for name in ("utt_id", "speaker_id", "emotion", "text")}
        own = {"frames": frames, "audio": batch["audio"][number]}
        taught.append(said | own | {"teacher": teacher.flatten().tolist(), "teacher_width": 5})
    training = tmp_path / "training"
    (training / "prepared").mkdir(parents=True)
    (training / "training").mkdir()
    asked = {"lag": 1, "validation_share": 0.05, "training": {"seed": 0}}
    (training / "training" / DESCRIPTION).write_text(json.dumps({"id": "one", "description": asked}))
    columns = {
        "frames": pa.int32(),
        "audio": AUDIO_TYPE,
        "teacher": pa.list_(pa.float32()),
        "teacher_width": pa.int32(),
    }
    write_parts(training / "prepared" / "parts", columns, taught)
    write_model(tmp_path / "signs", fresh_base(TINY_SIGNS, 0, None), {}, {"content_encoder": "by signs"})
    return training, tmp_path / "signs"


def test_the_encoder_gets_a_codebook_and_keeps_the_rest(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, signs = folders
    into = tmp_path / "small"
    arguments = ["--training", str(training), "--model", str(signs), "--into", str(into), "--steps", "3"]
    fit_codebook.main(arguments)
    assert "phoneme told from codes" in capsys.readouterr().out
    before, after = read_base(str(signs)), read_base(str(into))
    assert after.config == TINY
    assert after.sources["content_encoder"] != before.sources["content_encoder"]
    kept = [key for key in before.states["content_encoder"] if ".residual_bsq." not in key]
    assert all(torch.equal(after.states["content_encoder"][key], before.states["content_encoder"][key]) for key in kept)
    assert len(after.states["content_encoder"][CODEBOOK].unique(dim=0)) == 16

    other = after.states["codec"]
    fit_codebook.main(arguments)
    again = read_base(str(into))
    assert all(torch.equal(again.states["codec"][key], value) for key, value in other.items())
    assert again.sources == after.sources, "the same speech and seed make the same codebook"

    model = StreamVoiceAnon.from_pretrained(into)
    codes = likeliest(model.encode_content(0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))))
    assert len(codes) == 25
    assert int(codes.max()) < 16 * 8


def test_another_shape_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    training, signs = folders
    write_model(tmp_path / "small", fresh_base(TINY, 0, None), {}, {})
    into = ["--into", str(tmp_path / "new"), "--steps", "1"]
    with pytest.raises(SystemExit, match="not of the shape small-signs"):
        fit_codebook.main(["--training", str(training), "--model", str(tmp_path / "small"), *into])
    with pytest.raises(SystemExit, match="not of the shape small"):
        fit_codebook.main(["--training", str(training), "--model", str(signs), "--into", str(signs), "--steps", "1"])


def test_a_language_model_shares_what_the_vectors_of_the_codebook_have_in_common() -> None:
    networks = fresh_networks(TINY, 0)
    lm, codebook = networks["acoustic_lm"], networks["content_encoder"].state_dict()[CODEBOOK]
    assert isinstance(lm, AcousticLM)
    share_codes(lm, codebook, TINY.codec.levels, seed=0)
    assert plain_state(lm).keys() == fresh_networks(TINY, 0)["acoustic_lm"].state_dict().keys()
