"""StreamVoiceAnon: the five networks together, as an anonymizer of whole utterances and of live streams.

Waves are float32 [samples] at 44.1 kHz. What an utterance becomes depends on its wave, its voice and its seed: with
the CPU kernels to the last bit, whatever else is in the batch and whether it is streamed or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torchaudio
from torch import Tensor, nn

from models.streamvoiceanon import checkpoint, kernels, style_encoder
from models.streamvoiceanon.acoustic_lm import AcousticLM, AcousticLMConfig
from models.streamvoiceanon.codec import Codec, CodecConfig
from models.streamvoiceanon.content_encoder import ContentEncoder, ContentEncoderConfig
from models.streamvoiceanon.frontend import FRAME_SAMPLES, HOP, SAMPLE_RATE
from models.streamvoiceanon.generation import MAX_PROMPT_FRAMES, Prompt, Utterance, check_delay, write_all
from models.streamvoiceanon.linear import pack
from models.streamvoiceanon.state import State
from models.streamvoiceanon.stream import Stream, StreamBatch, check_wave
from models.streamvoiceanon.style_encoder import StyleEncoder
from models.streamvoiceanon.timbre_encoder import TimbreEncoder
from models.streamvoiceanon.voices import Voice, VoiceBank, mix_with_noise

ENCODER_CHUNK = 128  # frames that an offline pass reads at once: memory does not grow with the utterance
DECODER_CHUNK = 32
SILENCE = 1e-4  # a prompt that never passes -80 dBFS says nothing about a voice
DEFAULT_DELAY = 2  # frames

Precision = Literal["auto", "float32", "int8", "bfloat16"]


@dataclass(frozen=True)
class Config:
    """Sizes of the five networks; the defaults are the published ones."""

    content_encoder: ContentEncoderConfig = field(default_factory=ContentEncoderConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    acoustic_lm: AcousticLMConfig = field(default_factory=AcousticLMConfig)
    style_layers: tuple[int, ...] = (12, 24, 16)
    timbre_channels: int = 512
    timbre_latents: int = 32
    timbre_heads: int = 8


def build_networks(config: Config, content_head: bool = False) -> dict[str, nn.Module]:
    """Return the five networks by name, without memory for their weights (on the meta device): they are loaded into."""
    lm = config.acoustic_lm
    with torch.device("meta"):
        return {
            "acoustic_lm": AcousticLM(lm, content_head),
            "content_encoder": ContentEncoder(config.content_encoder),
            "codec": Codec(config.codec),
            "style_encoder": StyleEncoder(lm.style_width, config.style_layers),
            "timbre_encoder": TimbreEncoder(
                config.timbre_channels, lm.timbre_width, config.timbre_latents, config.timbre_heads
            ),
        }


class StreamVoiceAnon:
    """The neural anonymizer. Make one with `from_pretrained` or `from_state_dicts`."""

    sample_rate = SAMPLE_RATE
    frame_samples = FRAME_SAMPLES

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        config: Config,
        precision: Precision = "auto",
        device: str | torch.device = "cpu",
        voices: VoiceBank | None = None,
        alpha: float = 1.0,
    ) -> None:
        """Take loaded networks.

        `precision` is that of the acoustic language model's weights: float32 is exact; int8 (a CPU with the compiled
        kernels) and bfloat16 are faster; "auto" is int8 on such a CPU, bfloat16 on a GPU, float32 elsewhere. The
        other networks are always float32. `voices` is what `draw_voice` draws from, mixed with noise by `alpha`.
        """
        self.config, self.voices, self.alpha = config, voices, alpha
        self.device = torch.device(device)
        fast = self.device.type == "cpu" and kernels.available()
        if precision == "auto":
            precision = "int8" if fast else "bfloat16" if self.device.type == "cuda" else "float32"
        if precision == "int8" and not fast:
            raise ValueError("int8 weights need a CPU and a C compiler (cc) for the kernels: use float32 or bfloat16")
        self.precision = precision
        for network in networks.values():
            network.to(self.device)
        self.acoustic_lm: AcousticLM = networks["acoustic_lm"]  # type: ignore[assignment]
        self.content_encoder: ContentEncoder = networks["content_encoder"]  # type: ignore[assignment]
        self.codec: Codec = networks["codec"]  # type: ignore[assignment]
        self.style_encoder: StyleEncoder = networks["style_encoder"]  # type: ignore[assignment]
        self.timbre_encoder: TimbreEncoder = networks["timbre_encoder"]  # type: ignore[assignment]
        if fast:
            pack(self.content_encoder, "float32")
            pack(self.codec, "float32")
        if precision == "bfloat16":
            self.acoustic_lm.to(torch.bfloat16)
        elif fast:
            pack(self.acoustic_lm, "int8" if precision == "int8" else "float32")
        if fast:
            for network in networks.values():
                _own(network)

    @classmethod
    def from_state_dicts(
        cls,
        states: Mapping[str, Mapping[str, Tensor]],
        config: Config | None = None,
        precision: Precision = "float32",
        **options: Any,
    ) -> "StreamVoiceAnon":
        """Build from the five networks' state dicts, exact by default; further options are the constructor's.

        Raises CheckpointError with one message that lists every tensor that is missing, misshapen or unknown.
        """
        config = config or Config()
        networks = build_networks(config)
        checkpoint.load_networks(networks, states)
        return cls(networks, config, precision, **options)

    @classmethod
    def from_pretrained(cls, source: str | Path, precision: Precision = "auto", **options: Any) -> "StreamVoiceAnon":
        """Build from a folder (the five published files, or a converted checkpoint) or a Hugging Face repository.

        Raises CheckpointError where something is missing, unreadable or not what the networks need.
        """
        folder = checkpoint.resolve(source)
        if not checkpoint.is_converted(folder):
            return cls.from_state_dicts(checkpoint.read_published(folder), None, precision, **options)
        states, values = checkpoint.read_converted(folder)
        return cls.from_state_dicts(states, config_from_values(values), precision, **options)

    # Codes

    @torch.inference_mode()
    def encode_content(self, wave: Tensor) -> Tensor:
        """Map a wave [samples] to content codes [T], one for every frame of 2,048 samples begun."""
        check_wave(wave)
        state = self.content_encoder.initial_state(1, chunk=ENCODER_CHUNK)
        codes = []
        for start in range(0, len(wave), ENCODER_CHUNK * FRAME_SAMPLES):
            chunk, whole = _frames(wave[start : start + ENCODER_CHUNK * FRAME_SAMPLES])
            mels = None if whole % FRAME_SAMPLES == 0 else torch.tensor([whole // HOP])
            part, state = self.content_encoder(chunk.unsqueeze(0).to(self.device), state, mels)
            codes.append(part[0].cpu())
        return torch.cat(codes) if codes else torch.zeros(0, dtype=torch.int64)

    @torch.inference_mode()
    def encode_acoustic(self, wave: Tensor) -> Tensor:
        """Map a wave [samples] to acoustic codes [8, T], one column for every frame of 2,048 samples begun."""
        check_wave(wave)
        state: State = self.codec.initial_encoder_state(1)
        codes = []
        for start in range(0, len(wave), ENCODER_CHUNK * FRAME_SAMPLES):
            chunk, _ = _frames(wave[start : start + ENCODER_CHUNK * FRAME_SAMPLES])
            part, state = self.codec.encode(chunk.unsqueeze(0).to(self.device), state)
            codes.append(part[0].cpu())
        return torch.cat(codes, dim=1) if codes else torch.zeros(self.config.codec.codebooks, 0, dtype=torch.int64)

    @torch.inference_mode()
    def decode_acoustic(self, codes: Tensor) -> Tensor:
        """Map acoustic codes [8, T] to a wave [T x 2048]. Raises ValueError where a code is out of range."""
        books, size = self.config.codec.codebooks, self.config.acoustic_lm.acoustic_codes
        if (
            codes.ndim != 2
            or len(codes) != books
            or (codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size)
        ):
            raise ValueError(f"acoustic codes are [{books}, T] between 0 and {size - 1}")
        wave = torch.empty(codes.shape[1] * FRAME_SAMPLES)
        state = self.codec.initial_decoder_state(1)
        for start in range(0, codes.shape[1], DECODER_CHUNK):
            part = codes[:, start : start + DECODER_CHUNK].long()
            samples, state = self.codec.decode(part.unsqueeze(0).to(self.device), state)
            wave[start * FRAME_SAMPLES : start * FRAME_SAMPLES + samples.shape[1]] = samples[0].cpu()
        return wave

    # Voices

    @torch.inference_mode()
    def make_voice(
        self,
        waves: Tensor | Sequence[Tensor],
        alpha: float = 1.0,
        generator: torch.Generator | None = None,
        average: bool = False,
        voice_id: str = "",
    ) -> Voice:
        """Prepare a voice from one or several prompts [samples], concatenated and cropped to 512 whole frames (23.8 s).

        With `average` style and timbre are the mean over the prompts instead of those of the concatenation. `alpha`
        mixes both with noise drawn from `generator`. Raises ValueError for a prompt that is silent, not finite or
        shorter than a frame.
        """
        prompts = [waves] if isinstance(waves, Tensor) else list(waves)
        for prompt in prompts:
            check_wave(prompt)
            if len(prompt) < FRAME_SAMPLES:
                raise ValueError(
                    f"a prompt of {len(prompt)} samples is shorter than one frame ({FRAME_SAMPLES} samples)"
                )
            if float(prompt.abs().max()) < SILENCE:
                raise ValueError("a prompt is silent")
        if not prompts:
            raise ValueError("a voice needs at least one prompt")
        whole = torch.cat([prompt.float() for prompt in prompts])[: MAX_PROMPT_FRAMES * FRAME_SAMPLES]
        whole = whole[: len(whole) // FRAME_SAMPLES * FRAME_SAMPLES]
        embedded = [self._embed(prompt.float()) for prompt in prompts] if average else [self._embed(whole)]
        voice = Voice(
            content=self.encode_content(whole),
            acoustic=self.encode_acoustic(whole),
            style=torch.stack([style for style, _ in embedded]).mean(0),
            timbre=torch.stack([timbre for _, timbre in embedded]).mean(0),
            voice_id=voice_id,
        )
        return mix_with_noise(voice, alpha, generator)

    def _embed(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        low = torchaudio.functional.resample(wave, SAMPLE_RATE, style_encoder.SAMPLE_RATE).to(self.device)
        return self.style_encoder(low).cpu(), self.timbre_encoder(low).cpu()

    def draw_voice(self, seed: int) -> Voice:
        """Return the voice of the bank that `seed` stands for, mixed with the noise that `seed` stands for."""
        if self.voices is None:
            raise ValueError("this model has no voice bank to draw from: load it with `voices`")
        return mix_with_noise(self.voices.draw(seed), self.alpha, torch.Generator().manual_seed(seed))

    def prompt(self, voice: Voice) -> Prompt:
        """What the acoustic language model reads before the source."""
        lm, dtype = self.acoustic_lm, self.acoustic_lm.embedding.weight.dtype
        condition = lm.condition(voice.style.to(self.device, dtype), voice.timbre.to(self.device, dtype))
        return Prompt(condition, voice.content.to(self.device), voice.acoustic.to(self.device))

    # Anonymizing

    @torch.inference_mode()
    def generate(
        self,
        content_codes: Tensor,
        voice: Voice,
        delay: int = DEFAULT_DELAY,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Map content codes [T] to acoustic codes [8, T] in a voice.

        Without `greedy` the codes are sampled; without `generator` from one seeded with 0.
        """
        check_delay(delay)
        if not greedy and generator is None:
            generator = torch.Generator().manual_seed(0)
        utterance = Utterance(content_codes.to(self.device), self.prompt(voice), None if greedy else generator)
        ((_, codes),) = write_all(self.acoustic_lm, [utterance], delay, most=1, cache_bytes=0)
        return codes.cpu()

    @torch.inference_mode()
    def anonymize(
        self,
        waves: Sequence[Tensor],
        voices: Sequence[Voice],
        seeds: Sequence[int] | None = None,
        delay: int = DEFAULT_DELAY,
        batch: int = 32,
        cache_bytes: int = 2 << 30,
    ) -> list[Tensor]:
        """Return the anonymized waves, each as long as its source.

        At most `batch` utterances are written at once, fewer where their key-value caches would pass `cache_bytes`.
        Raises ValueError that names the wave where one is not finite or not one channel.
        """
        seeds = [0] * len(waves) if seeds is None else seeds
        if not len(waves) == len(voices) == len(seeds):
            raise ValueError(f"{len(waves)} waves, {len(voices)} voices and {len(seeds)} seeds: one of each is needed")
        utterances = []
        for i, (wave, voice, seed) in enumerate(zip(waves, voices, seeds, strict=True)):
            try:
                content = self.encode_content(wave)
            except ValueError as error:
                raise ValueError(f"wave {i}: {error}") from None
            generator = torch.Generator().manual_seed(seed)
            utterances.append(Utterance(content.to(self.device), self.prompt(voice), generator))
        results: list[Tensor] = [torch.zeros(0)] * len(waves)
        for i, codes in write_all(self.acoustic_lm, utterances, delay, batch, cache_bytes):
            results[i] = self.decode_acoustic(codes)[: len(waves[i])].clone()
        return results

    def open_stream(self, voice: Voice, seed: int = 0, delay: int = DEFAULT_DELAY, greedy: bool = False) -> Stream:
        """Open a live stream that speaks with `voice`; what comes out is what `anonymize` makes of the whole."""
        return Stream(self.open_batch(1), voice, delay, None if greedy else torch.Generator().manual_seed(seed))

    def open_batch(self, slots: int) -> StreamBatch:
        """Open a batch for up to `slots` live streams that are moved together, a frame at a time."""
        return StreamBatch(self, slots)

    def parameters_held(self) -> int:
        """How many weights are in memory, whatever their precision."""
        networks = (self.acoustic_lm, self.content_encoder, self.codec, self.style_encoder, self.timbre_encoder)
        return sum(_weights(module) for network in networks for module in network.modules())


