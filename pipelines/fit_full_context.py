"""Let a model hear whole utterances: train what tells its codes from the frames of the embedded recogniser.

    python -m pipelines.fit_full_context --said again --pieces pieces --others disguised synthetic --aside 2436 \\
        --model own/model --into whole/model

`again` is what `sample/say_again.py` and `pipelines.align_speech` made of `pieces`: a frame of a reader's recording,
moved to the pace of the voice that says the same, shall get the point of the codebook that the model's own content
encoder gives to that voice; speech of `--others` that which it gets itself. The other networks stay. Speakers named by
`--aside` are heard by no training, and say how often the nearest code is the one wanted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models import registry
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.full_context import FullContext, FullContextConfig, check_frames, listen
from models.streamvoiceanon.training.full_context import Wanted, agreement, fit
from models.streamvoiceanon.training.matching import quantizer_of
from models.streamvoiceanon.training.perturb import perturb
from models.whisper import SAMPLE_RATE, Whisper
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

SEED = 0
LONGEST_SILENCE = 1.0  # seconds, before and after speech


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__ or "", "model folder whose content encoder has a codebook", ways=4, steps=4_000)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    readers = [recording for recording in read_readers(options.said, options.pieces) if recording.wanted is not None]
    recordings = [*readers, *read_others(options.others)]
    if not readers:
        raise SystemExit(f"{options.said}: no text fits; has pipelines.align_speech moved the recordings?")
    check_aside(options.aside, recordings)
    if all(recording.speaker in options.aside for recording in recordings):
        raise SystemExit("--aside: nobody is left to learn from")
    base = read_base(str(options.model))
    encoder = cast(ContentEncoder, base.network("content_encoder"))
    try:
        check_frames(base.config.frames.sample_rate, base.config.frames.samples)
        codebook = quantizer_of(encoder).codebook.weight
    except ValueError as fault:
        raise SystemExit(f"{options.model}: {fault}") from None
    hearing = Hearing(encoder, base.config.frames, recordings, options.aside, options.ways)
    corpus: list[Wanted] = []
    aside: dict[str, list[Wanted]] = {}
    for recording, wanted in each(hearing, recordings, options.threads):
        (aside.setdefault(recording.kind, []) if recording.speaker in hearing.aside else corpus).append(wanted)
    sizes = FullContextConfig()
    network = FullContext(sizes, encoder.config.code_width)
    losses = []
    for step, loss in enumerate(fit(network, corpus, codebook, encoder.config.spread, options.steps, SEED), 1):
        losses.append(loss)
        if step % TOLD_EVERY == 0 or step == options.steps:
            print(f"step {step} of {options.steps}: {np.mean(losses[-TOLD_EVERY:]):.3f} nats", flush=True)
    for kind, several in sorted(aside.items()):
        print(f"held out, {kind}: {agreement(network, several, codebook):.3f} of codes are the ones wanted")
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    base = replace(base, config=replace(base.config, full_context=sizes))
    came_of = source_of(state, base.sources.get("content_encoder", "none"))
    write_model(options.into, base, {"full_context": state}, base.sources | {"full_context": came_of})
    print(f"wrote {options.into}")


class Hearing(Dataset[Wanted]):
    """What the recogniser makes of each recording, heard in several `ways`, the first as it is; of those aside in one.

    All but those aside have silence before and after, as long as is drawn.
    """

    def __init__(
        self,
        encoder: ContentEncoder,
        frames: FrameConfig,
        recordings: Sequence[Recording],
        aside: Iterable[str],
        ways: int,
    ) -> None:
        self.encoder, self.frames, self.recordings = encoder, frames, recordings
        self.aside, self.ways = set(aside), ways
        self.whisper: Whisper | None = None

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, number: int) -> Wanted:
        if self.whisper is None:  # each worker has its own: it cannot be handed over
            self.whisper = Whisper(registry.resolve(registry.RECOGNISER).path)
        recording, random = self.recordings[number], np.random.default_rng([SEED, number])
        assert recording.wanted is not None
        wave, said = read_wave(recording.path, self.frames), read_wave(recording.wanted, self.frames)
        samples = min(len(wave), len(said))
        silence, ways = np.zeros(2, np.int64), 1
        if recording.speaker not in self.aside:
            silence = random.integers(0, round(LONGEST_SILENCE / self.frames.seconds), 2) * self.frames.samples
            ways = self.ways
        wave, said = np.pad(wave[:samples], silence), np.pad(said[:samples], silence)
        waves = [wave, *(perturb(wave, SAMPLE_RATE, random) for _ in range(ways - 1))]
        return Wanted(tuple(listen(self.whisper, torch.from_numpy(own)).half() for own in waves), self.points(said))

    @torch.no_grad()
    def points(self, wave: Wave) -> Tensor:
        """Return what the encoder quantizes of a wave, [n, code width]."""
        samples = torch.from_numpy(wave).unsqueeze(0)
        state = self.encoder.initial_state(1, samples.shape[1] // self.encoder.frame_samples)
        return quantizer_of(self.encoder).project(self.encoder.features(samples, state)[0])[0]


if __name__ == "__main__":
    main()
