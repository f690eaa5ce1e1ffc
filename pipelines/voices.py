"""Voice banks: building one from recordings of prompt speakers, and looking into one.

An index of prompts is a CSV or Parquet file with `speaker_id` and either `path` (relative to the index's folder,
which it may not leave) or the `audio` column of the data contract, and optionally `emotion`. Every speaker becomes a
voice.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from operators.schema import InputError
from pipelines.faults import told_in_one_line
from pipelines.registered import local_model

LONGEST_PROMPT = 10.0  # seconds

voices_app = typer.Typer(help="Build and inspect voice banks: the pseudo-voices that anonymized speech is given.")


@dataclass(frozen=True)
class PromptRow:
    """One recording of a prompt speaker."""

    speaker_id: str
    emotion: str
    path: Path | None
    data: bytes | None


def read_prompts(index: Path) -> list[PromptRow]:
    """Read an index of prompts.

    Raises ValueError that names the row where a column is missing or a path leaves the folder.
    """
    rows = _parquet_rows(index) if index.suffix == ".parquet" else _csv_rows(index)
    prompts = []
    for number, row in enumerate(rows, start=1):
        audio = row.get("audio") or {}
        data, path = audio.get("bytes"), audio.get("path") or row.get("path")
        if not row.get("speaker_id") or not (data or path):
            raise ValueError(f"{index}, row {number}: a prompt needs speaker_id, and path or audio")
        resolved = None
        if not data:
            resolved = (index.parent / str(path)).resolve()
            if not resolved.is_relative_to(index.parent.resolve()):
                raise ValueError(f"{index}, row {number}: the path leaves the index's folder")
        prompts.append(PromptRow(str(row["speaker_id"]), str(row.get("emotion") or ""), resolved, data))
    return prompts


def _csv_rows(index: Path) -> Iterator[dict[str, Any]]:
    with index.open(newline="") as file:
        yield from csv.DictReader(file)


def _parquet_rows(index: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(index)
    wanted = [name for name in ("speaker_id", "emotion", "path", "audio") if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=64, columns=wanted):
        yield from batch.to_pylist()


def build_voice_bank(
    index: Path,
    output: Path,
    model: Any,
    prompts_per_voice: int = 1,
    seconds: float = 10.0,
    average: bool = False,
    neutral: bool = False,
) -> tuple[int, list[str]]:
    """Build a bank of one voice a speaker; return how many there are, and why speakers were left out.

    Of each speaker the first `prompts_per_voice` usable prompts are taken, concatenated (or, with `average`, their
    embeddings averaged) and cropped to `seconds`. `neutral` takes only rows whose `emotion` is `neutral`. `model` is
    a StreamVoiceAnon.
    """
    from models.streamvoiceanon import VoiceBank

    by_speaker: dict[str, list[PromptRow]] = {}
    for row in read_prompts(index):
        rows = by_speaker.setdefault(row.speaker_id, [])
        if not neutral or row.emotion.lower() == "neutral":
            rows.append(row)
    voices, left_out = [], []
    limit = round(seconds * model.sample_rate)
    for number, (speaker, rows) in enumerate(sorted(by_speaker.items())):
        try:
            if not rows:
                raise ValueError("no neutral prompt")
            waves = usable_waves(rows, prompts_per_voice, model)
            cropped = [wave[: limit // len(waves)] for wave in waves]
            voices.append(model.make_voice(cropped, average=average, voice_id=f"voice-{number:05d}"))
        except (ValueError, OSError, RuntimeError) as error:
            left_out.append(f"{speaker}: {error}")
    if not voices:
        raise ValueError(f"{index} gives no voice: {'; '.join(left_out[:3])}")
    VoiceBank(voices).save(output)
    return len(voices), left_out


def prompt_seconds(model: Any) -> float:
    """Return how long a prompt should be: as long as the model was trained with, LONGEST_PROMPT at most."""
    frames = model.config.acoustic_lm.prompt_frames
    return min(LONGEST_PROMPT, frames * model.config.frames.seconds or LONGEST_PROMPT)


def usable_waves(rows: list[PromptRow], most: int, model: Any) -> list[Any]:
    """Return the first `most` prompts that a voice can be made of; raises what was wrong where there is none."""
    waves: list[Any] = []
    wrong: Exception | None = None
    for row in rows:
        if len(waves) == most:
            break
        try:
            wave = read_audio(row, model.sample_rate)
            model.check_prompt(wave)
            waves.append(wave)
        except (ValueError, OSError, RuntimeError) as error:
            wrong = error
    if not waves and wrong is not None:
        raise wrong
    return waves


def read_audio(row: PromptRow, sample_rate: int) -> Any:
    """Read a prompt as a float32 tensor [samples] at `sample_rate`, channels averaged."""
    import soundfile
    import soxr
    import torch

    samples, rate = soundfile.read(io.BytesIO(row.data) if row.data else row.path, dtype="float32", always_2d=True)
    return torch.from_numpy(soxr.resample(samples.mean(axis=1), rate, sample_rate)).float()


@voices_app.command("build")
@told_in_one_line
def build(
    index: Annotated[Path, typer.Argument(help="CSV or Parquet index of prompts: speaker_id, and path or audio.")],
    output: Annotated[Path, typer.Argument(help="The voice bank to write (Parquet).")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint folder, Hugging Face repository such as Plachta/StreamVoiceAnon, or models:/…; "
            "default: the embedded model."
        ),
    ] = None,
    prompts_per_voice: Annotated[int, typer.Option(min=1, help="Prompts that make a voice together.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, max=23.7, help="Length that a prompt is cropped to; default: the model's, 10 at most."),
    ] = None,
    average: Annotated[bool, typer.Option(help="Average the prompts' embeddings instead of concatenating.")] = False,
    neutral: Annotated[bool, typer.Option(help="Take only prompts labelled neutral.")] = False,
) -> None:
    """Build a voice bank, a voice for every speaker of an index."""
    from models import registry
    from models.streamvoiceanon import CheckpointError, StreamVoiceAnon

    model = local_model(model) if model else str(registry.resolve(registry.ANONYMIZER).path)
    try:
        loaded = StreamVoiceAnon.from_pretrained(model, precision="float32")  # computed once, used for long
        seconds = seconds or prompt_seconds(loaded)
        count, left_out = build_voice_bank(index, output, loaded, prompts_per_voice, seconds, average, neutral)
    except (CheckpointError, ValueError, OSError) as error:
        raise InputError(str(error)) from None
    typer.echo(f"{output}: {count} voices" + (f", {len(left_out)} speakers left out" if left_out else ""))
    for reason in left_out:
        typer.echo(f"  {reason}", err=True)


@voices_app.command("list")
@told_in_one_line
def list_voices(bank: Annotated[Path, typer.Argument(help="A voice bank.")]) -> None:
    """List the voices of a bank with the length of their prompts."""
    from models.streamvoiceanon import VoiceBank

    try:
        voices = VoiceBank.load(bank).voices
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    for voice in voices:
        typer.echo(f"{voice.voice_id}  {voice.seconds:5.1f} s")
    typer.echo(f"{len(voices)} voices")
