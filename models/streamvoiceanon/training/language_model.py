"""Training the acoustic language model: from random weights, or fine-tuned so that it keeps the emotion.

The losses are those of Stream-Voice-Anon (arXiv 2601.13948): cross-entropy of the acoustic codes and of the content
codes, the delay drawn for every batch. To them comes the frame-level emotion distillation of StreamVoiceAnon+
(arXiv 2603.06079): a small head, which no export keeps, projects what the slow transformer holds at the acoustic
places onto the frames of an emotion teacher that heard the source, each channel at unit variance. All of them count the
source alone: speaker condition, prompt and padding are read and not predicted.

The forward pass is that of inference, a fresh state and one long chunk, so training needs no second network. With a
`Loudspeaker` what the model would write in a stretch of the source is said aloud, and has to sound as it should.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.streamvoiceanon.acoustic_lm import MAX_DELAY, AcousticLM, AcousticLMConfig
from models.streamvoiceanon.checkpoint import CheckpointError, load_networks
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.content_encoder import ContentEncoder, likeliest, only
from models.streamvoiceanon.generation import check_delay
from models.streamvoiceanon.training.hearing import free_hearing, hear, told
from models.streamvoiceanon.training.initial import initialise
from models.streamvoiceanon.training.listening import Loudspeaker
from models.streamvoiceanon.training.shared_codes import plain_state
from models.streamvoiceanon.training.speaking import freeze_codes
from models.streamvoiceanon.training.standardiser import Standardiser
from models.streamvoiceanon.training.task import Batch

ALONGSIDE = ("teacher", "samples", "heard")  # what an item may have of every frame of its source


@dataclass(frozen=True)
class LanguageModelTaskConfig:
    """What the loss is made of.

    `teacher_width` is the width of the teacher's frames; 0 trains without any. With a `distillation_weight` of 0
    the head learns what it can from hidden states that do not move for it: a probe, to compare with. Delays
    (frames) are drawn from `smallest_delay` to `largest_delay`, and `validation_delay` is that of held-out batches.
    `corrupted` is the share of past acoustic frames that are read as other frames of the batch: who writes its own
    past must live with mistakes, and does not learn little speech by heart as soon. What is predicted stays.
    `listening_weight` is that of how what it writes sounds, in `listening_frames` of each source at most; it needs
    the task's `loudspeaker`, whose decoder learns too with `decoder_learns`, from recordings. With `encoder_learns`
    the content of each source is what the task's `encoder` hears in the batch's recordings, and what follows its
    trunk learns as well (`hearing`). `first_codebook_weight` is that of the first codebook's cross-entropy beside
    the others'. `seed` draws the head's first weights.
    """

    content_weight: float = 1.0
    teacher_width: int = 0
    distillation: Literal["cosine", "mse"] = "cosine"
    distillation_weight: float = 1.0
    smallest_delay: int = 0
    largest_delay: int = MAX_DELAY
    validation_delay: int = 2
    corrupted: float = 0.0
    listening_weight: float = 0.0
    listening_frames: int = 40
    decoder_learns: bool = False
    encoder_learns: bool = False
    first_codebook_weight: float = 1.0
    seed: int = 0


class EmotionHead(nn.Module):
    """Hidden states [..., width] to teacher frames [..., teacher width]; serves training alone."""

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, teacher_width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return self.layers(hidden)


class LanguageModelPlayer(nn.Module):
    """What one optimizer moves: the language model, with distillation the head on it, a `codec` whose decoder learns to
    speak what it writes, and an `encoder` that learns to tell it what is said."""

    def __init__(
        self,
        lm: AcousticLM,
        teacher_width: int,
        seed: int,
        codec: Codec | None = None,
        encoder: ContentEncoder | None = None,
    ) -> None:
        super().__init__()
        self.emotion_head = EmotionHead(lm.config.width, teacher_width) if teacher_width else None
        self.standardiser = Standardiser(teacher_width) if teacher_width else None
        initialise(self, seed)
        self.lm = lm
        self.codec, self.encoder = codec, encoder


class LanguageModelTask:
    """Trains an `AcousticLM` that was built with its content head."""

    exported: tuple[str, ...] = ("lm",)

    def __init__(
        self,
        lm: AcousticLM,
        config: LanguageModelTaskConfig | None = None,
        loudspeaker: Loudspeaker | None = None,
        encoder: ContentEncoder | None = None,
    ) -> None:
        self.config = config or LanguageModelTaskConfig()
        if self.config.listening_weight and loudspeaker is None:
            raise ValueError("what is written can be heard through a loudspeaker, and none is given")
        if self.config.decoder_learns and not self.config.listening_weight:
            raise ValueError("a decoder learns by what is heard of it, and nobody listens")
        if self.config.encoder_learns and encoder is None:
            raise ValueError("an encoder learns beside the language model, and none is given")
        self._loudspeaker = loudspeaker
        check_delay(self.config.smallest_delay)
        check_delay(self.config.largest_delay)
        check_delay(self.config.validation_delay)
        codec = loudspeaker.codec if loudspeaker is not None and self.config.decoder_learns else None
        learner = encoder if self.config.encoder_learns else None
        player = LanguageModelPlayer(lm, self.config.teacher_width, self.config.seed, codec, learner)
        self._player = player.train().requires_grad_(True)
        if codec is not None:
            freeze_codes(codec)  # the rest of it learns, as all of the player does
        if learner is not None:
            free_hearing(learner)
        self.players: dict[str, nn.Module] = {"lm": self._player}

    def losses(self, player: str, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """ "total", "acoustic", "accuracy", and "content", the loudspeaker's and "emotion" where they have a weight, at
        a drawn delay. In "acoustic" all codebooks count the same, whatever they do in "total".
        """
        first, last = self.config.smallest_delay, self.config.largest_delay
        delay = int(torch.randint(first, last + 1, (), generator=generator))
        if self._player.standardiser is not None:
            self._player.standardiser.gather(source_frames(batch["teacher"], batch).float())
        past = corrupt(batch, self.config.corrupted, generator) if self.config.corrupted else batch
        return self._figures(batch, delay, past, generator)

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """The losses at `validation_delay`; "total" without what a probe misses."""
        figures = self._figures(batch, self.config.validation_delay, batch)
        if "emotion" in figures and not self.config.distillation_weight:
            figures["total"] = figures["total"] - figures["emotion"]
        return figures

    def export(self) -> dict[str, dict[str, Tensor]]:
        """The weights of the language model, and of codec and content encoder where they learnt, under the names of the
        published checkpoint; the emotion head is left out."""
        player = self._player
        networks = {"acoustic_lm": player.lm, "codec": player.codec, "content_encoder": player.encoder}
        return {name: plain_state(network) for name, network in networks.items() if network is not None}

    def _figures(
        self, batch: Batch, delay: int, past: Batch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        lm, encoder = self._player.lm, self._player.encoder
        source = source_mask(batch)
        if encoder is not None:
            heard = hear(encoder, batch["heard"].flatten(1), generator)
            past = {**past, "content": told(past["content"], heard, source, lm.config.pitch_codes)}
        at_content, at_acoustic = slow_states(lm, past, delay)
        frames = source.shape[1]
        writing, wanted = at_content[:, delay : delay + frames], batch["acoustic"].transpose(1, 2)
        hidden, codes = writing[source], wanted[source]
        logits = lm.frame_logits(hidden, codes)  # (frames of the source, codebooks, codes)
        surprise = F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten(), reduction="none").view_as(codes)
        figures = {"acoustic": surprise.mean(), "accuracy": (logits.argmax(-1) == codes).float().mean()}
        first = self.config.first_codebook_weight
        total = (surprise.sum() + (first - 1.0) * surprise[:, 0].sum()) / (len(codes) * (codes.shape[1] - 1.0 + first))
        if self.config.content_weight:
            figures["content"] = self._content_loss(at_content[:, :frames], likeliest(batch["content"]), source)
            total = total + self.config.content_weight * figures["content"]
        if self.config.listening_weight and self._loudspeaker is not None:
            places = draw_stretches(batch, self.config.listening_frames, generator)
            stretches = (x.gather(1, places.unsqueeze(2).expand(-1, -1, x.shape[2])) for x in (writing, wanted))
            recorded = None
            if self.config.decoder_learns:
                within = (places - batch["prompt_lengths"].unsqueeze(1)).unsqueeze(2)
                recorded = batch["samples"].gather(1, within.expand(-1, -1, batch["samples"].shape[2])).flatten(1)
            sound = self._loudspeaker.to(writing.device)(lm, *stretches, recorded)
            figures |= sound
            total = total + self.config.listening_weight * sum(sound.values())
        head, standardiser = self._player.emotion_head, self._player.standardiser
        weight = self.config.distillation_weight
        if head is not None and standardiser is not None:
            held = at_acoustic[:, delay : delay + frames][source]
            heard = standardiser(source_frames(batch["teacher"], batch).float())
            figures["emotion"] = distance(head(held if weight else held.detach()), heard, self.config.distillation)
            total = total + (weight or 1.0) * figures["emotion"]
        return {"total": total, **{key: value.detach() for key, value in figures.items()}}

    def _content_loss(self, hidden: Tensor, content: Tensor, source: Tensor) -> Tensor:
        """Each content place of the source predicts the content code that comes next, without its pitch."""
        known = source[:, :-1] & source[:, 1:]
        logits = self._player.lm.content_logits(hidden[:, :-1][known])
        if not len(logits):  # sources of a single frame each
            return hidden.sum() * 0.0
        return F.cross_entropy(logits.float(), content[:, 1:][known] // max(1, self._player.lm.config.pitch_codes))


def slow_states(lm: AcousticLM, batch: Batch, delay: int) -> tuple[Tensor, Tensor]:
    """Return the slow transformer's hidden states at content and at acoustic places, both [B, L + delay, width].

    Acoustic frame f is predicted at content place f + delay and read at acoustic place f + delay.
    """
    vectors = teacher_forced(lm, batch, delay)
    hidden, _ = lm.slow(vectors, lm.initial_state(len(vectors), vectors.shape[1]))
    condition = batch["timbre"].shape[1] + 1
    pairs = hidden[:, condition:].unflatten(1, (-1, 2))
    return pairs[:, :, 0], pairs[:, :, 1]


def teacher_forced(lm: AcousticLM, batch: Batch, delay: int) -> Tensor:
    """Lay a batch out as generation does: [B, condition + 2 (L + delay), width].

    The speaker condition; then at every step t content frame t and acoustic frame t - delay, wait-for-start vectors in
    the first `delay` acoustic places and wait-for-end vectors in the `delay` content places past the last frame.
    """
    content, acoustic = lm.embed_content(batch["content"]), lm.embed_acoustic(batch["acoustic"])
    count, _, width = content.shape
    past = torch.arange(content.shape[1] + delay, device=content.device) - batch["lengths"].unsqueeze(1)
    waiting = ((past >= 0) & (past < delay)).unsqueeze(2)
    ends = lm.decoder.wait4end_embedding(past.clamp(0, MAX_DELAY - 1))
    content = torch.where(waiting, ends, F.pad(content, (0, 0, 0, delay)))
    starts = lm.decoder.wait4start_embedding.weight[:delay].expand(count, delay, width)
    pairs = torch.stack([content, torch.cat([starts, acoustic], dim=1)], dim=2).flatten(1, 2)
    return torch.cat([lm.condition(batch["style"], batch["timbre"]), pairs], dim=1)


def corrupt(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    """Return the batch with a share of its acoustic frames taken from anywhere in it, drawn from `generator`."""
    acoustic = batch["acoustic"]  # (B, codebooks, L)
    count, _, length = acoustic.shape
    row = torch.randint(0, count, (count, length), generator=generator)
    place = (torch.rand(count, length, generator=generator) * batch["lengths"].cpu()[row]).long()
    chosen = (torch.rand(count, length, generator=generator) < share).to(acoustic.device)
    other = acoustic.transpose(1, 2)[row.to(acoustic.device), place.to(acoustic.device)].transpose(1, 2)
    return {**batch, "acoustic": torch.where(chosen.unsqueeze(1), other, acoustic)}


def draw_stretches(batch: Batch, most: int, generator: torch.Generator | None) -> Tensor:
    """Return the places [B, n] of a stretch of each source: `most` frames, or as many as the shortest source has.

    Drawn from `generator`; without one they begin where the sources do.
    """
    lengths = batch["lengths"] - batch["prompt_lengths"]
    frames = min(most, int(lengths.min()))
    spare = (lengths - frames + 1).cpu()
    begin = torch.zeros(len(spare)) if generator is None else torch.rand(len(spare), generator=generator) * spare
    begin = begin.long().to(lengths.device) + batch["prompt_lengths"]
    return begin.unsqueeze(1) + torch.arange(frames, device=lengths.device)


def source_mask(batch: Batch) -> Tensor:
    """Which frames belong to the source, neither prompt nor padding: bool [B, L]."""
    frame = torch.arange(batch["content"].shape[1], device=batch["content"].device)
    return (frame >= batch["prompt_lengths"].unsqueeze(1)) & (frame < batch["lengths"].unsqueeze(1))


def source_frames(features: Tensor, batch: Batch) -> Tensor:
    """Pick from features [B, T, D] of the source, padded, those of its frames: [frames of the source, D]."""
    frame = torch.arange(features.shape[1], device=features.device)
    return features[frame < (batch["lengths"] - batch["prompt_lengths"]).unsqueeze(1)]


def distance(features: Tensor, targets: Tensor, kind: Literal["cosine", "mse"]) -> Tensor:
    """Mean distance of features [N, D] from targets [N, D]: one minus the cosine, or the mean squared difference."""
    if kind == "cosine":
        return (1.0 - F.cosine_similarity(features.float(), targets.float(), dim=-1)).mean()
    return F.mse_loss(features.float(), targets.float())


def collate_language_model(items: Sequence[Mapping[str, NDArray]], most: int = AcousticLMConfig.max_frames) -> Batch:
    """Pad items, of `most` frames each at most, to one batch.

    An item holds `prompt_content` [P], `prompt_acoustic` [codebooks, P], `source_content` [T], `source_acoustic`
    [codebooks, T], `style` [192], `timbre` [32, 128] and, for distillation, `teacher` [T, D] at the model's frame rate,
    to listen `samples` [T, samples of a frame], and as many `heard` by an encoder that learns. The source's content may
    be codes and their shares, [T, n, 2]. The batch holds `content` [B, L] or [B, L, n, 2], `acoustic` [B, codebooks,
    L], `prompt_lengths` and `lengths` [B] (prompt and source together), `style`, `timbre`, and what is there of each
    frame of the source, [B, longest source, …]. Raises ValueError that names the item where lengths disagree, the
    source is empty, or both together pass `most`.
    """
    for i, item in enumerate(items):
        prompt, source = len(item["prompt_content"]), len(item["source_content"])
        if item["prompt_acoustic"].shape[-1] != prompt or item["source_acoustic"].shape[-1] != source:
            raise ValueError(f"item {i}: content and acoustic codes differ in length")
        if not source:
            raise ValueError(f"item {i}: the source is empty")
        if prompt + source > most:
            raise ValueError(f"item {i}: {prompt} frames of prompt and {source} of source pass the limit of {most}")
        for name in ALONGSIDE:
            if name in item and len(item[name]) != source:
                raise ValueError(f"item {i}: {len(item[name])} {name} frames for {source} frames of source")
    content = [
        _content(*(torch.from_numpy(item[key]) for key in ("prompt_content", "source_content"))) for item in items
    ]
    acoustic = [
        torch.from_numpy(np.concatenate([item["prompt_acoustic"], item["source_acoustic"]], axis=1).astype(np.int64))
        for item in items
    ]
    batch = {
        "content": nn.utils.rnn.pad_sequence(content, batch_first=True),
        "acoustic": nn.utils.rnn.pad_sequence([a.T for a in acoustic], batch_first=True).transpose(1, 2),
        "prompt_lengths": torch.tensor([len(item["prompt_content"]) for item in items]),
        "lengths": torch.tensor([len(codes) for codes in content]),
        "style": torch.from_numpy(np.stack([item["style"] for item in items]).astype(np.float32)),
        "timbre": torch.from_numpy(np.stack([item["timbre"] for item in items]).astype(np.float32)),
    }
    for name in ALONGSIDE:
        if all(name in item for item in items):
            frames = [torch.from_numpy(np.asarray(item[name], dtype=np.float32)) for item in items]
            batch[name] = nn.utils.rnn.pad_sequence(frames, batch_first=True)
    return batch


def _content(prompt: Tensor, source: Tensor) -> Tensor:
    """Join codes [P] and codes, or them and their shares, [T] or [T, n, 2], to one content."""
    whole = only(prompt.long(), source.shape[1]) if source.is_floating_point() else prompt.long()
    return torch.cat([whole, source if source.is_floating_point() else source.long()])


def language_model(config: AcousticLMConfig, weights: Mapping[str, Tensor] | None = None, seed: int = 0) -> AcousticLM:
    """Build an `AcousticLM` to be trained: with its content head, from `weights` or, without, from random ones.

    Weights of a converted checkpoint hold no content head: it then starts from random values, and nothing else does.
    Raises CheckpointError where the weights are another network's.
    """
    lm = AcousticLM(config, content_head=True)
    initialise(lm, seed)
    if weights is not None:
        head = {f"decoder.model.{key}" for key in ("norm.weight", "output.weight")}
        own = lm.state_dict()
        if len(head & weights.keys()) == 1:
            raise CheckpointError("acoustic_lm: half of the content head is missing")
        copied = {key: value.clone() for key, value in weights.items()}  # loading shares memory, training writes to it
        load_networks({"acoustic_lm": lm}, {"acoustic_lm": {**{key: own[key] for key in head}, **copied}})
    return lm
