"""Let a content encoder hear people as it hears the synthetic voices that say the same.

    python -m pipelines.match_codes --said again --pieces pieces --aside 2436 --model own/model --into matched/model

`again` is what `sample/say_again.py` and `pipelines.align_speech` made of `pieces`. What follows the encoder's trunk is
trained anew (`models/streamvoiceanon/training/matching.py`), and its codes mean what they meant, so the other networks
stay: the model's own codes have to be those of `pretrain content --config small`, a frame late. Speakers named by
`--aside` are heard by no training, and say how often a phoneme told by a code is the one said and how often the code is
that of the voice that says the same.
"""

import argparse
import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch.utils.data import DataLoader, Dataset

from models import registry
from models.phones import PhoneHead, phones_at, read_alignment
from models.streamvoiceanon import VoiceBank
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.matching import (
    UNKNOWN,
    Told,
    agreement,
    fit,
    phones_of_codes,
    quantizer_of,
    trunk,
)
from models.streamvoiceanon.training.perturb import perturb
from pipelines.training.model_folder import Base, read_base, write_model

FORMER_LAG = 1  # of the codes of `pretrain content --config small`, frames
PLACES = 3_000  # of the trunk's ring
TOLD_EVERY = 100

Wave = NDArray[np.float32]
Heard = dict[tuple[str, bool], list[Told]]  # by kind, and whether the speaker is aside


@dataclass(frozen=True)
class Recording:
    """Somebody's speech, `kind` of it: a reader's "piece", the same "moved" to the pace of the voice that says it, the
    "voice" itself, or "other" speech. `alignment` says what is said when; the codes wanted are those of `wanted`."""

    kind: str
    speaker: str
    path: Path
    alignment: Path | None
    wanted: Path | None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--said", type=Path, required=True, help="the folder of say_again.py and align_speech")
    parser.add_argument("--pieces", type=Path, required=True, help="the pieces that it says again")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="folders of speech whose codes shall stay")
    parser.add_argument("--aside", nargs="*", default=[], help="speakers of the pieces whom no training hears")
    parser.add_argument("--model", type=Path, required=True, help="model folder of the shape small")
    parser.add_argument("--into", type=Path, required=True, help="model folder to write")
    parser.add_argument("--voices", type=Path, help="voice bank of the model, whose codes come later as well")
    parser.add_argument("--lag", type=int, default=FORMER_LAG, help="a code tells what was said so many frames before")
    parser.add_argument("--ways", type=int, default=3, help="in how many ways each recording is heard")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    later = options.lag - FORMER_LAG
    if later < 0:
        raise SystemExit(f"--lag: codes tell what was said {FORMER_LAG} frame before, and cannot tell it sooner")
    if later and options.voices is None:
        raise SystemExit("--lag: the codes of the voices have to come later as well, so --voices is needed")
    bank = VoiceBank.load(options.voices) if options.voices else None
    torch.set_num_threads(options.threads)
    recordings = [*read_readers(options.said, options.pieces), *read_others(options.others)]
    known = {recording.speaker for recording in recordings}
    if missing := set(options.aside) - known:
        raise SystemExit(f"--aside: nobody is called {', '.join(sorted(missing))}")
    if not any(recording.kind == "voice" and recording.speaker not in options.aside for recording in recordings):
        raise SystemExit(f"{options.said}: no text fits; has pipelines.align_speech moved the recordings?")
    phones = PhoneHead.load(registry.resolve(registry.PHONES).path).phones
    base = read_base(str(options.model))
    encoder = encoder_of(base)
    hearing = Hearing(encoder, base.config.frames, recordings, phones, options.aside, options.ways, options.seed)
    heard: Heard = {}
    loader = DataLoader(hearing, batch_size=None, num_workers=options.threads if options.threads > 1 else 0)
    for number, (recording, told) in enumerate(zip(recordings, loader, strict=True), 1):
        own = Told(tuple(way.clone() for way in told.heard), told.codes.clone(), told.phones.clone())
        heard.setdefault((recording.kind, recording.speaker in options.aside), []).append(own)  # no worker's file
        if number % TOLD_EVERY == 0 or number == len(recordings):
            print(f"{number} of {len(recordings)} recordings heard", flush=True)
    voices = heard["voice", False]
    codes, said = (
        torch.cat([getattr(told, name)[first : len(told.codes) + first - FORMER_LAG] for told in voices])
        for name, first in (("codes", FORMER_LAG), ("phones", 0))
    )
    knows = phones_of_codes(quantizer_of(encoder).codebook.weight, codes, said, len(phones))
    tell(encoder, heard, knows, FORMER_LAG, 0, "before")
    corpus = [told for (_, aside), several in heard.items() if not aside for told in several]
    losses = []
    for step, loss in enumerate(fit(encoder, corpus, knows, options.lag, later, options.steps, options.seed), 1):
        losses.append(loss)
        if step % TOLD_EVERY == 0 or step == options.steps:
            of_phones, of_codes = np.mean(losses[-TOLD_EVERY:], axis=0)
            print(f"step {step} of {options.steps}: phonemes {of_phones:.3f}, codes {of_codes:.3f}", flush=True)
    tell(encoder, heard, knows, options.lag, later, "after")
    write(encoder, base, options.into)
    if bank is not None:
        pitches = max(1, encoder.config.pitch_codes)
        moved = [replace(voice, content=later_codes(voice.content, later, pitches)) for voice in bank.voices]
        VoiceBank(moved).save(options.into / "voices.parquet")


