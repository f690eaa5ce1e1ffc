"""How well each voice of a bank speaks, and a bank of those that speak best.

    python -m benchmarks.bank --model FOLDER --voices BANK --speech FOLDER --keep 44 --into BETTER

Every voice says the same utterances, spread over the speech, of people whom nobody will report results on (the folder
is as that of `benchmarks.choices`). Words are counted by Whisper against the text, or against what it hears in the
original; sound is DNSMOS. A voice's place is the mean of its places by either.

A prompt makes as much difference as a voice: with `--prompts 3` every three numbers in a row are one voice, prompted in
three ways, and the best is kept. Voices are numbered as `voxveil voices build` does it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.choices import Ears, read_speech, say
from metrics.recognition import count_errors
from models.streamvoiceanon import StreamVoiceAnon, VoiceBank

SPOKEN_AT_ONCE = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--voices", type=Path, required=True, help="voice bank of the model")
    parser.add_argument("--speech", type=Path, required=True, help="speech to choose by, of nobody reported on")
    parser.add_argument("--utterances", type=int, default=8, help="how many each voice says")
    parser.add_argument("--keep", type=int, help="how many voices --into gets")
    parser.add_argument("--prompts", type=int, default=1, help="how many numbers in a row are prompts of one voice")
    parser.add_argument("--into", type=Path, help="bank to write, of the best")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.prompts < 1:
        parser.error("--prompts: a voice has one at least")
    if (options.keep is None) != (options.into is None) or options.keep == 0:
        parser.error("--keep and --into go together, and one voice at least is kept")
    bank = VoiceBank.load(options.voices)
    numbers = np.arange(len(bank))
    if options.prompts > 1:
        numbers = np.array([int(voice.voice_id.rpartition("-")[2]) for voice in bank.voices])
    torch.set_num_threads(options.threads)
    ears = Ears(read_speech(options.speech), options.threads)
    misread, quality = judge(StreamVoiceAnon.from_pretrained(options.model), bank, ears, options.utterances)
    best = np.argsort(places(misread) + places(-quality), kind="stable")
    # Of each voice the place of its best prompt.
    _, firsts = np.unique(numbers[best] // options.prompts, return_index=True)
    chosen = best[np.sort(firsts)[: options.keep]]
    print("| voices | words misread | DNSMOS |\n|---|---|---|")
    for name, rows in (("all", best), ("kept", chosen), ("left out", np.setdiff1d(best, chosen))):
        if len(rows):
            print(f"| {name}, {len(rows)} | {misread[rows].mean():.3f} | {quality[rows].mean():.3f} |")
    if options.into is not None:
        VoiceBank([bank.voices[row] for row in sorted(chosen)]).save(options.into)
        print(f"\n{options.into}: {len(chosen)} voices")


def judge(
    model: StreamVoiceAnon, bank: VoiceBank, ears: Ears, utterances: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return of each voice the share of words that is misread, and its mean DNSMOS."""
    rows = np.unique(np.linspace(0, len(ears.speech.ids) - 1, utterances).round().astype(int))
    turns = [(voice, row) for voice in range(len(bank)) for row in rows]
    errors, words, sound = (np.zeros(len(bank)) for _ in range(3))
    for first in range(0, len(turns), SPOKEN_AT_ONCE):
        now = turns[first : first + SPOKEN_AT_ONCE]
        spoken = say(model, [ears.speech.waves[row] for _, row in now], [bank.voices[voice] for voice, _ in now])
        heard = ears.whisper.transcribe(ears.whisper.encode(spoken))
        counted = count_errors([ears.texts[row] for _, row in now], heard, "en")
        scores = ears.quality.score(spoken)["overall"]
        for place, (voice, _) in enumerate(now):
            errors[voice] += counted.word_errors[place]
            words[voice] += counted.reference_words[place]
            sound[voice] += scores[place] / len(rows)
    return errors / np.maximum(words, 1), sound


def places(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each value, 0 for the smallest."""
    return values.argsort(kind="stable").argsort(kind="stable")


if __name__ == "__main__":
    main()
