"""The sizes of the networks, how a checkpoint writes them, and the networks of these sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from models.catalogue import Context, Prosody
from models.streamvoiceanon import checkpoint
from models.streamvoiceanon.acoustic_lm import AcousticLM, AcousticLMConfig
from models.streamvoiceanon.codec import Codec, CodecConfig
from models.streamvoiceanon.content_encoder import ContentEncoder, ContentEncoderConfig
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.full_context import FullContext, FullContextConfig, check_frames, check_sizes
from models.streamvoiceanon.prosody import ProsodyConfig
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.style_encoder import StyleEncoder
from models.streamvoiceanon.timbre_encoder import TimbreEncoder
from models.streamvoiceanon.whisper_trunk import WhisperConfig


@dataclass(frozen=True)
class Config:
    """Sizes of the networks; the defaults are the published ones.

    `speaker` says what a voice's style is: "encoders" are the two published networks, "statistics" the mean and
    deviation of the content encoder's log-mel bands (`style_encoder.band_statistics`), without weights, without timbre.
    `prosody` is how much is kept of how something is said; a model that has a `reduced_prosody` as well can be told to
    keep that much. With `full_context` whole utterances can be heard by a recogniser instead of the content encoder.
    """

    content_encoder: ContentEncoderConfig = field(default_factory=ContentEncoderConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    acoustic_lm: AcousticLMConfig = field(default_factory=AcousticLMConfig)
    style_layers: tuple[int, ...] = (12, 24, 16)
    timbre_channels: int = 512
    timbre_latents: int = 32
    timbre_heads: int = 8
    frames: FrameConfig = field(default_factory=FrameConfig)
    speaker: Literal["encoders", "statistics"] = "encoders"
    prosody: ProsodyConfig = field(default_factory=ProsodyConfig)
    reduced_prosody: ProsodyConfig | None = None
    full_context: FullContextConfig | None = None


def build_networks(config: Config, content_head: bool = False) -> dict[str, nn.Module]:
    """Return the networks by name, without memory for their weights (on the meta device): they are loaded into."""
    lm, full_context = config.acoustic_lm, config.full_context
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "acoustic_lm": AcousticLM(lm, content_head),
            "content_encoder": ContentEncoder(config.content_encoder, config.frames),
            "codec": Codec(config.codec, config.frames),
        }
        if config.speaker == "encoders":
            networks["style_encoder"] = StyleEncoder(lm.style_width, config.style_layers)
            networks["timbre_encoder"] = TimbreEncoder(
                config.timbre_channels, lm.timbre_width, config.timbre_latents, config.timbre_heads
            )
        if full_context is not None:
            networks["full_context"] = FullContext(full_context, config.content_encoder.code_width)
    return networks


def read_states(folder: Path) -> tuple[dict[str, checkpoint.StateDict], Config]:
    """Read a checkpoint, the five published files or a converted one: state dicts by network, and sizes.

    Raises CheckpointError.
    """
    if not checkpoint.is_converted(folder):
        return checkpoint.read_published(folder), Config()
    states, values = checkpoint.read_converted(folder)
    return states, config_from_values(values)


def read_config(folder: Path) -> Config:
    """Read the sizes of a checkpoint, and not its weights. Raises CheckpointError."""
    if not checkpoint.is_converted(folder):
        return Config()
    return config_from_values(checkpoint.read_document(folder)["config"])


def context_used(context: Context, config: Config) -> Literal["full", "causal"]:
    """Return the context in which a model of this configuration hears. Raises ValueError where it has not the one."""
    if context == "full" and config.full_context is None:
        raise ValueError("this model has no full context, which pipelines.fit_full_context gives it: use causal")
    return "full" if context != "causal" and config.full_context is not None else "causal"


def prosody_used(prosody: Prosody, config: Config) -> Literal["full", "reduced"]:
    """Return how much prosody a model of this configuration keeps. Raises ValueError where it has not the one."""
    if prosody == "reduced" and config.reduced_prosody is None:
        raise ValueError("this model has no reduced prosody, which its configuration would name: use full")
    return "reduced" if prosody != "full" and config.reduced_prosody is not None else "full"


def config_from_values(values: Mapping[str, Any]) -> Config:
    """Read the configuration of a converted checkpoint."""
    parts = {
        "content_encoder": ContentEncoderConfig,
        "codec": CodecConfig,
        "spectral": SpectralConfig,
        "whisper": WhisperConfig,
        "acoustic_lm": AcousticLMConfig,
        "frames": FrameConfig,
        "full_context": FullContextConfig,
        "prosody": ProsodyConfig,
        "reduced_prosody": ProsodyConfig,
    }

    def read(kind: type, fields: Mapping[str, Any]) -> Any:
        return kind(**{name: value(name, found) for name, found in fields.items()})

    def value(name: str, found: Any) -> Any:
        if name in parts and found is not None:
            return read(parts[name], found)
        return tuple(found) if isinstance(found, list) else found

    followed = {name: values[name] for name in ("loudness", "brightness") if name in values}
    if followed and "prosody" in values:
        raise checkpoint.CheckpointError(f"{' and '.join(followed)} belong into prosody, which is there as well")
    if followed:  # as they were written before there was more to prosody
        values = {name: found for name, found in values.items() if name not in followed} | {"prosody": followed}
    try:
        config: Config = read(Config, values)
    except (TypeError, AttributeError) as error:
        raise checkpoint.CheckpointError(f"the configuration does not fit this version: {error}") from None
    encoder, lm = config.content_encoder, config.acoustic_lm
    if (2**encoder.bits, encoder.pitch_codes) != (lm.content_codes, lm.pitch_codes):
        raise checkpoint.CheckpointError(
            f"the content encoder has {2**encoder.bits} codes and {encoder.pitch_codes} of pitch, the language model "
            f"{lm.content_codes} and {lm.pitch_codes}: they must be the same"
        )
    for name, prosody in (("prosody", config.prosody), ("reduced_prosody", config.reduced_prosody)):
        if prosody is None and name == "reduced_prosody":
            continue
        try:
            if not isinstance(prosody, ProsodyConfig):
                raise ValueError(f"a mapping is wanted, not {prosody!r}")
            prosody.check()
        except ValueError as error:
            raise checkpoint.CheckpointError(f"{name}: {error}") from None
    if encoder.nearest != 1 and not (
        isinstance(encoder.nearest, int)
        and isinstance(encoder.spread, int | float)
        and encoder.code_width
        and 1 < encoder.nearest <= 2**encoder.bits
        and 0.0 < encoder.spread < math.inf
    ):
        raise checkpoint.CheckpointError(
            f"the content encoder hears the {encoder.nearest} nearest codes: that takes a codebook that has as many, "
            "and a spread above 0"
        )
    if config.full_context is not None:
        if not encoder.code_width:
            raise checkpoint.CheckpointError("full context needs a content encoder with a codebook")
        try:
            check_sizes(config.full_context)
            check_frames(config.frames.sample_rate, config.frames.samples)
        except ValueError as error:
            raise checkpoint.CheckpointError(str(error)) from None
    if lm.averaged and lm.acoustic_codes != math.prod(config.codec.levels):
        raise checkpoint.CheckpointError(
            f"the codec has {math.prod(config.codec.levels)} codes, the language model {lm.acoustic_codes}: codes that "
            "are averaged must be the same"
        )
    return config


def convert(source: str | Path, target: Path, config: Config | None = None) -> None:
    """Write a published checkpoint as one safetensors file and one JSON configuration in the folder `target`.

    Raises CheckpointError where the source is not what the networks need.
    """
    folder = checkpoint.resolve(source)
    config = config or Config()
    networks = build_networks(config)
    checkpoint.load_networks(networks, checkpoint.read_published(folder))
    checkpoint.save_converted(target, networks, config, checkpoint.published_digests(folder))
