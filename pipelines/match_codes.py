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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from models import registry
from models.phones import PhoneHead, phones_at, read_alignment
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.training.matching import (
    UNKNOWN,
    Told,
    agreement,
    delayed,
    fit,
    phones_of_codes,
    quantizer_of,
    trunk,
)
from models.streamvoiceanon.training.perturb import perturb
from models.streamvoiceanon.whisper_trunk import RING
from pipelines.training.model_folder import read_base, source_of, write_model

LAG = 1  # frames: a code of `pretrain content --config small` tells what was said so long before
SEED = 0
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
    parser.add_argument("--ways", type=int, default=3, help="in how many ways each recording is heard")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recordings = [*read_readers(options.said, options.pieces), *read_others(options.others)]
    if missing := set(options.aside) - {recording.speaker for recording in recordings}:
        raise SystemExit(f"--aside: nobody is called {', '.join(sorted(missing))}")
    if not any(recording.kind == "voice" and recording.speaker not in options.aside for recording in recordings):
        raise SystemExit(f"{options.said}: no text fits; has pipelines.align_speech moved the recordings?")
    phones = PhoneHead.load(registry.resolve(registry.PHONES).path).phones
    base = read_base(str(options.model))
    encoder = cast(ContentEncoder, base.network("content_encoder"))
    hearing = Hearing(encoder, base.config.frames, recordings, phones, options.aside, options.ways)
    heard = hear(hearing, options.threads)
    voices = heard["voice", False]
    codes = torch.cat([told.codes for told in voices])
    said = torch.cat([delayed(told.phones, LAG, len(told.codes)) for told in voices])
    knows = phones_of_codes(quantizer_of(encoder).codebook.weight, codes, said, len(phones))
    tell(encoder, heard, knows, "before")
    corpus = [told for (_, aside), several in heard.items() if not aside for told in several]
    losses = []
    for step, loss in enumerate(fit(encoder, corpus, knows, LAG, options.steps, SEED), 1):
        losses.append(loss)
        if step % TOLD_EVERY == 0 or step == options.steps:
            of_phones, of_codes = np.mean(losses[-TOLD_EVERY:], axis=0)
            print(f"step {step} of {options.steps}: phonemes {of_phones:.3f}, codes {of_codes:.3f}", flush=True)
    tell(encoder, heard, knows, "after")
    state = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    source = source_of(state, base.sources.get("content_encoder", "none"))
    write_model(options.into, base, {"content_encoder": state}, base.sources | {"content_encoder": source})
    print(f"wrote {options.into}")


def hear(hearing: "Hearing", threads: int) -> Heard:
    """Hear all recordings, in as many processes where there are several `threads`."""
    heard: Heard = {}
    recordings = hearing.recordings
    loader = DataLoader(hearing, batch_size=None, num_workers=threads if threads > 1 else 0)
    for number, (recording, told) in enumerate(zip(recordings, loader, strict=True), 1):
        own = Told(tuple(way.clone() for way in told.heard), told.codes.clone(), told.phones.clone())
        heard.setdefault((recording.kind, recording.speaker in hearing.aside), []).append(own)  # no worker's file
        if number % TOLD_EVERY == 0 or number == len(recordings):
            print(f"{number} of {len(recordings)} recordings heard", flush=True)
    return heard


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
    ) -> None:
        self.encoder, self.frames, self.recordings = encoder, frames, recordings
        self.aside, self.ways = set(aside), ways
        self.phones = {name: number for number, name in enumerate(phones)}

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, number: int) -> Told:
        recording = self.recordings[number]
        random = np.random.default_rng([SEED, number])
        wave = self.read(recording.path)
        frames = len(wave) // self.frames.samples
        waves = [wave]
        if recording.speaker not in self.aside:
            waves += [perturb(wave, self.frames.sample_rate, random) for _ in range(self.ways - 1)]
        heard = [
            trunk(self.encoder, torch.from_numpy(own), self.frames.samples, int(random.integers(RING))) for own in waves
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
        return read_wave(path, self.frames)


def read_wave(path: Path, frames: FrameConfig) -> Wave:
    """Read a wave at a model's rate, with silence up to whole frames."""
    wave, rate = soundfile.read(path, dtype="float32")
    if wave.ndim > 1:
        raise SystemExit(f"{path}: {wave.shape[1]} channels; one is needed")
    if rate != frames.sample_rate:
        wave = soxr.resample(wave, rate, frames.sample_rate)
    return np.pad(wave, (0, -len(wave) % frames.samples))


def tell(encoder: ContentEncoder, heard: Heard, knows: torch.Tensor, when: str) -> None:
    """Print how the codes of those aside agree with what is said."""
    for kind, name in (("piece", "readers"), ("moved", "readers, moved"), ("voice", "voices")):
        if aside := heard.get((kind, True)):
            right, alike = agreement(encoder, aside, knows, LAG)
            also = "" if kind == "piece" else f", {alike:.3f} of codes are the voice's"
            print(f"{when}, {name:14}: {right:.3f} of phonemes{also}", flush=True)


if __name__ == "__main__":
    main()
