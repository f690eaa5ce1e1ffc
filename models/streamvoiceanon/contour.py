"""The pitch contour of speech as codes: how a voice moves, one code a frame, and not how high it is.

What the content encoder learns from phonemes tells little of intonation, and emotion lives there. A contour needs no
weights: the fundamental frequency is where the wave is most like its own delayed copy (normalised cross-correlation,
Talkin, "A robust algorithm for pitch tracking", 1995), and a code says how far it lies above what the voice has had so
far, which begins at what is usual of the speaker where that is known. The height itself, the speaker's, is left out.
"""

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000  # hertz
WINDOW = 1024  # samples, 64 ms, that end with the frame
SHORTEST, LONGEST = 32, 267  # lags in samples: 500 to 60 Hz
VOICED = 0.6  # correlation from which a frame has a pitch
LAG_COST = 0.1  # of the longest lag: twice a period correlates as well as the period
QUIET = 1e-6  # mean square under which nothing is heard, -60 dB
HALF_RANGE = 1.0  # octaves that codes reach above and below
FRAMES_AT_ONCE = 512  # of a wave whose mean is wanted: memory does not grow with it
MEMORY = 100  # voiced frames that the voice's own height is the mean of, four seconds


class PitchContour(nn.Module):
    """Samples at 16 kHz to codes: 0 where a frame has no pitch, else 1 to `codes` - 1 from low to high."""

    silence: Tensor

    def __init__(self, codes: int, frame_samples: int) -> None:
        super().__init__()
        if codes < 2 or codes % 2:
            raise ValueError("an even number of codes: one of them is silence, and one in their middle is the mean")
        if frame_samples > WINDOW:
            raise ValueError(f"frames of {frame_samples} samples: a contour is heard in {WINDOW} at a time")
        self.codes, self.frame_samples = codes, frame_samples
        with torch.device("cpu"):
            self.register_buffer("silence", torch.zeros(WINDOW - frame_samples), persistent=False)

    def initial_state(self, batch: int, usual: float | None = None) -> tuple[Tensor, Tensor]:
        """The samples before the first frame, silence, and of each voice its mean height and the frames heard.

        Where the `usual` height is known, in octaves above 1 Hz, it is as if the voice had been heard for long.
        """
        known = self.silence.new_tensor([0.0, 0.0] if usual is None else [usual, MEMORY])
        return self.silence.repeat(batch, 1), known.repeat(batch, 1)

    def forward(self, samples: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map samples [B, n frames] to codes [B, n], int64, and the state on."""
        past, known = state
        samples = torch.cat([past, samples], dim=1)
        octaves, voiced = measure(samples.unfold(1, WINDOW, self.frame_samples))
        mean, heard = known.unbind(1)
        above = torch.zeros_like(octaves)
        for frame in range(octaves.shape[1]):
            now = voiced[:, frame]
            heard = heard + now
            share = torch.where(now, 1.0 / heard.clamp(1, MEMORY), 0.0)
            mean = mean + share * (octaves[:, frame] - mean)
            above[:, frame] = octaves[:, frame] - mean
        middle = self.codes // 2
        steps = (above * (middle - 1) / HALF_RANGE).round().clamp(1 - middle, middle - 1).long()
        codes = torch.where(voiced, middle + steps, 0)
        return codes, (samples[:, samples.shape[1] - past.shape[1] :], torch.stack([mean, heard], dim=1))


def measure(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Map windows [..., n] to their pitch in octaves above 1 Hz, and to whether they have one; `n` > 2 x LONGEST."""
    size = windows.shape[-1]
    x = windows - windows.mean(-1, keepdim=True)
    spectrum = torch.view_as_real(torch.fft.rfft(x, 2 * size)).square().sum(-1)
    correlation = torch.fft.irfft(spectrum, 2 * size)[..., : LONGEST + 2]
    energy = torch.nn.functional.pad(x.square().cumsum(-1), (1, 0))
    lags = torch.arange(LONGEST + 2, device=x.device)
    head = energy[..., size - lags]  # of the samples that have a copy `lag` later, and of those copies
    tail = energy[..., -1:] - energy[..., lags]
    curve = correlation / (head * tail + 1e-12).sqrt()
    inner = curve[..., SHORTEST : LONGEST + 1]
    peak = (inner >= curve[..., SHORTEST - 1 : LONGEST]) & (inner >= curve[..., SHORTEST + 1 : LONGEST + 2])
    score = inner * (1.0 - LAG_COST * lags[SHORTEST : LONGEST + 1] / LONGEST)
    best = score.masked_fill(~peak, -1.0).argmax(-1, keepdim=True)
    before, here, after = (curve.gather(-1, best + SHORTEST + step).squeeze(-1) for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = torch.where(bend < 0, 0.5 * (before - after) / bend.clamp(max=-1e-6), 0.0)
    lag = best.squeeze(-1) + SHORTEST + shift
    voiced = (here > VOICED) & peak.gather(-1, best).squeeze(-1) & (x.square().mean(-1) > QUIET)
    return torch.where(voiced, (SAMPLE_RATE / lag).log2(), 0.0), voiced


def mean_pitch(wave: Tensor, frame_samples: int) -> tuple[float, int]:
    """Return the mean pitch of a wave [samples] at 16 kHz, in octaves above 1 Hz, and in how many frames it has one.

    The frames are those of a contour, and 0.0 is the mean of none.
    """
    past, frames = WINDOW - frame_samples, -(-len(wave) // frame_samples)
    padded = nn.functional.pad(wave, (past, frames * frame_samples - len(wave)))
    total, count = 0.0, 0
    for first in range(0, frames, FRAMES_AT_ONCE):
        here = padded[first * frame_samples : (first + FRAMES_AT_ONCE) * frame_samples + past]
        octaves, voiced = measure(here.unfold(0, WINDOW, frame_samples))
        total, count = total + float(octaves[voiced].double().sum()), count + int(voiced.sum())
    return total / max(1, count), count
