"""Shapes of the network, by name. `docs/training.md` says why the smaller ones are as they are."""

from dataclasses import replace

from models.streamvoiceanon.acoustic_lm import AcousticLMConfig
from models.streamvoiceanon.codec import CodecConfig
from models.streamvoiceanon.config import Config
from models.streamvoiceanon.content_encoder import ContentEncoderConfig
from models.streamvoiceanon.frontend import FrameConfig
from models.streamvoiceanon.prosody import ProsodyConfig
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.whisper_trunk import WhisperConfig

FULL = Config()

MINI = Config(
    content_encoder=ContentEncoderConfig(
        bands=80, depths=(2, 4), widths=(128, 192), heads=4, hidden=384, layers=3, window=128, bits=11
    ),
    codec=CodecConfig(
        bands=80,
        depths=(2, 1),
        widths=(128, 192),
        codebooks=8,
        levels=(4, 4, 4, 4),
        bounds=1,
        spectral=SpectralConfig(),
    ),
    acoustic_lm=AcousticLMConfig(
        content_codes=2048,
        acoustic_codes=256,
        codebooks=8,
        width=256,
        heads=4,
        hidden=512,
        slow_layers=5,
        fast_layers=2,
        timbre_width=0,
        style_width=160,
    ),
    timbre_latents=0,
    frames=FrameConfig(sample_rate=16_000, window=640, hop=320, halvings=1),
    speaker="statistics",
)

SMALL = replace(
    MINI,
    content_encoder=ContentEncoderConfig(
        depths=(),
        widths=(512,),
        heads=8,
        hidden=1024,
        layers=1,
        window=128,
        bits=12,
        whisper=WhisperConfig(width=512, heads=8, hidden=2048),  # four of Whisper base's six layers
        code_width=16,
        pitch_codes=32,
        nearest=16,
        spread=8.0,
    ),
    codec=replace(MINI.codec, spectral=SpectralConfig(pulses=True)),
    acoustic_lm=replace(
        MINI.acoustic_lm,
        content_codes=4096,
        max_frames=224,
        top_p=0.01,  # the best code always
        pitch_codes=32,
        prompt_frames=50,
        delay=3,  # 160 ms with the frame itself; codes tell the frame before theirs
        averaged=True,
    ),
    prosody=ProsodyConfig(loudness=10.0, brightness=10.0),
    reduced_prosody=ProsodyConfig(contour=0.5),
)

# The small shape while its content encoder is trained, by signs. `pipelines.fit_codebook` makes it SMALL.
SMALL_SIGNS = replace(SMALL, content_encoder=replace(SMALL.content_encoder, code_width=0, nearest=1))

SHAPES = {"full": FULL, "mini": MINI, "small": SMALL, "small-signs": SMALL_SIGNS}
