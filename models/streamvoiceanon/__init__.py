"""StreamVoiceAnon: a neural anonymizer for files and live speech, equal to the published one and faster."""

from models.streamvoiceanon.checkpoint import CheckpointError
from models.streamvoiceanon.config import Config, convert
from models.streamvoiceanon.model import StreamVoiceAnon
from models.streamvoiceanon.voices import Voice, VoiceBank

__all__ = ["CheckpointError", "Config", "StreamVoiceAnon", "Voice", "VoiceBank", "convert"]