def _own(network: nn.Module) -> None:
    """Copy what is left of a packed network, so that the file or table that it was loaded from can be let go."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.clone())


def _weights(module: nn.Module) -> int:
    packed = [value for value in vars(module).values() if isinstance(value, kernels.PackedWeights)]
    for layer in vars(module).values():
        packed += layer.matrices if isinstance(layer, kernels.PackedLayer) else ()
    own = sum(p.numel() for p in module.parameters(recurse=False))
    return own + sum(weights.outputs * weights.taps * weights.inputs for weights in packed)


def _frames(wave: Tensor) -> tuple[Tensor, int]:
    """Pad a wave with zeros to whole frames; also return its own length."""
    return nn.functional.pad(wave.float(), (0, -len(wave) % FRAME_SAMPLES)), len(wave)


def config_from_values(values: Mapping[str, Any]) -> Config:
    """Read the configuration of a converted checkpoint."""
    parts = {"content_encoder": ContentEncoderConfig, "codec": CodecConfig, "acoustic_lm": AcousticLMConfig}

    def read(kind: type, fields: Mapping[str, Any]) -> Any:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})

    try:
        return read(Config, {k: read(parts[k], v) if k in parts else v for k, v in values.items()})
    except TypeError as error:
        raise checkpoint.CheckpointError(f"the configuration does not fit this version: {error}") from None


def convert(source: str | Path, target: Path, config: Config | None = None) -> None:
    """Write a published checkpoint as one safetensors file and one JSON configuration in the folder `target`.

    Raises CheckpointError where the source is not what the networks need.
    """
    folder = checkpoint.resolve(source)
    config = config or Config()
    networks = build_networks(config)
    checkpoint.load_networks(networks, checkpoint.read_published(folder))
    checkpoint.save_converted(target, networks, config, checkpoint.published_digests(folder))
