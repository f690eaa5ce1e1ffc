"""The small shape with its parts and next to no weights: Whisper's trunk, several codes at once, pulses, means."""

from dataclasses import replace

from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.spectral import SpectralConfig
from models.streamvoiceanon.whisper_trunk import WhisperConfig

TINY_SMALL = replace(
    SMALL,
    content_encoder=replace(
        SMALL.content_encoder,
        widths=(32,),
        heads=2,
        hidden=32,
        bits=5,
        whisper=WhisperConfig(width=32, heads=2, hidden=64, layers=1),
        nearest=4,
        spread=0.5,
    ),
    codec=replace(SMALL.codec, depths=(1, 1), widths=(16, 32), spectral=SpectralConfig(pulses=True, depth=1)),
    acoustic_lm=replace(
        SMALL.acoustic_lm, content_codes=32, width=32, heads=2, hidden=32, slow_layers=1, fast_layers=1
    ),
)