def encoder_of(base: Base) -> ContentEncoder:
    """Return the model's content encoder, to be heard with and trained."""
    encoder = ContentEncoder(base.config.content_encoder, base.config.frames)
    encoder.load_state_dict({name: value.float() for name, value in base.states["content_encoder"].items()})
    return encoder.eval().requires_grad_(False)


def read_readers(said: Path, pieces: Path) -> Iterator[Recording]:
    """Yield the recordings of each text that fits."""
    speakers = {row["path"]: row["speaker_id"] for row in read_table(pieces)}
    for row in read_table(said):
        name, voice = row["utt_id"], said / row["path"]
        moved, alignment = said / "heard" / f"{name}.flac", said / "alignments" / f"{name}.csv"
        if moved.exists():
            speaker = speakers[row["heard"]]
            yield Recording("piece", speaker, pieces / row["heard"], said / "told" / f"{name}.csv", None)
            yield Recording("moved", speaker, moved, alignment, voice)
            yield Recording("voice", speaker, voice, alignment, voice)


def read_others(folders: Iterable[Path]) -> Iterator[Recording]:
    for folder in folders:
        for row in read_table(folder):
            yield Recording("other", row["speaker_id"], folder / row["path"], None, folder / row["path"])


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Hearing(Dataset[Told]):
    """What the trunk makes of each recording, heard in several `ways`, the first as it is; of those aside in one."""

    def __init__(
        self,
        encoder: ContentEncoder,
        frames: FrameConfig,
        recordings: Sequence[Recording],
        phones: Sequence[str],
        aside: Sequence[str],
        ways: int,
        seed: int,
    ) -> None:
        self.encoder, self.frames, self.recordings = encoder, frames, recordings
        self.aside, self.ways, self.seed = set(aside), ways, seed
        self.phones = {name: number for number, name in enumerate(phones)}

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, number: int) -> Told:
        recording = self.recordings[number]
        random = np.random.default_rng([self.seed, number])
        wave = self.read(recording.path)
        frames = len(wave) // self.frames.samples
        waves = [wave]
        if recording.speaker not in self.aside:
            waves += [perturb(wave, self.frames.sample_rate, random) for _ in range(self.ways - 1)]
        heard = [
            trunk(self.encoder, torch.from_numpy(own), self.frames.samples, int(random.integers(PLACES)))
            for own in waves
        ]
        codes, phones = (torch.full((frames,), UNKNOWN) for _ in range(2))
        if recording.wanted is not None:
            whole = self.codes(self.read(recording.wanted))[:frames]
            codes[: len(whole)] = whole
        if recording.alignment is not None:
            said = phones_at(*read_alignment(recording.alignment), frames, 1.0 / self.frames.seconds)
            phones = torch.tensor([UNKNOWN if name is None else self.phones.get(name, UNKNOWN) for name in said])
        return Told(tuple(heard), codes, phones)

    @torch.no_grad()
    def codes(self, wave: Wave) -> torch.Tensor:
        """Return what the encoder as it is makes of a wave, codes [n] without their pitch."""
        samples = torch.from_numpy(wave).unsqueeze(0)
        state = self.encoder.initial_state(1, samples.shape[1] // self.frames.samples)
        return quantizer_of(self.encoder)(self.encoder.features(samples, state)[0])[0]

    def read(self, path: Path) -> Wave:
        """Read a wave at the model's rate, with silence up to whole frames."""
        wave, rate = soundfile.read(path, dtype="float32")
        if wave.ndim > 1:
            raise SystemExit(f"{path}: {wave.shape[1]} channels; one is needed")
        if rate != self.frames.sample_rate:
            wave = soxr.resample(wave, rate, self.frames.sample_rate)
        return np.pad(wave, (0, -len(wave) % self.frames.samples))


def tell(encoder: ContentEncoder, heard: Heard, knows: torch.Tensor, lag: int, later: int, when: str) -> None:
    """Print how the codes of those aside agree with what is said."""
    for kind, name in (("piece", "readers"), ("moved", "readers, moved"), ("voice", "voices")):
        if aside := heard.get((kind, True)):
            right, alike = agreement(encoder, aside, knows, lag, later)
            also = "" if kind == "piece" else f", {alike:.3f} of codes are the voice's"
            print(f"{when}, {name:14}: {right:.3f} of phonemes{also}", flush=True)


def later_codes(codes: torch.Tensor, frames: int, pitches: int) -> torch.Tensor:
    """Return content codes [n] so many frames later, the first again before them; their pitch stays where it is."""
    said = codes // pitches
    moved = torch.cat([said[:1].expand(min(frames, len(said))), said[: max(0, len(said) - frames)]])
    return moved * pitches + codes % pitches


def write(encoder: ContentEncoder, base: Base, into: Path) -> None:
    """Write the model with another content encoder."""
    state = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    former = base.sources.get("content_encoder", "none")
    digest = hashlib.sha256(former.encode() + save(state)).hexdigest()
    write_model(into, base, {"content_encoder": state}, base.sources | {"content_encoder": digest})
    print(f"wrote {into}")


if __name__ == "__main__":
    main()
