"""The acoustic language model: a slow transformer over time, and a fast one over the codebooks of one frame.

The slow one reads the speaker condition, then content and acoustic frames in turn; what it says at a content place is
from where the fast one writes the eight codes of the acoustic frame that follows. What is here maps tensors to tensors;
the order of a sequence, sampling and refilling are in `generation`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.streamvoiceanon import fused
from models.streamvoiceanon.linear import Linear, Table
from models.streamvoiceanon.transformer import (
    KeyValueCache,
    RMSNorm,
    Sight,
    TransformerLayer,
    TransformerState,
    new_caches,
    rotary_table,
    rotations,
    run_layers,
)

MAX_DELAY = 8  # frames that the wait embeddings cover


@dataclass(frozen=True)
class AcousticLMConfig:
    """Sizes of the published network. A `timbre_width` of 0 leaves the timbre latents out.

    With `pitch_codes` each content code is what was said times `pitch_codes`, and a pitch; they are embedded apart.
    `max_frames`: prompt and source together are at most so many frames; past it the sequence is refilled.
    `prompt_frames` are those of the longest prompt that it was trained with; 0: as long as fits. `top_p` and
    `temperature` are how codes are drawn, see `generation.sample`. With `averaged` the codec does not speak the codes
    that were drawn, but what codes mean there on average, by their probabilities. It speaks `delay` frames after what
    it reads, unless told otherwise.
    """

    content_codes: int = 8192
    acoustic_codes: int = 1000
    codebooks: int = 8
    width: int = 768
    heads: int = 12
    hidden: int = 2304
    slow_layers: int = 12
    fast_layers: int = 4
    timbre_width: int = 128
    style_width: int = 192
    max_frames: int = 768
    top_p: float = 0.7
    temperature: float = 0.7
    pitch_codes: int = 0
    prompt_frames: int = 0
    delay: int = 2
    averaged: bool = False

    @property
    def whole_content_codes(self) -> int:
        """Content codes that there are, with their pitch."""
        return self.content_codes * max(1, self.pitch_codes)

    @property
    def max_prompt_frames(self) -> int:
        """Frames of a prompt at most: two thirds, which leaves 224 source frames between two refills as published."""
        return self.max_frames * 2 // 3


class FastState:
    """What the fast transformer needs for a batch, made once and used for every frame: its caches hold one frame.

    With the CPU kernels a `writer` does all of it in one call.
    """

    def __init__(
        self, caches: tuple[KeyValueCache, ...], sights: list[Sight], writer: fused.FrameWriter | None = None
    ) -> None:
        self.caches, self.sights, self.writer = caches, sights, writer


class _Model(nn.Module):
    """The two transformers, named as in the checkpoint."""

    def __init__(self, config: AcousticLMConfig, content_head: bool) -> None:
        super().__init__()
        width = config.width
        self.codebook_embeddings = Table(config.acoustic_codes * config.codebooks, width)
        self.layers = nn.ModuleList(
            TransformerLayer(width, config.heads, config.hidden, layer_scale=False) for _ in range(config.slow_layers)
        )
        self.fast_embeddings = Table(config.acoustic_codes, width)
        self.fast_layers = nn.ModuleList(
            TransformerLayer(width, config.heads, config.hidden, layer_scale=False) for _ in range(config.fast_layers)
        )
        self.fast_norm = RMSNorm(width)
        self.fast_output = Linear(width, config.acoustic_codes, bias=False)
        if content_head:
            self.norm = RMSNorm(width)
            self.output = Linear(width, config.content_codes, bias=False)


class _Decoder(nn.Module):
    def __init__(self, config: AcousticLMConfig, content_head: bool) -> None:
        super().__init__()
        self.model = _Model(config, content_head)
        self.wait4start_embedding = Table(MAX_DELAY, config.width)
        self.wait4end_embedding = Table(MAX_DELAY, config.width)


class AcousticLM(nn.Module):
    """Speaker condition and content codes to acoustic codes.

    `content_head` builds the part that predicts content codes, which training uses and generation throws away.
    `cache_dtype` is that of the keys and values of a long sequence; None: the weights'. The kernels know bfloat16.
    """

    cache_dtype: torch.dtype | None = None

    rotary: Tensor

    def __init__(self, config: AcousticLMConfig | None = None, content_head: bool = False) -> None:
        super().__init__()
        self.config = config or AcousticLMConfig()
        self.embedding = Table(self.config.content_codes, self.config.width)
        if self.config.pitch_codes:
            self.pitch_embedding = Table(self.config.pitch_codes, self.config.width)
        if self.config.timbre_width:
            self.context_in = Linear(self.config.timbre_width, self.config.width)
        self.style_in = Linear(self.config.style_width, self.config.width)
        self.decoder = _Decoder(self.config, content_head)
        self.register_buffer("rotary", rotary_table(self.config.width // self.config.heads), persistent=False)

    def condition(self, style: Tensor, timbre: Tensor) -> Tensor:
        """Map a style vector [..., 192] and timbre latents [..., 32, 128] to the speaker condition [..., 33, width]."""
        styled = self.style_in(style).unsqueeze(-2)
        return torch.cat([self.context_in(timbre), styled], dim=-2) if self.config.timbre_width else styled

    def embed_content(self, content: Tensor) -> Tensor:
        """Map content, codes [...] or codes and their shares [..., n, 2], to [..., width]: of several, the mean."""
        if content.is_floating_point():
            vectors = self._embed_codes(content[..., 0].long())
            return (content[..., 1:].to(vectors.dtype) * vectors).sum(-2)
        return self._embed_codes(content)

    def _embed_codes(self, codes: Tensor) -> Tensor:
        pitches = self.config.pitch_codes
        if not pitches:
            return self.embedding(codes)
        return self.embedding(codes // pitches) + self.pitch_embedding(codes % pitches)

    def embed_acoustic(self, codes: Tensor) -> Tensor:
        """Map acoustic codes [..., codebooks, n] to [..., n, width]: the sum over the codebooks."""
        first = self.config.acoustic_codes * torch.arange(self.config.codebooks, device=codes.device)
        return self.decoder.model.codebook_embeddings(codes + first.unsqueeze(1)).sum(-3)

    def initial_state(self, batch: int, slots: int) -> TransformerState:
        """An empty cache for `batch` sequences of at most `slots` vectors, of `cache_dtype`."""
        caches = new_caches(self.decoder.model.layers, batch, slots, self.cache_dtype)
        return TransformerState(caches, torch.zeros(batch, dtype=torch.int64))

    def slow(self, x: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Map vectors [B, n, width] to hidden states [B, n, width] before the final norm, and the state on.

        Raises ValueError past the state's last slot: a sequence is refilled before that, see `generation`.
        """
        slots = state.caches[0].keys.shape[2]
        if int(state.position.max()) + x.shape[1] > slots:
            raise ValueError(f"a sequence of more than {slots} vectors in a state made for {slots}")
        sight = Sight(state, x.shape[1], slots, self.rotary)
        return run_layers(self.decoder.model.layers, x, state.caches, sight), state.moved(x.shape[1])

    def content_logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., width] to logits [..., content codes]; only with `content_head`."""
        model = self.decoder.model
        return model.output(model.norm(hidden))

    def fast_state(self, batch: int) -> FastState:
        """The scratch that `write_frame` needs for `batch` sequences."""
        count = self.config.codebooks
        caches = new_caches(self.decoder.model.fast_layers, batch, count)
        at = TransformerState(caches, torch.zeros(batch, dtype=torch.int64))
        sights = [Sight(at.moved(i), 1, count, self.rotary) for i in range(count)]
        return FastState(caches, sights, self._frame_writer(caches, sights))

    def _frame_writer(self, caches: tuple[KeyValueCache, ...], sights: list[Sight]) -> fused.FrameWriter | None:
        model = self.decoder.model
        layers = [layer.packed for layer in model.fast_layers if isinstance(layer.packed, fused.PackedLayer)]
        if not layers or model.fast_output.packed is None:
            return None
        position = torch.stack([sight.position for sight in sights])
        return fused.FrameWriter(
            layers,
            rotations(self.rotary, position),
            caches,
            position,
            (model.fast_norm.weight, RMSNorm.EPSILON),
            model.fast_output.packed,
            model.fast_embeddings.weight,
        )

    def write_frame(self, hidden: Tensor, choose: Callable[[Tensor], Tensor], state: FastState) -> Tensor:
        """Map hidden states [B, width] to codes [B, codebooks]; `choose` maps logits [B, codes] to codes [B]."""
        model = self.decoder.model
        x = hidden.unsqueeze(1)
        codes: list[Tensor] = []
        for sight in state.sights:
            if codes:
                x = model.fast_embeddings(codes[-1]).unsqueeze(1)
            x = run_layers(model.fast_layers, x, state.caches, sight)
            codes.append(choose(model.fast_output(model.fast_norm(x)).squeeze(1)))
        return torch.stack(codes, dim=1)

    def frame_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Map hidden states [B, width] and the frame's codes [B, codebooks] to logits [B, codebooks, codes]."""
        model = self.decoder.model
        count = self.config.codebooks
        x = torch.cat([hidden.unsqueeze(1), model.fast_embeddings(codes[:, :-1])], dim=1)
        state = TransformerState(new_caches(model.fast_layers, len(x), count), torch.zeros(len(x), dtype=torch.int64))
        sight = Sight(state, count, count, self.rotary)
        return model.fast_output(model.fast_norm(run_layers(model.fast_layers, x, state.caches, sight)))
