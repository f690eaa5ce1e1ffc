"""What content codes tell: the words, which they should, and the speaker, whom they should not.

    python -m benchmarks.content --model FOLDER --learn FOLDER --speech FOLDER

Both folders have a `metadata.csv` (utt_id, speaker_id, path, text), of other people each. From the first a small
convolutional network learns to spell what was said, by CTC, from the codes alone; on the second its letters are counted
against the text, once from the codes and once from the codes in another order, which is chance. The same reader on the
features of Whisper's encoder, at the rate of the codes, is how well it can be done with so much speech to learn from.
Whom the codes tell is asked of their frequencies in an utterance, compared by their cosine as an attacker compares
embeddings; GE2E on the same speech is how well that can be done.
"""

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from metrics.estimate import Estimate
from metrics.intervals import ratio_estimate
from metrics.recognition import normalize
from metrics.trials import cosine_trials, split_enrolment_trial
from metrics.verification import evaluate_verification
from models import registry, speaker
from models.streamvoiceanon import StreamVoiceAnon
from models.whisper import Encoding, Whisper

LETTERS = " abcdefghijklmnopqrstuvwxyz'0123456789"  # CTC's blank is 0, a letter its place here and one more
WIDTH, BATCH, EPOCHS, PEAK_RATE = 192, 16, 30, 2e-3


@dataclass(frozen=True)
class Speech:
    """Recordings at 16 kHz, who spoke, and what was said in lower case."""

    ids: list[str]
    speakers: list[str]
    texts: list[str]
    waves: list[NDArray[np.float32]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder of voxveil pretrain")
    parser.add_argument("--learn", type=Path, required=True, help="speech that the readers learn from")
    parser.add_argument("--speech", type=Path, required=True, help="speech of other people to measure on")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = StreamVoiceAnon.from_pretrained(options.model, precision="float32")
    whisper = Whisper(registry.resolve(registry.PROFILES["embedded"]["whisper"]).path, threads=options.threads)
    learnt, measured = read_speech(options.learn), read_speech(options.speech)
    if common := set(learnt.speakers) & set(measured.speakers):
        raise SystemExit(f"{len(common)} people are in both folders")
    codes = {speech: encode(model, part) for speech, part in (("learnt", learnt), ("measured", measured))}

    print("| letters read from | CER |\n|---|---|")
    size = 2**model.config.content_encoder.bits
    torch.manual_seed(0)
    reader = Reader(nn.Embedding(size, WIDTH))
    reader.learn(codes["learnt"], learnt.texts)
    for name, told in (("the codes", codes["measured"]), ("the codes, shuffled", shuffled(codes["measured"]))):
        print(f"| {name} | {shown(letter_errors(reader.read(told), measured))} |")
    heard = whisper_frames(model, whisper, learnt)
    torch.manual_seed(0)
    reader = Reader(nn.Linear(heard[0].shape[1], WIDTH))
    reader.learn(heard, learnt.texts)
    read = reader.read(whisper_frames(model, whisper, measured))
    print(f"| Whisper's features | {shown(letter_errors(read, measured))} |")

    encoder = speaker.load(registry.resolve(registry.PROFILES["embedded"]["speaker"]).path)
    embeddings = {
        "GE2E on the speech": encoder.embed(measured.waves),
        "frequencies of the codes": frequencies(codes["measured"], size),
    }
    print("\n| speakers recognised by | EER |\n|---|---|")
    for name, vectors in embeddings.items():
        print(f"| {name} | {shown(recognised(vectors, measured))} |")


def read_speech(folder: Path) -> Speech:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    waves = [soundfile.read(folder / row["path"], dtype="float32")[0] for row in rows]
    texts = ["".join(c for c in text if c in LETTERS) for text in normalize([row["text"] for row in rows], "en")]
    return Speech([row["utt_id"] for row in rows], [row["speaker_id"] for row in rows], texts, waves)


def encode(model: StreamVoiceAnon, speech: Speech) -> list[Tensor]:
    """What was said in each frame; a pitch that codes have is left out."""
    pitches = max(1, model.config.content_encoder.pitch_codes)
    return [model.encode_content(torch.from_numpy(wave)) // pitches for wave in speech.waves]


def whisper_frames(model: StreamVoiceAnon, whisper: Whisper, speech: Speech) -> list[Tensor]:
    """Whisper's features [frames, width], the mean of those that a frame of codes lasts."""
    times = round(50 * model.frame_samples / model.sample_rate)
    return [
        torch.from_numpy(features[: len(features) // times * times]).unflatten(0, (-1, times)).mean(1)
        for features in map(real_frames, whisper.encode(speech.waves))
    ]


def real_frames(encoding: Encoding) -> NDArray[np.float32]:
    """The frames of all windows that cover audio."""
    parts = zip(encoding.windows, encoding.frames, strict=True)
    return np.concatenate([window[:count] for window, count in parts]).astype(np.float32)


class Reader(nn.Module):
    """Spells what was said: convolutions, over what `first` makes of codes or features."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 7, padding="same", dilation=d) for d in (1, 1, 2, 4))
        self.last = nn.Linear(WIDTH, len(LETTERS) + 1)

    def forward(self, items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Map items [n, ...] to log-probabilities [longest n, items, letters] and their lengths."""
        lengths = torch.tensor([len(item) for item in items])
        x = F.dropout(self.first(nn.utils.rnn.pad_sequence(list(items), batch_first=True)), 0.2, self.training)
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = x + F.dropout(F.gelu(layer(x)), 0.2, self.training)
        return self.last(x.transpose(1, 2)).log_softmax(-1).transpose(0, 1), lengths

    def learn(self, items: Sequence[Tensor], texts: Sequence[str]) -> None:
        steps = EPOCHS * -(-len(items) // BATCH)
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
        random = np.random.default_rng(0)
        self.train()
        for _ in range(EPOCHS):
            for rows in np.array_split(random.permutation(len(items)), -(-len(items) // BATCH)):
                likely, lengths = self([items[row] for row in rows])
                spelled = [torch.tensor([LETTERS.index(c) + 1 for c in texts[row]]) for row in rows]
                wanted = torch.tensor([len(text) for text in spelled])
                loss = F.ctc_loss(likely, torch.cat(spelled), lengths, wanted, zero_infinity=True)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        self.eval()

    @torch.inference_mode()
    def read(self, items: Sequence[Tensor]) -> list[str]:
        """The likeliest letter of each frame, repetitions and blanks left out."""
        texts = []
        for item in items:
            best = torch.unique_consecutive(self([item])[0][:, 0].argmax(-1)).tolist()
            texts.append("".join(LETTERS[place - 1] for place in best if place))
        return texts


def letter_errors(read: Sequence[str], speech: Speech) -> Estimate:
    counts = [jiwer.process_characters(wanted, found) for wanted, found in zip(speech.texts, read, strict=True)]
    errors = [count.substitutions + count.deletions + count.insertions for count in counts]
    return ratio_estimate(errors, [len(text) for text in speech.texts], speech.speakers, 0)


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
