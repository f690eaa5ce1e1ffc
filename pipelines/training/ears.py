"""A model's own ears: what a training listens with."""

from typing import cast

from models.streamvoiceanon.codec import Codec
from models.streamvoiceanon.content_encoder import ContentEncoder
from models.streamvoiceanon.training.listening import Listener, Loudspeaker
from pipelines.training.model_folder import Base


def listener_of(base: Base) -> Listener:
    """Return who hears waves [B, n frames] as the model's content encoder does."""
    return Listener(cast(ContentEncoder, base.network("content_encoder")), base.config.frames)


def loudspeaker_of(base: Base) -> Loudspeaker:
    """Return what says acoustic codes with the model's codec and hears them with its content encoder."""
    return Loudspeaker(cast(Codec, base.network("codec")), listener_of(base), base.config.frames)
