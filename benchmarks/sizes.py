"""Sizes that cost a training each, in short and alike: frame rate and codebooks of the codec, the width of the LM.

    python -m benchmarks.sizes codec --model FOLDER --index loud --speech heldout --steps 200 --output FOLDER \\
        "" codebooks=4 codebooks=16 halvings=2
    python -m benchmarks.sizes lm --model FOLDER --index loud --speech heldout --steps 200 --output FOLDER \\
        "" width=192 width=384

Each setting trains what it changes with the same speech, steps and seed, and is compared with the first. A codec begins
with the weights of `--model` wherever they have the same shape, but every one with a quantizer that is new; then
`--speech` (metadata.csv: utt_id, speaker_id, path, emotion where it is known) goes through it and nothing else. A
language model begins from random weights and learns the codes of `--model`; what people hear of it comes with far more
steps, so it is its cross-entropy that is compared. Seconds are those of the whole network in these sizes, an utterance
of `--speech` after the other on one thread, the median of ROUNDS.

`codebooks` divide the width of the codec's features; `halvings` halve fifty frames a second; `width` is of the language
model, whose feed-forward layers are twice as wide. Trainings that are there already are resumed.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console

from benchmarks.choices import Ears, Speech, Waves, read_speech, shown
from metrics.emotion import recall_retained
from metrics.estimate import Estimate
from metrics.intervals import ratio_estimate
from metrics.recognition import count_errors
from metrics.signal import mean_estimate
from models.emotion import CLASSES
from models.streamvoiceanon import Config, StreamVoiceAnon
from models.streamvoiceanon.checkpoint import StateDict, save_converted
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.compact import compacted, expanded
from models.streamvoiceanon.contour import WINDOW
from models.streamvoiceanon.training.initial import fresh_networks
from pipelines.pretrain import pretrain
from pipelines.progress import tracking_progress
from pipelines.training.loop import read_curve
from pipelines.training.model_folder import Base, read_base, without_full_context, write_model
from pipelines.training.pretrain_job import PretrainJob, Stage, load_pretrain

SETTINGS = {"codec": ("codebooks", "halvings"), "lm": ("width",)}
NEW = "quantizer.residual_fsq."  # what no codec begins with
SEED, ROUNDS, TIMED = 0, 3, 4  # TIMED utterances

Measure = Callable[[Ears, Waves], dict[str, Estimate]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("codec", "lm"), help="which network the settings train")
    parser.add_argument("--model", required=True, help="model folder, the small shape's")
    parser.add_argument("--index", required=True, help="speech to train on")
    parser.add_argument("--speech", type=Path, required=True, help="English speech of other people, to measure on")
    parser.add_argument("--actors", type=Path, help="emotional speech of other people, to measure on")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("settings", nargs="*", default=[""], help="such as codebooks=4 or width=384")
    options = parser.parse_intermixed_args()
    base, speech = without_full_context(read_base(options.model)), read_speech(options.speech)
    measured: list[tuple[Ears, Measure]] = []
    if options.stage == "codec":
        measured = [(Ears(speech, 2), words_left)]
        if options.actors:
            actors = read_speech(options.actors)
            if not any(actors.emotions):
                parser.error(f"--actors {options.actors}: no emotion is labelled there that the judge knows")
            measured.append((Ears(actors, 2), emotion_left))
    first: PretrainJob | None = None
    wanted = [(text, read_setting(options.stage, text)) for text in options.settings or [""]]
    for text, setting in wanted:
        config = resized(base.config, setting)
        job = job_of(options, base, config, re.sub(r"[=,]", "-", text) or "as-it-is")
        if first is not None and options.stage == "lm":
            share_prepared(job, first)
        with tracking_progress(Console(stderr=True)) as track:
            track.say(f"-- {text or 'as it is'}")
            ending = pretrain(options.stage, job, (job.folder(options.stage) / "training").exists(), track)
        if ending.ended != "done":
            raise RuntimeError(f"the training {text!r} ended early: {ending.ended}, {ending.detail}")
        figures = losses_of(job, options.stage)
        for ears, left in measured:
            codec = cast(Codec, read_base(str(job.model)).network("codec"))
            figures |= {name: shown(figure) for name, figure in left(ears, spoken(codec, ears.speech, config)).items()}
        seconds = seconds_of(config, speech)
        if first is None:
            first, first_seconds = job, seconds
            print(f"| sizes | {' | '.join(figures)} | time |\n|{'---|' * (len(figures) + 2)}")
        cells = " | ".join((*figures.values(), f"{seconds / first_seconds:.2f}"))
        print(f"| {text or 'as it is'} | {cells} |", flush=True)


def read_setting(stage: Stage, text: str) -> dict[str, int]:
    setting = {name: int(value) for name, _, value in (part.partition("=") for part in text.split(",") if part)}
    if unknown := set(setting) - set(SETTINGS[stage]):
        raise SystemExit(f"{', '.join(unknown)}: no size of {stage}'s; there are {', '.join(SETTINGS[stage])}")
    return setting


def resized(config: Config, setting: Mapping[str, int]) -> Config:
    """Return the configuration with other sizes."""
    books, width = setting.get("codebooks", config.codec.codebooks), setting.get("width", config.acoustic_lm.width)
    if config.codec.widths[-1] % books:
        raise SystemExit(f"codebooks={books}: it has to divide {config.codec.widths[-1]}")
    frames = replace(config.frames, halvings=setting.get("halvings", config.frames.halvings))
    ratio = frames.seconds / config.frames.seconds
    lm = replace(
        config.acoustic_lm,
        codebooks=books,
        width=width,
        hidden=2 * width,
        prompt_frames=round(config.acoustic_lm.prompt_frames / ratio),
        max_frames=round(config.acoustic_lm.max_frames / ratio),
    )
    encoder = config.content_encoder
    if frames.samples > WINDOW:  # no contour is heard in such frames, nor is it for a codec to say
        encoder, lm = replace(encoder, pitch_codes=0), replace(lm, pitch_codes=0)
    codec = replace(config.codec, codebooks=books)
    return replace(config, content_encoder=encoder, codec=codec, acoustic_lm=lm, frames=frames)


def job_of(options: argparse.Namespace, base: Base, config: Config, name: str) -> PretrainJob:
    """Return the training of one setting, with what it begins from in its place."""
    stage: Stage = options.stage
    folder = options.output.absolute() / stage / name
    shape = json.loads(json.dumps(asdict(config)))
    fields: dict[str, Any] = {"index": options.index, "name": "sizes", "output": folder, "shape": shape}
    if stage == "codec":
        fields["start"] = str(folder / "start")
        if not (folder / "start").exists():
            save_converted(folder / "start", begun(base.states["codec"], config), config, {})
    else:
        fields |= {"draws": 1, "perturbed": 0.0, "delays": (config.acoustic_lm.delay,) * 2}
    job = load_pretrain(stage, "small", **fields)
    if stage == "lm" and not job.model.exists():
        fresh = fresh_networks(config, SEED)["acoustic_lm"].state_dict()
        sources = {name: source for name, source in base.sources.items() if name != "acoustic_lm"}
        write_model(job.model, replace(base, config=config, states=base.states | {"acoustic_lm": fresh}), {}, sources)
    steps = options.steps
    changed = {"steps": steps, "batch_size": options.batch, "warmup_steps": steps // 10, "average": 0.97}
    changed |= {"validate_every": steps // 2, "checkpoint_every": steps // 2, "keep": "last"}
    return job.model_copy(update={"training": job.training.model_copy(update=changed)})


def begun(codec: StateDict, config: Config) -> dict[str, torch.nn.Module]:
    """Return networks of these sizes, random but for what the codec has in the same shape, its quantizer left out."""
    networks = fresh_networks(config, SEED)
    own = networks["codec"].state_dict()
    kept = {
        name: value.float()
        for name, value in codec.items()
        if not name.startswith(NEW) and name in own and own[name].shape == value.shape
    }
    networks["codec"].load_state_dict(own | kept)
    return networks


def share_prepared(job: PretrainJob, other: PretrainJob) -> None:
    """Give a language model's training the codes that another one prepared: those of the same content and codec."""
    folder, there = job.folder("lm") / "prepared", other.folder("lm") / "prepared"
    if not folder.exists():
        shutil.copytree(there, folder, copy_function=os.link)


