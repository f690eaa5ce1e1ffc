"""Proof that each stage learns: over-fitting the sample corpus of synthetic voices, from random weights.

    python -m benchmarks.training content|codec|lm|speed --output FOLDER [--speakers 20] [--steps N] [--adversarial 1.0]

`content` trains the small shape's content encoder on some speakers and asks how much of Whisper's features its codes
tell of 4 others; `codec` trains the codec (on from what the folder holds already) on the same and lets Whisper
transcribe what it makes of both; `lm` takes what the two left in the folder, learns six utterances of one speaker by
heart, and lets Whisper transcribe what it writes greedily, as a whole and streamed. Each prints a table, and the
seconds that it took on the clock and of the processor. The loop here is a bare one; runs that matter go through
`voxveil pretrain`. `speed` trains nothing: it prints what the small shape weighs and costs on one core.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from metrics.recognition import count_errors
from models.registry import PROFILES, resolve
from models.streamvoiceanon import StreamVoiceAnon, VoiceBank
from models.streamvoiceanon.checkpoint import load_networks, save_converted
from models.streamvoiceanon.config import build_networks
from models.streamvoiceanon.shapes import MINI
from models.streamvoiceanon.training.audio import collate_waves
from models.streamvoiceanon.training.codec import CodecTask, CodecTaskConfig
from models.streamvoiceanon.training.content import ContentTask, ContentTaskConfig
from models.streamvoiceanon.training.initial import fresh_networks
from models.streamvoiceanon.training.language_model import LanguageModelTask, collate_language_model
from models.streamvoiceanon.training.task import Batch, Task
from models.streamvoiceanon.training.teachers import WhisperTeacher, to_frames
from models.whisper import Whisper

SAMPLE = Path(__file__).parents[1] / "sample" / "english"
HELD_OUT = 4  # speakers
STEPS = {"content": 1_500, "codec": 5_000, "lm": 400}
FRAME = MINI.frames.samples
RATE = MINI.frames.sample_rate
WHISPER = PROFILES["embedded"]["whisper"]


@dataclass(frozen=True)
class Utterance:
    """A recording of the sample corpus at 16 kHz, and what was said."""

    speaker: str
    text: str
    wave: NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["content", "codec", "lm", "speed"])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--speakers", type=int, default=20, help="how many to train on; 20 are 6.6 minutes of speech")
    parser.add_argument("--steps", type=int, help="0 measures what the folder holds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adversarial", type=float, default=0.0, help="weight of the codec's adversarial loss")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.output.mkdir(parents=True, exist_ok=True)
    utterances = read_sample()
    speakers = sorted({utterance.speaker for utterance in utterances})
    unseen = set(speakers[:: len(speakers) // HELD_OUT][:HELD_OUT])
    heard = [speaker for speaker in speakers if speaker not in unseen][: options.speakers]
    seen = [utterance for utterance in utterances if utterance.speaker in heard]
    held_out = [utterance for utterance in utterances if utterance.speaker in unseen]
    began, spent = time.monotonic(), time.process_time()
    steps = STEPS.get(options.stage, 0) if options.steps is None else options.steps
    print(f"{len(heard)} speakers, {sum(len(u.wave) for u in seen) / RATE / 60:.1f} minutes of speech to train on\n")
    if options.stage == "content":
        prove_content(seen, held_out, options.output, steps)
    elif options.stage == "codec":
        prove_codec(seen, held_out, options.output, steps, options.adversarial)
    elif options.stage == "speed":
        measure_speed(seen, options.output)
    else:
        prove_language_model(seen, options.output, steps)
    print(f"\n{time.monotonic() - began:.0f} s on the clock, {time.process_time() - spent:.0f} s of the processor")


def read_sample() -> list[Utterance]:
    rows = pq.read_table(SAMPLE / "index.parquet", columns=["utt_id", "speaker_id", "audio", "text"]).to_pylist()
    return [
        Utterance(row["speaker_id"], row["text"], soundfile.read(SAMPLE / row["audio"]["path"], dtype="float32")[0])
        for row in sorted(rows, key=lambda row: row["utt_id"])
    ]


def fit(task: Task, draw: Callable[[np.random.Generator], Batch], steps: int, rate: float, every: int = 100) -> None:
    """Train with AdamW, a rate that rises over 3 % of the steps and falls to nothing, and gradients clipped to 1."""
    optimizers = {
        name: torch.optim.AdamW(player.parameters(), rate, (0.8, 0.99)) for name, player in task.players.items()
    }
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    spent = time.process_time()
    for step in range(steps):
        batch = draw(random)
        for name, optimizer in optimizers.items():
            share = min(1.0, (step + 1) / (0.03 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.zero_grad()
            figures = task.losses(name, batch, generator)
            figures["total"].backward()
            torch.nn.utils.clip_grad_norm_(task.players[name].parameters(), 1.0)
            optimizer.step()
        if step % every == 0 or step == steps - 1:
            told = "  ".join(f"{name} {float(value.detach()):.3f}" for name, value in figures.items())
            print(f"step {step:5}  {time.process_time() - spent:6.0f} s  {told}", flush=True)


def crop(wave: NDArray[np.float32], frames: int, random: np.random.Generator) -> tuple[NDArray[np.float32], int]:
    """Cut `frames` whole frames out of a wave, padded where it is shorter; also return the first frame."""
    whole = len(wave) // FRAME
    first = int(random.integers(0, max(1, whole - frames + 1)))
    piece = wave[first * FRAME : (first + frames) * FRAME]
    return np.pad(piece, (0, frames * FRAME - len(piece))), first


# The stages


def prove_content(seen: Sequence[Utterance], held_out: Sequence[Utterance], output: Path, steps: int) -> None:
    """Codes that predict Whisper's features of speakers never heard, and by how much more than chance."""
    teacher = WhisperTeacher(resolve(WHISPER).path, threads=torch.get_num_threads())
    items = {part: content_items(teacher, utterances) for part, utterances in (("seen", seen), ("held out", held_out))}
    encoder = fresh_networks(MINI, seed=0)["content_encoder"]
    task = ContentTask(encoder, MINI.frames, ContentTaskConfig(teacher.width))  # type: ignore[arg-type]

    def draw(random: np.random.Generator) -> Batch:
        drawn = []
        for index in random.integers(0, len(seen), 12):
            wave, first = crop(items["seen"][index]["wave"], 50, random)
            target = items["seen"][index]["teacher"][first : first + 50]
            drawn.append({"wave": wave[: len(target) * FRAME], "teacher": target})
        return collate_waves(drawn, FRAME)

    fit(task, draw, steps, rate=2e-3)
    save_file(task.export()["content_encoder"], output / "content_encoder.safetensors")
    print(f"\n{'':10}{'explained':>12}{'shuffled':>12}{'codes used':>12}")
    for part, chosen in items.items():
        batch = collate_waves(chosen, FRAME)
        figures = task.validate(batch)
        # Chance: the same frames in another order. Equal codes would have to tell other features.
        shuffled = {**batch, "teacher": shuffled_frames(batch["teacher"], batch["lengths"])}
        chance = task.validate(shuffled)["explained"]
        print(f"{part:10}{figures['explained']:12.3f}{chance:12.3f}{figures['codes']:12.3f}")


