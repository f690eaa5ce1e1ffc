"""Train the phoneme head on synthetic speech whose phonemes are known to the frame.

    python -m pipelines.train_phones --corpus speech --output models/weights/phones_whisper_tiny.safetensors

`speech` is what `sample/make_training_speech.py` writes. One voice in ten is held out and says how often a frame's
likeliest phoneme is the one that was said. The digest of the file belongs into `models.registry.KNOWN`.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from models.phones import PhoneHead, phones_at, read_alignment
from models.registry import PROFILES, resolve
from models.streamvoiceanon.training.teachers import WhisperTeacher

EPOCHS, BATCH = 12, 16
HELD_OUT = 10  # every tenth voice
UNKNOWN = -100  # what cross-entropy ignores
Utterance = tuple[str, NDArray[np.float16], list[str | None]]  # voice, frames [n, width], phoneme of each


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with metadata.csv, audio and alignments")
    parser.add_argument("--output", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    whisper = resolve(PROFILES["embedded"]["whisper"])
    corpus = read_corpus(options.corpus, WhisperTeacher(whisper.path, options.threads))
    voices = sorted({voice for voice, _, _ in corpus})
    held_out = set(voices[::HELD_OUT])
    training = [item for item in corpus if item[0] not in held_out]
    head = fit(training)
    head.metadata = {
        "whisper": whisper.uri,
        "whisper_sha256": whisper.digests["model.bin"],
        "utterances": str(len(training)),
        "voices": str(len(voices) - len(held_out)),
    }
    print(f"{len(training)} utterances, {len(head.phones)} phonemes")
    for name, items in (("seen", training), ("held out", [item for item in corpus if item[0] in held_out])):
        right, count = agreement(head, items)
        print(f"{name:9} frames {count:7,}  right {right / max(1, count):.3f}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    head.save(options.output)
    print(f"wrote {options.output} ({options.output.stat().st_size:,} bytes)")


def read_corpus(folder: Path, whisper: WhisperTeacher) -> list[Utterance]:
    """Return the encoder's frames of every utterance that has an alignment, and the phoneme of each."""
    import soundfile
    import soxr

    corpus = []
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        alignment = folder / "alignments" / f"{row['utt_id']}.csv"
        if not alignment.exists():
            continue
        wave, rate = soundfile.read(folder / row["path"], dtype="float32")
        (frames,) = whisper.features([soxr.resample(wave, rate, whisper.sample_rate)])
        names, ends = read_alignment(alignment)
        corpus.append((row["speaker_id"], frames.astype(np.float16), phones_at(names, ends, len(frames), whisper.rate)))
    return corpus


def fit(corpus: Sequence[Utterance]) -> PhoneHead:
    """Fit a head to utterances by cross-entropy, frames between words left out."""
    frequent = Counter(phone for _, _, phones in corpus for phone in phones if phone is not None)
    every = np.concatenate([frames for _, frames, _ in corpus]).astype(np.float32)
    head = PhoneHead(every.shape[1], sorted(frequent))
    head.mean.copy_(torch.from_numpy(every.mean(0)))
    head.deviation.copy_(torch.from_numpy(every.std(0) + 1e-6))
    number = {phone: place for place, phone in enumerate(head.phones)}
    items = [
        (torch.from_numpy(frames), torch.tensor([UNKNOWN if p is None else number[p] for p in phones]))
        for _, frames, phones in corpus
    ]
    steps = EPOCHS * -(-len(items) // BATCH)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(items)).tolist()
        for first in range(0, len(order), BATCH):
            chosen = [items[place] for place in order[first : first + BATCH]]
            frames = nn.utils.rnn.pad_sequence([frames.float() for frames, _ in chosen], batch_first=True)
            wanted = nn.utils.rnn.pad_sequence([w for _, w in chosen], batch_first=True, padding_value=UNKNOWN)
            loss = F.cross_entropy(head(frames).flatten(0, 1), wanted.flatten(), ignore_index=UNKNOWN)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.inference_mode()
def agreement(head: PhoneHead, corpus: Sequence[Utterance]) -> tuple[int, int]:
    """Return how many frames' likeliest phoneme is the one that was said, and how many frames there are."""
    right = count = 0
    for _, frames, phones in corpus:
        best = head(torch.from_numpy(frames).float().unsqueeze(0))[0].argmax(-1).tolist()
        told = [(head.phones[place], phone) for place, phone in zip(best, phones, strict=True) if phone is not None]
        right += sum(first == second for first, second in told)
        count += len(told)
    return right, count


if __name__ == "__main__":
    main()