def losses_of(job: PretrainJob, stage: Stage) -> dict[str, str]:
    """Return the losses of held-out speakers after the last step."""
    lines = read_curve(job.folder(stage) / "training")
    told = [{name: value for name, value in line.items() if name.startswith("validation.")} for line in lines]
    last = next(line for line in reversed(told) if line)
    return {name.removeprefix("validation."): f"{value:.3f}" for name, value in last.items()}


def spoken(codec: Codec, speech: Speech, config: Config) -> Waves:
    """Return speech that went through a codec and nothing else."""
    waves = []
    for wave in speech.waves:
        frames = -(-len(wave) // config.frames.samples)
        whole = torch.zeros(1, frames * config.frames.samples)
        whole[0, : len(wave)] = torch.from_numpy(wave)
        with torch.inference_mode():
            codes, _ = codec.encode(whole, codec.initial_encoder_state(1))
            samples, _ = codec.decode(codes, codec.initial_decoder_state(1))
        waves.append(samples[0, : len(wave)].numpy())
    return waves


def words_left(ears: Ears, waves: Waves) -> dict[str, Estimate]:
    """Return how many words are misread, and how it sounds."""
    words, _ = ears.listen(waves)
    errors, speakers = count_errors(ears.texts, words, "en"), ears.speech.speakers
    return {
        "WER": ratio_estimate(errors.word_errors, errors.reference_words, speakers, 0),
        "DNSMOS": mean_estimate(ears.quality.score(waves)["overall"], speakers, 0),
    }


def emotion_left(ears: Ears, waves: Waves) -> dict[str, Estimate]:
    """Return the recall that is left of the original's."""
    _, heard = ears.listen(waves)
    labels = ears.speech.emotions
    rows = [row for row, label in enumerate(labels) if label is not None]
    truth, before, after, who = (
        [str(column[row]) for row in rows] for column in (labels, ears.emotions, heard, ears.speech.speakers)
    )
    return {"UAR kept": recall_retained(truth, before, after, CLASSES, who, 0)}


def seconds_of(config: Config, speech: Speech) -> float:
    """Return the seconds that a network of these sizes takes to speak some utterances, with random weights."""
    states = {}
    for name, network in fresh_networks(config, SEED).items():  # rounded as what ships is, which is read faster
        states[name] = expanded(compacted(network.state_dict(), dict(network.named_parameters())))
    model = StreamVoiceAnon.from_state_dicts(states, config, "auto")
    waves = [torch.from_numpy(wave) for wave in speech.waves[:TIMED]]
    voice = model.make_voice(torch.from_numpy(np.concatenate(speech.waves)[: 2 * model.sample_rate]), voice_id="one")
    threads, taken = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for wave in waves:
            model.anonymize([wave], [voice], seeds=[0])
        taken.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
