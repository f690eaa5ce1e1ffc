"""The McAdams anonymizer: VoicePrivacy's baseline B2, by linear prediction and nothing learned.

Each 20 ms frame is split by linear prediction into an excitation and the resonances of a vocal tract; the angles of the
complex poles are raised to the voice's McAdams coefficient, which shifts the formants, and the frame is put
together again. It needs no weights and protects weakly: an attacker who knows the method undoes much of it, and the
audits say so.

Source: Patino, Tomashenko, Todisco, Nautsch, Evans, "Speaker anonymisation using the McAdams coefficient",
Interspeech 2021; the coefficient is drawn uniformly in [0.5, 0.9] as in the VoicePrivacy 2022 and 2024 baselines.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.signal import lfilter
from torch import Tensor

LPC_ORDER = 20
WINDOW_SECONDS = 0.020
HOP_SECONDS = 0.010
COEFFICIENT_RANGE = (0.5, 0.9)


@dataclass(frozen=True)
class McAdamsVoice:
    """A voice is one coefficient: pole angles (radians) are raised to this power; 1 would leave speech as it is."""

    coefficient: float


class McAdams:
    """The baseline behind the `Anonymizer` interface, at any sample rate."""

    def __init__(self, sample_rate: int = 16_000) -> None:
        self.sample_rate = sample_rate
        self.hop = round(HOP_SECONDS * sample_rate)
        self.window = 2 * self.hop

    def draw_voice(self, seed: int) -> McAdamsVoice:
        """Return the voice of `seed`: a coefficient drawn uniformly from COEFFICIENT_RANGE."""
        return McAdamsVoice(float(np.random.default_rng(seed).uniform(*COEFFICIENT_RANGE)))

    def anonymize(
        self,
        waves: Sequence[Tensor],
        voices: Sequence[McAdamsVoice],
        seeds: Sequence[int] | None = None,
        usual_pitch: Sequence[float | None] | None = None,
    ) -> list[Tensor]:
        """Return the waves [samples] with their formants shifted; nothing is sampled and no pitch heard, so `seeds` and
        `usual_pitch` change nothing."""
        outputs = []
        for wave, voice in zip(waves, voices, strict=True):
            stream = self.open_stream(voice)
            outputs.append(torch.cat([stream.push(wave), stream.finish()]))
        return outputs

    def open_stream(self, voice: McAdamsVoice, seed: int = 0) -> "McAdamsStream":
        """Open a live stream; its latency is one window."""
        return McAdamsStream(voice.coefficient, self.sample_rate, self.hop)

    def push_many(self, streams: Sequence["McAdamsStream"], chunks: Sequence[Tensor]) -> list[Tensor]:
        """Push one chunk [n] into each stream and return what each gives back, as its own `push` would.

        The frames of all streams are shifted in one call: what numpy costs a call is paid once, not once a stream.
        No stream may appear twice.
        """
        framed = [stream.take(chunk) for stream, chunk in zip(streams, chunks, strict=True)]
        counts = [len(frames) for frames in framed]
        if sum(counts) == 0:
            return [torch.zeros(0) for _ in streams]
        coefficients = np.repeat([stream.coefficient for stream in streams], counts)
        shifted = shift_formants(np.concatenate(framed), coefficients)
        parts = np.split(shifted, np.cumsum(counts)[:-1])
        return [stream.give(frames) for stream, frames in zip(streams, parts, strict=True)]


class McAdamsStream:
    """Overlap-add over half-overlapping frames; offline is one push of everything.

    State: the source samples that wait for a whole hop, the last hop of source, and the half-finished output of the
    last frame. The stream is primed with one hop of silence, so that the first samples lie under two frames too.
    """

    def __init__(self, coefficient: float, sample_rate: int, hop: int) -> None:
        self.coefficient = coefficient
        self.hop = hop
        self.latency = 2 * hop / sample_rate
        # The square root of a periodic Hann window, on the way in and on the way out: the squares add up to one.
        self.taper = np.sin(np.pi * np.arange(2 * hop) / (2 * hop))
        self.waiting = np.zeros(0)
        self.last_hop = np.zeros(hop)
        self.overlap = np.zeros(hop)
        self.taken = 0
        self.given = -hop  # the primed silence comes out first and is dropped
        self.closed = False

    def push(self, samples: Tensor) -> Tensor:
        """Take samples [n] of any length and return the samples [m] that no later frame will touch."""
        frames = self.take(samples)
        return self.give(shift_formants(frames, self.coefficient) if len(frames) else frames)

    def finish(self) -> Tensor:
        """Return what is still to come, so that as many samples came out as went in, and close the stream."""
        if self.closed:
            raise ValueError("the stream is closed already")
        owed = self.taken - max(self.given, 0)
        padding = -len(self.waiting) % self.hop + 2 * self.hop
        tail = self.push(torch.zeros(padding))
        self.closed = True
        return tail[:owed]

    def take(self, samples: Tensor) -> np.ndarray:
        """Take samples [n] and return the windowed frames (frames, window) that they complete, for `give` to add up."""
        if self.closed:
            raise ValueError("the stream is closed: open a new one for more audio")
        self.taken += len(samples)
        self.waiting = np.concatenate([self.waiting, samples.detach().cpu().numpy().astype(np.float64)])
        count = len(self.waiting) // self.hop
        hops = np.concatenate([self.last_hop, self.waiting[: count * self.hop]]).reshape(count + 1, self.hop)
        self.waiting = self.waiting[count * self.hop :]
        self.last_hop = hops[-1]
        return np.concatenate([hops[:-1], hops[1:]], axis=1) * self.taper

    def give(self, frames: np.ndarray) -> Tensor:
        """Overlap-add the shifted frames (frames, window) and return the samples [m] that are done."""
        count = len(frames)
        if count == 0:
            return torch.zeros(0)
        halves = (frames * self.taper).reshape(count, 2, self.hop)
        halves[1:, 0] += halves[:-1, 1]
        halves[0, 0] += self.overlap
        self.overlap = halves[-1, 1].copy()
        output = halves[:, 0].reshape(-1)
        skip = max(0, -self.given)
        self.given += len(output)
        return torch.from_numpy(output[skip:].astype(np.float32))


def shift_formants(frames: np.ndarray, coefficient: float | np.ndarray) -> np.ndarray:
    """Return windowed frames (frames, window) with the angles of their LPC poles raised to `coefficient`.

    One coefficient for all frames, or one a frame (frames,).
    """
    predictor = linear_prediction(frames, LPC_ORDER)  # (frames, order + 1)
    poles = polynomial_roots(predictor)  # (frames, order)
    angle = np.angle(poles)
    # Raising an angle in (0, pi) to a power keeps conjugate pairs conjugate when the sign is kept apart.
    power = np.reshape(coefficient, (-1, 1))
    moved = np.where(np.abs(poles.imag) > 1e-12, np.sign(angle) * np.abs(angle) ** power, angle)
    shifted = polynomial_from_roots(np.abs(poles) * np.exp(1j * moved))
    output = np.empty_like(frames)
    for index, frame in enumerate(frames):  # the filters differ from frame to frame; scipy runs each in C
        # To the excitation and back to speech in one call: apart, the first costs scipy three times as much.
        output[index] = lfilter(predictor[index], shifted[index], frame)
    # A pole that moves next to another raises the gain many times; each frame keeps the energy that it came with.
    energy = np.square(output).sum(axis=1)
    gain = np.sqrt(np.square(frames).sum(axis=1) / np.maximum(energy, 1e-20))
    return output * gain[:, None]


def linear_prediction(frames: np.ndarray, order: int) -> np.ndarray:
    """Return the predictors (frames, order + 1), first coefficient 1, of windowed frames (frames, window).

    Autocorrelation method, Levinson-Durbin recursion over all frames at once. A little white noise (-90 dB and a
    floor below one 16-bit step) keeps silent frames well-posed.
    """
    size = next_fast_len(frames.shape[1] + order, real=True)  # room for the lags that are read
    spectrum = np.fft.rfft(frames, size)
    correlation = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[:, : order + 1]
    error = correlation[:, 0] * (1 + 1e-9) + 1e-9
    predictor = np.zeros((len(frames), order + 1))
    predictor[:, 0] = 1.0
    for step in range(1, order + 1):
        past = correlation[:, step:0:-1]  # (frames, step): r[step] ... r[1]
        reflection = -(predictor[:, :step] * past).sum(axis=1) / error
        predictor[:, 1 : step + 1] += reflection[:, None] * predictor[:, step - 1 :: -1][:, :step]
        error = error * (1.0 - reflection**2)
    return predictor


def polynomial_roots(coefficients: np.ndarray) -> np.ndarray:
    """Return the roots (frames, order) of monic polynomials (frames, order + 1): eigenvalues of companion matrices."""
    order = coefficients.shape[1] - 1
    companion = np.zeros((len(coefficients), order, order))
    companion[:, 0, :] = -coefficients[:, 1:]
    companion[:, np.arange(1, order), np.arange(order - 1)] = 1.0
    return np.linalg.eigvals(companion).astype(np.complex128)


def polynomial_from_roots(roots: np.ndarray) -> np.ndarray:
    """Return the real monic polynomials (frames, order + 1) of conjugate-closed roots (frames, order)."""
    polynomial = np.zeros((len(roots), roots.shape[1] + 1), dtype=np.complex128)
    polynomial[:, 0] = 1.0
    for index in range(roots.shape[1]):
        polynomial[:, 1 : index + 2] -= roots[:, index, None] * polynomial[:, : index + 1]
    return polynomial.real
