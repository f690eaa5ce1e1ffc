"""The data contract: the columns of a corpus index, and the one error that wrong input raises."""

import pyarrow as pa

# The layout of Hugging Face's `datasets.Audio`: `bytes` or `path` is set; a path is relative to the index's own folder.
AUDIO_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

REQUIRED_COLUMNS = ("utt_id", "speaker_id", "audio")


class InputError(ValueError):
    """The input is wrong in a way that its owner can mend: the message names the row, the file and the mend."""