def content_items(teacher: WhisperTeacher, utterances: Sequence[Utterance]) -> list[dict[str, NDArray]]:
    features = teacher.features([utterance.wave for utterance in utterances])
    return [
        {"wave": u.wave, "teacher": to_frames(f, teacher.rate, RATE / FRAME, -(-len(u.wave) // FRAME))}
        for u, f in zip(utterances, features, strict=True)
    ]


def shuffled_frames(teacher: Tensor, lengths: Tensor) -> Tensor:
    """Put the frames of each utterance in a random order."""
    shuffled, generator = teacher.clone(), torch.Generator().manual_seed(0)
    for i, length in enumerate(lengths.tolist()):
        frames = -(-length // FRAME)
        shuffled[i, :frames] = teacher[i, torch.randperm(frames, generator=generator)]
    return shuffled


def prove_codec(
    seen: Sequence[Utterance], held_out: Sequence[Utterance], output: Path, steps: int, adversarial: float
) -> None:
    """Speech through the codes and back that Whisper transcribes."""
    codec = fresh_networks(MINI, seed=0)["codec"]
    if (kept := output / "codec.safetensors").exists():
        codec.load_state_dict(load_file(kept))
    settings = CodecTaskConfig(adversarial_weight=adversarial)
    task = CodecTask(codec, MINI.frames, settings)  # type: ignore[arg-type]

    def draw(random: np.random.Generator) -> Batch:
        chosen = random.integers(0, len(seen), 6)
        return collate_waves([{"wave": crop(seen[i].wave, 32, random)[0]} for i in chosen], FRAME)

    fit(task, draw, steps, rate=1.5e-3)
    save_file(task.export()["codec"], output / "codec.safetensors")
    model = trained_model(output)
    print(f"\n{'':10}{'WER through the codec':>24}{'WER of the original':>24}{'mel distance':>16}")
    for part, chosen in (("seen", list(seen)[:: max(1, len(seen) // 24)]), ("held out", list(held_out))):
        originals = [utterance.wave for utterance in chosen]
        made = [
            model.decode_acoustic(model.encode_acoustic(torch.from_numpy(wave))).numpy()[: len(wave)]
            for wave in originals
        ]
        mel = task.validate(collate_waves([{"wave": wave} for wave in originals], FRAME))["mel"]
        texts = [utterance.text for utterance in chosen]
        print(f"{part:10}{word_error_rate(texts, made):24.3f}{word_error_rate(texts, originals):24.3f}{mel:16.3f}")
    write_waves(output / "codec", held_out[:4], made[:4])


def prove_language_model(seen: Sequence[Utterance], output: Path, steps: int) -> None:
    """Six utterances of one speaker by heart: a loss near zero, and greedy codes that say the right words."""
    model = trained_model(output)
    own = [utterance for utterance in seen if utterance.speaker == seen[0].speaker]
    voices = {utterance.text: model.make_voice(torch.from_numpy(utterance.wave)) for utterance in own}
    prompts = dict(zip(voices, [*list(voices)[1:], next(iter(voices))], strict=True))  # each prompted by the next
    items = []
    for utterance in own:
        prompt, source = voices[prompts[utterance.text]], voices[utterance.text]
        item = {"prompt_content": prompt.content, "prompt_acoustic": prompt.acoustic, "style": prompt.style}
        item |= {"timbre": prompt.timbre, "source_content": source.content, "source_acoustic": source.acoustic}
        items.append({name: value.numpy() for name, value in item.items()})
    task = LanguageModelTask(fresh_networks(MINI, seed=0)["acoustic_lm"])  # type: ignore[arg-type]
    batch = collate_language_model(items)
    fit(task, lambda random: batch, steps, rate=2e-3, every=20)
    figures = task.validate(batch)
    save_file(task.export()["acoustic_lm"], output / "acoustic_lm.safetensors")
    save_model(output, list(voices.values()))
    model = StreamVoiceAnon.from_pretrained(output / "model", precision="float32")
    originals, coded, written, streamed, same = [], [], [], [], []
    for utterance in own:
        wave, voice = torch.from_numpy(utterance.wave), voices[prompts[utterance.text]]
        codes = model.generate(model.encode_content(wave), voice, greedy=True)
        stream = model.open_stream(voice, greedy=True)
        streamed.append(torch.cat([*(stream.push(part) for part in wave.split(1_000)), stream.finish()]).numpy())
        kept = voices[utterance.text].acoustic
        same.append(float((codes[:, : kept.shape[1]] == kept).float().mean()))
        originals.append(utterance.wave)
        coded.append(model.decode_acoustic(kept).numpy())
        written.append(model.decode_acoustic(codes).numpy())
    texts = [utterance.text for utterance in own]
    print(f"\nloss at a delay of 2 frames: acoustic {figures['acoustic']:.4f}, content {figures['content']:.4f}")
    print(f"codes written greedily that are the right ones: {np.mean(same):.3f}")
    for name, waves in (("original", originals), ("codec", coded), ("greedy", written), ("streamed", streamed)):
        print(f"WER {name:10}{word_error_rate(texts, waves):8.3f}")
    write_waves(output / "lm", own, streamed)


def measure_speed(utterances: Sequence[Utterance], output: Path) -> None:
    """Weights, and processor seconds a second of speech, of each network and of a live stream. The median of five."""
    torch.set_num_threads(1)
    networks = fresh_networks(MINI, seed=0)
    states = {name: network.state_dict() for name, network in networks.items()}
    model = StreamVoiceAnon.from_state_dicts(states, MINI, precision="auto")
    wave = torch.from_numpy(np.concatenate([u.wave for u in utterances])[: 8 * RATE])
    voice = model.make_voice(wave[: 4 * RATE])
    content, acoustic = model.encode_content(wave), model.encode_acoustic(wave)

    def stream() -> None:
        live = model.open_stream(voice)
        for part in wave.split(FRAME):
            live.push(part)
        live.finish()

    work: dict[str, Callable[[], object]] = {
        "content encoder, offline": lambda: model.encode_content(wave),
        "language model, one utterance": lambda: model.generate(content, voice),
        "codec's decoder, offline": lambda: model.decode_acoustic(acoustic),
        "live stream, all of it": stream,
    }
    print(f"{model.parameters_held():,} weights")
    for name, network in networks.items():
        training_alone = ("decoder.model.norm.", "decoder.model.output.")
        own = [value.numel() for key, value in network.named_parameters() if not key.startswith(training_alone)]
        print(f"  {name:18}{sum(own):12,}")
    for name, run in work.items():
        spent = []
        for _ in range(5):
            start = time.process_time()
            run()
            spent.append((time.process_time() - start) / 8)
        print(f"{name:32}{np.median(spent):8.4f} s a second of speech")


def trained_model(output: Path) -> StreamVoiceAnon:
    """The networks that are in the folder; those that are not yet are random."""
    states = {name: network.state_dict() for name, network in fresh_networks(MINI, seed=0).items()}
    states |= {name: load_file(path) for name in states if (path := output / f"{name}.safetensors").exists()}
    return StreamVoiceAnon.from_state_dicts(states, MINI)


def save_model(output: Path, voices: Sequence) -> None:
    """Write the three networks as a checkpoint and the voices as a bank: what `--model` and `--voices` take."""
    networks = build_networks(MINI)
    load_networks(networks, {name: load_file(output / f"{name}.safetensors") for name in networks})
    save_converted(output / "model", networks, MINI, {})
    VoiceBank([replace(voice, voice_id=f"voice-{i}") for i, voice in enumerate(voices)]).save(output / "bank.parquet")


def word_error_rate(texts: Sequence[str], waves: Sequence[NDArray[np.float32]]) -> float:
    whisper = Whisper(resolve(WHISPER).path, threads=torch.get_num_threads())
    heard = whisper.transcribe(whisper.encode(waves))
    counts = count_errors(list(texts), heard, "en")
    return float(counts.word_errors.sum() / counts.reference_words.sum())


def write_waves(folder: Path, utterances: Sequence[Utterance], waves: Sequence[NDArray[np.float32]]) -> None:
    folder.mkdir(exist_ok=True)
    for i, (utterance, wave) in enumerate(zip(utterances, waves, strict=True)):
        soundfile.write(folder / f"{i}-original.flac", utterance.wave, RATE)
        soundfile.write(folder / f"{i}-made.flac", wave, RATE)


if __name__ == "__main__":
    main()
