"""What content codes tell: the phonemes, which they should, and the speaker, whom they should not.

    python -m benchmarks.content --model FOLDER --learn FOLDER --speech FOLDER [--context full]

Both folders have a `metadata.csv` (utt_id, speaker_id, path), of other people each; what is said of the second was
learnt from the first, by linear probes. Phonemes are those of the embedded teacher, which hears the future too, told
from the codes of REACH frames to each side: once in order, once in another order, which is chance, and once from the
features of Whisper's encoder, which is how well it can be done. Whom the codes tell is asked of their frequencies in an
utterance: compared by their cosine as an attacker compares embeddings, and by a linear map of them that learnt to tell
people apart, trained with cosine softmax. GE2E on the same speech is how well that can be done.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from metrics.estimate import Estimate
from metrics.intervals import ratio_estimate
from metrics.trials import cosine_trials, split_enrolment_trial
from metrics.verification import evaluate_verification
from models import registry, speaker
from models.phones import PhoneHead, distributions
from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon.content_encoder import likeliest
from models.streamvoiceanon.training.teachers import WhisperTeacher, to_frames

REACH = 3  # frames to each side that tell a phoneme
WIDTH, SCALE = 64, 15.0  # of the embeddings that the speaker probe makes, and of their cosines
BATCH, EPOCHS, PEAK_RATE = 16, 20, 2e-2


@dataclass(frozen=True)
class Speech:
    """Recordings at 16 kHz, and who spoke."""

    ids: list[str]
    speakers: list[str]
    waves: list[NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder of voxveil pretrain")
    parser.add_argument("--learn", type=Path, required=True, help="speech that the probes learn from")
    parser.add_argument("--speech", type=Path, required=True, help="speech of other people to measure on")
    parser.add_argument("--context", choices=("causal", "full"), default="causal", help="how utterances are heard")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = StreamVoiceAnon.from_pretrained(options.model, precision="float32", context=options.context)
    whisper = WhisperTeacher(registry.resolve(registry.PROFILES["embedded"]["whisper"]).path, options.threads)
    phones = PhoneHead.load(registry.resolve(registry.PHONES).path)
    learnt, measured = read_speech(options.learn), read_speech(options.speech)
    if common := set(learnt.speakers) & set(measured.speakers):
        raise SystemExit(f"{len(common)} people are in both folders")
    size = 2**model.config.content_encoder.bits
    codes = [encode(model, part) for part in (learnt, measured)]
    heard = [whisper.features(part.waves) for part in (learnt, measured)]
    rate = model.sample_rate / model.frame_samples
    features, said = [], []
    for frames_of, codes_of in zip(heard, codes, strict=True):
        pairs = [(frames, len(own)) for frames, own in zip(frames_of, codes_of, strict=True)]
        features.append([torch.from_numpy(to_frames(frames, whisper.rate, rate, count)) for frames, count in pairs])
        likely = [to_frames(distributions(phones, frames), whisper.rate, rate, count) for frames, count in pairs]
        said.append([torch.from_numpy(own.argmax(1)) for own in likely])

    print("| phonemes told from | as the teacher's |\n|---|---|")
    inputs = {
        "the codes": (nn.Embedding(size, len(phones.phones) * (2 * REACH + 1)), codes),
        "the codes, shuffled": (nn.Embedding(size, len(phones.phones) * (2 * REACH + 1)), [shuffled(c) for c in codes]),
        "Whisper's features": (nn.Linear(whisper.width, len(phones.phones) * (2 * REACH + 1)), features),
    }
    for name, (first, (to_learn, to_read)) in inputs.items():
        probe = PhoneProbe(first)
        probe.learn(to_learn, said[0])
        print(f"| {name} | {shown(agreement(probe, to_read, said[1], measured))} |")

    encoder = speaker.load(registry.resolve(registry.PROFILES["embedded"]["speaker"]).path)
    often = [frequencies(own, size) for own in codes]
    embeddings: dict[str, NDArray] = {
        "GE2E on the speech": encoder.embed(measured.waves),
        "frequencies of the codes": often[1],
        "frequencies of the codes, by a linear probe": probe_speakers(often[0], learnt.speakers, often[1]),
    }
    print("\n| speakers recognised by | EER |\n|---|---|")
    for name, vectors in embeddings.items():
        print(f"| {name} | {shown(recognised(vectors, measured))} |")


def read_speech(folder: Path) -> Speech:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    waves = [soundfile.read(folder / row["path"], dtype="float32")[0] for row in rows]
    return Speech([row["utt_id"] for row in rows], [row["speaker_id"] for row in rows], waves)


def encode(model: StreamVoiceAnon, speech: Speech) -> list[Tensor]:
    """What was said in each frame, the likeliest code; a pitch that codes have is left out."""
    pitches = max(1, model.config.content_encoder.pitch_codes)
    return [likeliest(model.hear(torch.from_numpy(wave))) // pitches for wave in speech.waves]


class PhoneProbe(nn.Module):
    """The logits of a frame's phoneme are the sum of what `first` makes of each of its neighbours, by their place."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first
        for weights in first.parameters():
            nn.init.zeros_(weights)  # codes that were hardly seen say nothing then, and not something at random

    def forward(self, item: Tensor) -> Tensor:
        """Map codes [n], or features [n, width], to logits [n, phones]."""
        parts = self.first(item).unflatten(-1, (2 * REACH + 1, -1))  # (n, places, phones)
        padded = F.pad(parts, (0, 0, 0, 0, REACH, REACH))
        moved = [padded[place : place + len(parts), place] for place in range(2 * REACH + 1)]
        return torch.stack(moved).sum(0)

    def learn(self, items: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        def loss(rows: NDArray[np.intp]) -> Tensor:
            return F.cross_entropy(
                torch.cat([self(items[row]) for row in rows]),
                torch.cat([wanted[row] for row in rows]),
            )

        minimise(loss, self.parameters(), len(items), decay=0.01)


@torch.inference_mode()
def agreement(probe: PhoneProbe, items: Sequence[Tensor], wanted: Sequence[Tensor], speech: Speech) -> Estimate:
    """How often the likeliest phoneme is the teacher's."""
    right = [int((probe(item).argmax(-1) == own).sum()) for item, own in zip(items, wanted, strict=True)]
    return ratio_estimate(right, [len(item) for item in items], speech.speakers, 0)


def probe_speakers(learnt: NDArray, speakers: Sequence[str], measured: NDArray) -> NDArray:
    """Embed `measured` [utterances, codes] by a linear map that tells apart the `speakers` of `learnt`."""
    numbers = torch.from_numpy(np.unique(speakers, return_inverse=True)[1])
    rows = torch.from_numpy(learnt).float()
    probe, voices = nn.Linear(rows.shape[1], WIDTH, bias=False), nn.Embedding(int(numbers.max()) + 1, WIDTH)

    def loss(group: NDArray[np.intp]) -> Tensor:
        cosines = F.normalize(probe(rows[group]), dim=1) @ F.normalize(voices.weight, dim=1).T
        return F.cross_entropy(SCALE * cosines, numbers[group])

    minimise(loss, [*probe.parameters(), *voices.parameters()], len(rows), decay=0.05)
    with torch.inference_mode():
        return probe(torch.from_numpy(measured).float()).numpy()


def minimise(
    loss: Callable[[NDArray[np.intp]], Tensor], parameters: Iterable[nn.Parameter], count: int, decay: float
) -> None:
    """Move the parameters to where the `loss` of `count` items, a batch of them by their numbers, is small."""
    groups = batches(count)
    optimizer = torch.optim.AdamW(parameters, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=len(groups))
    for rows in groups:
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()
        schedule.step()


def batches(count: int) -> list[NDArray[np.intp]]:
    """Every item once an epoch, in a shuffled order."""
    random = np.random.default_rng(0)
    split = -(-count // BATCH)
    return [rows for _ in range(EPOCHS) for rows in np.array_split(random.permutation(count), split)]


def shuffled(codes: Sequence[Tensor]) -> list[Tensor]:
    """The codes of each utterance in another order: what chance would say."""
    generator = torch.Generator().manual_seed(0)
    return [own[torch.randperm(len(own), generator=generator)] for own in codes]


def frequencies(codes: Sequence[Tensor], size: int) -> NDArray[np.float64]:
    """How much oftener or more seldom than everybody an utterance has each code: [utterances, size]."""
    counts = np.stack([np.bincount(own.numpy(), minlength=size) / len(own) for own in codes])
    return np.sqrt(counts) - np.sqrt(counts).mean(0)


def recognised(embeddings: NDArray, speech: Speech) -> Estimate:
    split = split_enrolment_trial(speech.ids, speech.speakers, 0)
    by = np.array(speech.speakers)
    trials = cosine_trials(embeddings[split.enrolment], by[split.enrolment], embeddings[split.trial], by[split.trial])
    return evaluate_verification(trials, 0)["eer"]


def shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.lower:.3f} to {estimate.upper:.3f})"


if __name__ == "__main__":
    main()
