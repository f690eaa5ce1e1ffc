"""Let a content encoder hear people as it hears the synthetic voices that say the same.

    python -m pipelines.match_codes --said again --pieces pieces --aside 2436 --model own/model --into matched/model

`again` is what `sample/say_again.py` and `pipelines.align_speech` made of `pieces`. What follows the encoder's trunk is
trained anew (`models/streamvoiceanon/training/matching.py`), and its codes mean what they meant, so the other networks
stay: the model's own codes have to be those of `pretrain content --config small`, a frame late. Speakers named by
`--aside` are heard by no training, and say how often a phoneme told by a code is the one said and how often the code is
that of the voice that says the same.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch.utils.data import Dataset

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
from pipelines.training.recordings import (
    TOLD_EVERY,
    Recording,
    Wave,
    check_aside,
    each,
    parser_of,
    read_others,
    read_readers,
    read_wave,
)

LAG = 1  # frames: a code of `pretrain content --config small` tells what was said so long before
SEED = 0

Heard = dict[tuple[str, bool], list[Told]]  # by kind, and whether the speaker is aside


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__ or "", "model folder of the shape small", ways=3, steps=450)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recordings = [*read_readers(options.said, options.pieces), *read_others(options.others)]
    check_aside(options.aside, recordings)
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
    for recording, told in each(hearing, hearing.recordings, threads):
        heard.setdefault((recording.kind, recording.speaker in hearing.aside), []).append(told)
    return heard


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
        wave = read_wave(recording.path, self.frames)
        frames = len(wave) // self.frames.samples
        waves = [wave]
        if recording.speaker not in self.aside:
            waves += [perturb(wave, self.frames.sample_rate, random) for _ in range(self.ways - 1)]
        heard = [
            trunk(self.encoder, torch.from_numpy(own), self.frames.samples, int(random.integers(RING))) for own in waves
        ]
        codes, phones = (torch.full((frames,), UNKNOWN) for _ in range(2))
        if recording.wanted is not None:
            whole = self.codes(read_wave(recording.wanted, self.frames))[:frames]
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


def tell(encoder: ContentEncoder, heard: Heard, knows: torch.Tensor, when: str) -> None:
    """Print how the codes of those aside agree with what is said."""
    for kind, name in (("piece", "readers"), ("moved", "readers, moved"), ("voice", "voices")):
        if aside := heard.get((kind, True)):
            right, alike = agreement(encoder, aside, knows, LAG)
            also = "" if kind == "piece" else f", {alike:.3f} of codes are the voice's"
            print(f"{when}, {name:14}: {right:.3f} of phonemes{also}", flush=True)


if __name__ == "__main__":
    main()
