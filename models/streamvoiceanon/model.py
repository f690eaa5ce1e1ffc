"""StreamVoiceAnon: its networks together, as an anonymizer of whole utterances and of live streams.

Waves are float32 [samples] at the model's rate, 44.1 kHz as published. What an utterance becomes depends on its wave,
its voice and its seed, whatever else is in the batch and whether it is streamed or not: with the CPU kernels to the
last bit, unless Whisper's trunk hears the content. With full context whole utterances are heard to their end before
anything is spoken, and become what no stream, which cannot wait, makes of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torchaudio
from torch import Tensor, nn

from models import registry
from models.catalogue import Context, Prosody
from models.streamvoiceanon import checkpoint, kernels, style_encoder
from models.streamvoiceanon.acoustic_lm import AcousticLM
from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.config import Config, build_networks, context_used, prosody_used, read_states
from models.streamvoiceanon.content_encoder import ContentEncoder, likeliest, with_pitch
from models.streamvoiceanon.full_context import FullContext, listen
from models.streamvoiceanon.generation import Prompt, Utterance, check_delay, write_all
from models.streamvoiceanon.linear import pack
from models.streamvoiceanon.prosody import ProsodyConfig, ProsodyFollower, narrow_contour, narrowing
from models.streamvoiceanon.state import State
from models.streamvoiceanon.stream import Stream, StreamBatch, check_wave
from models.streamvoiceanon.style_encoder import StyleEncoder, band_statistics
from models.streamvoiceanon.timbre_encoder import TimbreEncoder
from models.streamvoiceanon.voices import Voice, VoiceBank, mix_with_noise
from models.whisper import Whisper

ENCODER_CHUNK = 128  # frames that an offline pass reads at once: memory does not grow with the utterance
DECODER_CHUNK = 32
SILENCE = 1e-4  # a prompt that never passes -80 dBFS says nothing about a voice
COMPILER = "inductor"  # what torch.compile makes its code with
STYLE_LEVEL = 0.1  # root mean square that a prompt is brought to before its bands are looked at

Precision = Literal["auto", "float32", "int8", "bfloat16"]


class StreamVoiceAnon:
    """The neural anonymizer. Make one with `from_pretrained` or `from_state_dicts`."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        config: Config,
        precision: Precision = "auto",
        device: str | torch.device = "cpu",
        voices: VoiceBank | None = None,
        alpha: float = 1.0,
        compiled: bool = False,
        context: Context = "causal",
        prosody: Prosody = "auto",
    ) -> None:
        """Take loaded networks.

        `precision` is that of the acoustic language model's weights: float32 is exact; int8 (a CPU with the compiled
        kernels) and bfloat16 are faster; "auto" is int8 on such a CPU, bfloat16 on a GPU, float32 elsewhere. The
        other networks are float32. Beside int8 they are int16, which moves what they compute by less than a
        thousandth, or int8 where their weights were kept as that, and keys and values bfloat16.
        `voices` is what `draw_voice` draws from, mixed with noise by `alpha`. `compiled` hands what has fixed shapes to
        torch.compile, minutes at the first frame, which is for a GPU: ValueError where the kernels do the work.
        `context` says how `anonymize` hears an utterance: "causal" as a stream does; "full" to its end, by the embedded
        recogniser, which needs a model that was trained for it (ValueError) and the recogniser's weights; "auto" is
        full where the model was. `prosody` says how much is kept of how something is said, full or reduced, which the
        model must have (ValueError); "auto" is reduced where it has.
        """
        self.config, self.voices, self.alpha = config, voices, alpha
        self.sample_rate, self.frame_samples = config.frames.sample_rate, config.frames.samples
        self.device = torch.device(device)
        fast = self.device.type == "cpu" and kernels.available()
        if precision == "auto":
            precision = "int8" if fast else "bfloat16" if self.device.type == "cuda" else "float32"
        if precision == "int8" and not fast:
            raise ValueError("int8 weights need a CPU and a C compiler (cc) for the kernels: use float32 or bfloat16")
        if compiled and fast:
            raise ValueError("torch.compile is for a GPU: on a CPU the compiled kernels do the work")
        self.precision = precision
        # What each acoustic code means, [codebooks, codes, channels], where the mean is spoken and not the code.
        self.values: Tensor | None = None
        self._networks = tuple(networks.values())
        for network in self._networks:
            network.to(self.device)
        self.acoustic_lm: AcousticLM = networks["acoustic_lm"]  # type: ignore[assignment]
        self.content_encoder: ContentEncoder = networks["content_encoder"]  # type: ignore[assignment]
        self.codec: Codec = networks["codec"]  # type: ignore[assignment]
        self.style_encoder: StyleEncoder | None = networks.get("style_encoder")  # type: ignore[assignment]
        self.timbre_encoder: TimbreEncoder | None = networks.get("timbre_encoder")  # type: ignore[assignment]
        self.full_context: FullContext | None = networks.get("full_context")  # type: ignore[assignment]
        self.context = context_used(context, config)
        self.prosody = prosody_used(prosody, config)
        reduced = config.reduced_prosody if self.prosody == "reduced" else None
        self.kept: ProsodyConfig = reduced or config.prosody
        self._narrowing = narrowing(config.content_encoder.pitch_codes, self.kept.contour).to(self.device)
        self.recogniser: Whisper | None = None
        if self.context == "full":
            self.recogniser = Whisper(registry.resolve(registry.RECOGNISER).path)  # on the CPU, in 8 bits, as learnt by
        if fast:
            kind: kernels.WeightType = "int16" if precision == "int8" else "float32"
            pack(self.content_encoder, kind)
            pack(self.codec, kind)
        if precision == "bfloat16":
            self.acoustic_lm.to(torch.bfloat16)
        elif fast:
            pack(self.acoustic_lm, "int8" if precision == "int8" else "float32")
            self.acoustic_lm.cache_dtype = torch.bfloat16 if precision == "int8" else None
        if fast:
            for network in networks.values():
                _own(network)
        if compiled:
            self._compile()
        if config.acoustic_lm.averaged:
            self.values = self.codec.values()

    def _compile(self) -> None:
        """Have every part compiled whose shapes do not change from frame to frame; attention's do."""
        encoder, codec, lm = self.content_encoder, self.codec, self.acoustic_lm.decoder.model
        parts: list[nn.Module] = [] if encoder.config.whisper else [encoder.backbone]
        parts += [encoder.quantizer.downsample, codec.quantizer.upsample, codec.head]
        layers = (encoder.quantizer.pre_module.layers, lm.layers, lm.fast_layers)
        parts += [layer.feed_forward for stack in layers for layer in stack]  # type: ignore[misc]
        for part in parts:
            part.compile(backend=COMPILER)

    @classmethod
    def from_state_dicts(
        cls,
        states: Mapping[str, Mapping[str, Tensor]],
        config: Config | None = None,
        precision: Precision = "float32",
        **options: Any,
    ) -> "StreamVoiceAnon":
        """Build from the networks' state dicts, exact by default; further options are the constructor's.

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
        states, config = read_states(checkpoint.resolve(source))
        return cls.from_state_dicts(states, config, precision, **options)

    # Codes

    @torch.inference_mode()
    def encode_content(self, wave: Tensor, usual_pitch: float | None = None) -> Tensor:
        """Map a wave [samples] to its content, one code for every frame begun: [T], int64.

        Where the encoder hears several codes at once, they and their shares, float32 [T, nearest, 2]. `usual_pitch` is
        the speaker's mean, in octaves above 1 Hz, where it is known.
        """
        check_wave(wave)
        frames = self.config.frames
        state = self.content_encoder.initial_state(1, chunk=ENCODER_CHUNK, usual_pitch=usual_pitch)
        codes = []
        for start in range(0, len(wave), ENCODER_CHUNK * frames.samples):
            chunk, whole = self._whole_frames(wave[start : start + ENCODER_CHUNK * frames.samples])
            mels = None if whole % frames.samples == 0 else torch.tensor([whole // frames.hop])
            part, state = self.content_encoder(chunk.unsqueeze(0).to(self.device), state, mels)
            codes.append(part[0].cpu())
        nearest = self.config.content_encoder.nearest
        none = torch.zeros(0, dtype=torch.int64) if nearest == 1 else torch.zeros(0, nearest, 2)
        return torch.cat(codes) if codes else none

    def hear(self, wave: Tensor, usual_pitch: float | None = None) -> Tensor:
        """Map a wave [samples] to its content as `encode_content`, in the context that the model was loaded with."""
        encode = self.encode_whole if self.context == "full" else self.encode_content
        return encode(wave, usual_pitch)

    @torch.inference_mode()
    def encode_whole(self, wave: Tensor, usual_pitch: float | None = None) -> Tensor:
        """Map a wave [samples] to its content with full context, shaped like that of `encode_content`.

        Its pitch, where it has one, is the content encoder's. Raises ValueError without full context.
        """
        check_wave(wave)
        if self.recogniser is None or self.full_context is None:
            raise ValueError("this model was not loaded with full context")
        whole, length = self._whole_frames(wave)
        if not length:
            return self.encode_content(wave, usual_pitch)
        points = self.full_context(listen(self.recogniser, whole).unsqueeze(0).to(self.device))
        contour, parts = self.content_encoder.contour, []
        state = None if contour is None else contour.initial_state(1, usual_pitch)
        samples = whole.unsqueeze(0).split(ENCODER_CHUNK * self.frame_samples, dim=1)
        for own, heard in zip(points.split(ENCODER_CHUNK, dim=1), samples, strict=True):
            content = self.content_encoder.at(own)
            if contour is not None and state is not None:
                pitch, state = contour(heard.to(self.device), state)
                content = with_pitch(content, pitch, contour.codes)
            parts.append(content[0].cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def encode_acoustic(self, wave: Tensor) -> Tensor:
        """Map a wave [samples] to acoustic codes [8, T], one column for every frame begun."""
        check_wave(wave)
        state: State = self.codec.initial_encoder_state(1)
        codes = []
        for start in range(0, len(wave), ENCODER_CHUNK * self.frame_samples):
            chunk, _ = self._whole_frames(wave[start : start + ENCODER_CHUNK * self.frame_samples])
            part, state = self.codec.encode(chunk.unsqueeze(0).to(self.device), state)
            codes.append(part[0].cpu())
        return torch.cat(codes, dim=1) if codes else torch.zeros(self.config.codec.codebooks, 0, dtype=torch.int64)

    @torch.inference_mode()
    def decode_acoustic(self, codes: Tensor) -> Tensor:
        """Map acoustic codes [8, T] to a wave of T frames. Raises ValueError where a code is out of range."""
        books, size = self.config.codec.codebooks, self.config.acoustic_lm.acoustic_codes
        if (
            codes.ndim != 2
            or len(codes) != books
            or (codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size)
        ):
            raise ValueError(f"acoustic codes are [{books}, T] between 0 and {size - 1}")
        return self._decode(codes.long())

    def _decode(self, written: Tensor, source: Tensor | None = None) -> Tensor:
        """Map what the language model wrote, [codebooks, T] or [codebooks, T, channels], to a wave of T frames.

        Where the model does so, it follows the loudness and brightness of `source`, the wave that it says.
        """
        length = self.frame_samples
        wave = torch.empty(written.shape[1] * length)
        state = self.codec.initial_decoder_state(1)
        for start in range(0, written.shape[1], DECODER_CHUNK):
            part = written[:, start : start + DECODER_CHUNK]
            samples, state = self.codec.decode(part.unsqueeze(0).to(self.device), state)
            wave[start * length : start * length + samples.shape[1]] = samples[0].cpu()
        if source is not None and len(wave) and (follower := self.open_follower()) is not None:
            for spoken, heard in zip(wave.split(length), self._whole_frames(source)[0].split(length), strict=True):
                follower.hear(heard)
                spoken.copy_(follower.follow(spoken))
        return wave

    def narrow(self, content: Tensor) -> Tensor:
        """Leave content as much of the pitch's movement as the model keeps."""
        return narrow_contour(content, self._narrowing)

    def open_follower(self) -> ProsodyFollower | None:
        """Return what follows how a new stream is said, None where the model does not."""
        kept = self.kept
        return ProsodyFollower(kept, self.config.frames) if kept.loudness or kept.brightness else None

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
        """Prepare a voice from one or several prompts [samples], concatenated and cropped to 512 whole frames.

        With `average` style and timbre are the mean over the prompts instead of those of the concatenation. `alpha`
        mixes both with noise drawn from `generator`. Raises ValueError for a prompt that is silent, not finite or
        shorter than a frame.
        """
        prompts = [waves] if isinstance(waves, Tensor) else list(waves)
        for prompt in prompts:
            self.check_prompt(prompt)
        if not prompts:
            raise ValueError("a voice needs at least one prompt")
        most = self.config.acoustic_lm.max_prompt_frames * self.frame_samples
        whole = torch.cat([prompt.float() for prompt in prompts])[:most]
        whole = whole[: len(whole) // self.frame_samples * self.frame_samples]
        embedded = [self._embed(prompt.float()) for prompt in prompts] if average else [self._embed(whole)]
        voice = Voice(
            content=likeliest(self.encode_content(whole)),
            acoustic=self.encode_acoustic(whole),
            style=torch.stack([style for style, _ in embedded]).mean(0),
            timbre=torch.stack([timbre for _, timbre in embedded]).mean(0),
            voice_id=voice_id,
            frame_seconds=self.config.frames.seconds,
        )
        return mix_with_noise(voice, alpha, generator)

    def check_prompt(self, prompt: Tensor) -> None:
        """Raise ValueError for a prompt [samples] that is silent, not finite or shorter than a frame."""
        check_wave(prompt)
        if len(prompt) < self.frame_samples:
            raise ValueError(
                f"a prompt of {len(prompt)} samples is shorter than one frame ({self.frame_samples} samples)"
            )
        if float(prompt.abs().max()) < SILENCE:
            raise ValueError("a prompt is silent")

    def _embed(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        if self.style_encoder is None or self.timbre_encoder is None:
            whole, _ = self._whole_frames(wave * (STYLE_LEVEL / wave.square().mean().sqrt()))
            mel = self.content_encoder.mel
            bands, _ = mel(whole.unsqueeze(0).to(self.device), mel.initial_state(1))
            return band_statistics(bands[0]).cpu(), torch.zeros(0, 0)
        low = torchaudio.functional.resample(wave, self.sample_rate, style_encoder.SAMPLE_RATE).to(self.device)
        return self.style_encoder(low).cpu(), self.timbre_encoder(low).cpu()

    def draw_voice(self, seed: int) -> Voice:
        """Return the voice of the bank that `seed` stands for, mixed with the noise that `seed` stands for."""
        if self.voices is None:
            raise ValueError("this model has no voice bank to draw from: load it with `voices`")
        return mix_with_noise(self.voices.draw(seed), self.alpha, torch.Generator().manual_seed(seed))

    def prompt(self, voice: Voice) -> Prompt:
        """What the acoustic language model reads before the source. Raises ValueError as `check_voice`."""
        check_voice(voice, self.config)
        lm, dtype = self.acoustic_lm, self.acoustic_lm.embedding.weight.dtype
        condition = lm.condition(voice.style.to(self.device, dtype), voice.timbre.to(self.device, dtype))
        return Prompt(condition, voice.content.to(self.device), voice.acoustic.to(self.device))

    # Anonymizing

    @torch.inference_mode()
    def generate(
        self,
        content: Tensor,
        voice: Voice,
        delay: int | None = None,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Map content, [T] or [T, nearest, 2], to acoustic codes [8, T] in a voice.

        They come `delay` frames later (None: its own delay). Without `greedy` codes are sampled; without `generator`
        from one seeded with 0. An `averaged` model speaks other than these codes: see `speak`.
        """
        delay = self.delay if delay is None else delay
        check_delay(delay)
        if not greedy and generator is None:
            generator = torch.Generator().manual_seed(0)
        utterance = Utterance(content.to(self.device), self.prompt(voice), None if greedy else generator)
        ((_, codes),) = write_all(self.acoustic_lm, [utterance], delay, most=1, cache_bytes=0)
        return codes.cpu()

    @torch.inference_mode()
    def speak(self, content: Tensor, voice: Voice, generator: torch.Generator | None) -> Tensor:
        """Map content, [T] or [T, nearest, 2], to a wave of T frames in a voice; without `generator` with the best code
        always. It follows no loudness or brightness: content tells none."""
        utterance = Utterance(content.to(self.device), self.prompt(voice), generator)
        ((_, written),) = write_all(self.acoustic_lm, [utterance], self.delay, 1, 0, self.values)
        return self._decode(written)

    @torch.inference_mode()
    def anonymize(
        self,
        waves: Sequence[Tensor],
        voices: Sequence[Voice],
        seeds: Sequence[int] | None = None,
        usual_pitch: Sequence[float | None] | None = None,
        delay: int | None = None,
        batch: int = 32,
        cache_bytes: int = 2 << 30,
    ) -> list[Tensor]:
        """Return the anonymized waves, each as long as its source; a `delay` of None is the model's own.

        `usual_pitch` is the mean of each speaker, in octaves above 1 Hz, which tells how an utterance differs from what
        they say otherwise; where it is None, an utterance is heard beside itself.

        At most `batch` utterances are written at once, fewer where their key-value caches would pass `cache_bytes`.
        Raises ValueError that names the wave where one is not finite or not one channel.
        """
        seeds = [0] * len(waves) if seeds is None else seeds
        usual_pitch = [None] * len(waves) if usual_pitch is None else usual_pitch
        if not len(waves) == len(voices) == len(seeds) == len(usual_pitch):
            raise ValueError(
                f"{len(waves)} waves, {len(voices)} voices, {len(seeds)} seeds and {len(usual_pitch)} usual pitches: "
                "one of each is needed"
            )
        utterances = []
        for i, (wave, voice, seed, usual) in enumerate(zip(waves, voices, seeds, usual_pitch, strict=True)):
            try:
                content = self.narrow(self.hear(wave, usual))
            except ValueError as error:
                raise ValueError(f"wave {i}: {error}") from None
            generator = torch.Generator().manual_seed(seed)
            utterances.append(Utterance(content.to(self.device), self.prompt(voice), generator))
        results: list[Tensor] = [torch.zeros(0)] * len(waves)
        delay = self.delay if delay is None else delay
        for i, written in write_all(self.acoustic_lm, utterances, delay, batch, cache_bytes, self.values):
            results[i] = self._decode(written, waves[i])[: len(waves[i])]
        return results

    def open_stream(self, voice: Voice, seed: int = 0, *, delay: int | None = None, greedy: bool = False) -> Stream:
        """Open a live stream that speaks with `voice`; what comes out is what causal `anonymize` makes of the whole,
        beside which no pitch is usual."""
        delay = self.delay if delay is None else delay
        return Stream(self.open_batch(1), voice, delay, None if greedy else torch.Generator().manual_seed(seed))

    def open_batch(self, slots: int) -> StreamBatch:
        """Open a batch for up to `slots` live streams that are moved together, a frame at a time."""
        return StreamBatch(self, slots)

    @property
    def delay(self) -> int:
        """Frames that it speaks after what it reads, unless told otherwise."""
        return self.config.acoustic_lm.delay

    def parameters_held(self) -> int:
        """How many weights are in memory, whatever their precision."""
        return sum(_weights(module) for network in self._networks for module in network.modules())

    def _whole_frames(self, wave: Tensor) -> tuple[Tensor, int]:
        """Pad a wave with zeros to whole frames; also return its own length."""
        return nn.functional.pad(wave.float(), (0, -len(wave) % self.frame_samples)), len(wave)


def check_voice(voice: Voice, config: Config) -> None:
    """Raise ValueError for a voice that was prepared with a model of another shape."""
    shapes = (voice.style.shape[0], voice.timbre.shape[0], voice.acoustic.shape[0])
    if shapes != (config.acoustic_lm.style_width, config.timbre_latents, config.codec.codebooks):
        raise ValueError(f"the voice {voice.voice_id} is of a model of another shape: build its bank anew")
    lm_config = config.acoustic_lm
    if not 0 < voice.frames <= lm_config.max_prompt_frames:
        raise ValueError(
            f"the voice {voice.voice_id} has {voice.frames} frames, this model reads 1 to "
            f"{lm_config.max_prompt_frames}: build its bank anew"
        )
    for codes, count in ((voice.content, lm_config.whole_content_codes), (voice.acoustic, lm_config.acoustic_codes)):
        if int(codes.min()) < 0 or int(codes.max()) >= count:
            raise ValueError(f"the voice {voice.voice_id} holds codes of another model: build its bank anew")


def _own(network: nn.Module) -> None:
    """Copy what is left of a packed network, so that the file or table that it was loaded from can be let go."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.clone())


def _weights(module: nn.Module) -> int:
    own = sum(p.numel() for p in module.parameters(recurse=False))
    packed = vars(module).get("packed")
    matrices = (packed,) if isinstance(packed, kernels.PackedWeights) else getattr(packed, "weights", ())
    return own + sum(weights.outputs * weights.taps * weights.inputs for weights in matrices)
