"""What client and server say to each other over `WS /v1/stream`; docs/streaming.md tells it in full.

JSON text messages steer, binary messages are audio. The client opens with `start`, the server answers `ready`, audio
flows both ways in chunks of any length, `stats` may be asked for, and `end` makes the server send the tail, `ended` and
an orderly close. Whatever goes wrong ends with one `error` message whose code says what to do, and a close code.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Wave = NDArray[np.float32]

MINIMUM_RATE, MAXIMUM_RATE = 8_000, 96_000
ENCODINGS: dict[str, np.dtype[Any]] = {"pcm16": np.dtype("<i2"), "float32": np.dtype("<f4")}
MAXIMUM_TEXT = 4_096  # characters of a client's JSON message


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RandomVoice(_Message):
    """A new voice that nobody can ask for again."""

    kind: Literal["random"] = "random"


class SeededVoice(_Message):
    """The voice of a seed: the same seed gives the same voice, for a call that is taken up again."""

    kind: Literal["seed"]
    seed: Annotated[int, Field(ge=0, lt=2**64)]


class NamedVoice(_Message):
    """A voice of the server's bank; `GET /v1/about` lists their names."""

    kind: Literal["named"]
    name: Annotated[str, Field(min_length=1, max_length=64)]


Voice = Annotated[RandomVoice | SeededVoice | NamedVoice, Field(discriminator="kind")]


class Start(_Message):
    """The client's first message."""

    type: Literal["start"]
    token: Annotated[str, Field(max_length=256)] = ""
    sample_rate: Annotated[int, Field(ge=MINIMUM_RATE, le=MAXIMUM_RATE)]
    encoding: Literal["pcm16", "float32"] = "pcm16"
    voice: Voice = RandomVoice()
    resumes: Annotated[str | None, Field(pattern=r"^[0-9a-f]{16}$")] = None  # the id of the lost session it replaces


class Ask(_Message):
    """What the client may say later: `stats` asks for figures, `end` for the tail."""

    type: Literal["stats", "end"]


@dataclass(frozen=True)
class Fault:
    """Why a session ends: the WebSocket close code, and whether the same start may succeed later."""

    close: int
    retry: bool


FAULTS = {
    "bad_start": Fault(4400, False),
    "unauthorised": Fault(4401, False),
    "bad_message": Fault(4402, False),
    "idle": Fault(4408, True),
    "too_slow": Fault(4409, True),
    "resumed": Fault(4410, False),
    "too_big": Fault(4413, False),
    "too_long": Fault(4414, False),
    "too_many": Fault(4429, True),
    "too_fast": Fault(4430, False),
    "internal": Fault(4500, True),
    "full": Fault(4503, True),
    "shutting_down": Fault(1012, True),
}

# Close codes of the WebSocket server below the application, which sends no `error` message first: a message above its
# own limit, 16 MiB; and its ping unanswered for twenty seconds, or a failure.
UNSAID = {1009: "too_big", 1011: "internal"}


class Refusal(Exception):
    """Ends a session with an `error` message; `code` is a key of FAULTS, `detail` a sentence for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    @property
    def close(self) -> int:
        """The WebSocket close code."""
        return FAULTS[self.code].close

    def message(self) -> str:
        """Return the `error` message."""
        return encode({"type": "error", "code": self.code, "detail": self.detail, "retry": FAULTS[self.code].retry})


_asks: TypeAdapter[Ask] = TypeAdapter(Ask)


def encode(message: dict[str, Any]) -> str:
    """Return a JSON text message without needless spaces."""
    return json.dumps(message, separators=(",", ":"))


def read_start(text: str) -> Start:
    """Return the start message; raises Refusal("bad_start") that names the field and never repeats the token."""
    if len(text) > MAXIMUM_TEXT:
        raise Refusal("too_big", f"a text message has at most {MAXIMUM_TEXT} characters")
    try:
        return Start.model_validate_json(text)
    except ValidationError as fault:
        raise Refusal("bad_start", _first_error(fault)) from None


def read_ask(text: str) -> Ask:
    """Return a later message; raises Refusal("bad_message")."""
    if len(text) > MAXIMUM_TEXT:
        raise Refusal("too_big", f"a text message has at most {MAXIMUM_TEXT} characters")
    try:
        return _asks.validate_json(text)
    except ValidationError as fault:
        raise Refusal("bad_message", _first_error(fault)) from None


def _first_error(fault: ValidationError) -> str:
    """Return where and why validation failed, without the input: it may hold a token."""
    error = fault.errors(include_input=False, include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in error["loc"]) or "message"
    return f"{place[:64]}: {error['msg'][:120]}"


class PcmReader:
    """Turns binary messages cut anywhere, even inside a sample, into float32 waves [n] in [-1, 1]."""

    def __init__(self, encoding: str) -> None:
        self.dtype = ENCODINGS[encoding]
        self.rest = b""

    def read(self, data: bytes) -> Wave:
        """Return the whole samples; raises Refusal("bad_message") for float samples that are not finite."""
        data = self.rest + data if self.rest else data
        whole = len(data) - len(data) % self.dtype.itemsize
        self.rest = data[whole:]
        samples = np.frombuffer(data[:whole], self.dtype)
        if self.dtype.kind == "i":
            return samples.astype(np.float32) / np.float32(32_768)
        if not np.isfinite(samples).all():
            raise Refusal("bad_message", "audio holds samples that are not finite")
        return np.clip(samples, -1.0, 1.0).astype(np.float32)


def write_pcm(wave: Wave, encoding: str) -> bytes:
    """Return a wave [n] as PCM16 or float32, little-endian; what exceeds [-1, 1] is clipped."""
    if encoding == "pcm16":
        return np.clip(np.rint(wave * 32_768.0), -32_768, 32_767).astype("<i2").tobytes()
    return np.clip(wave, -1.0, 1.0).astype("<f4").tobytes()
