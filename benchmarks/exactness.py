"""At full size: a long stream against the whole utterance, and what a long utterance adds to memory.

    python -m benchmarks.exactness [--frames 3000] [--minutes 1 10]

The weights are the deterministic ones of `benchmarks/streamvoiceanon.py`, the speech is noise. 3,000 frames are 139
seconds, past the 2,048 positions of the published rotary table. Takes six minutes on two cores.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.streamvoiceanon import prepare, random_voice
from models.streamvoiceanon import StreamVoiceAnon
from models.streamvoiceanon import checkpoint as checkpoints
from models.streamvoiceanon.content_encoder import likeliest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=int, default=3_000)
    parser.add_argument("--minutes", type=int, nargs=2, default=[1, 10])
    parser.add_argument("--folder", type=Path, default=Path("build/benchmark-checkpoint"))
    options = parser.parse_args()
    if not checkpoints.is_converted(options.folder):
        prepare(options.folder)
    model = StreamVoiceAnon.from_pretrained(options.folder)
    compare_streams(model, options.frames)
    measure_memory(model, *options.minutes)


@torch.inference_mode()
def compare_streams(model: StreamVoiceAnon, frames: int) -> None:
    """Print how far what is streamed, frame by frame, is from what is computed from the whole."""
    draw = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(frames * model.frame_samples, generator=draw)
    encoder, codes = model.content_encoder, []
    state = encoder.initial_state(1, chunk=1)
    for frame in wave.split(model.frame_samples):
        code, state = encoder(frame.unsqueeze(0), state)
        codes.append(code[0])
    equal = int((likeliest(torch.cat(codes)) == likeliest(model.encode_content(wave))).sum())
    print(f"content codes that are equal: {equal} of {frames}", flush=True)
    acoustic = torch.randint(model.config.acoustic_lm.acoustic_codes, (8, frames), generator=draw)
    state, samples = model.codec.initial_decoder_state(1), []
    for column in acoustic.split(1, dim=1):
        part, state = model.codec.decode(column.unsqueeze(0), state)
        samples.append(part[0])
    distance = float((torch.cat(samples) - model.decode_acoustic(acoustic)).abs().max())
    print(f"decoded samples, largest difference: {distance:g}", flush=True)


def measure_memory(model: StreamVoiceAnon, shorter: int, longer: int) -> None:
    """Print how much the peak of memory grows from a short utterance to a long one, both in minutes."""
    voice, peaks = random_voice(48), []
    for minutes in (shorter, longer):
        wave = 0.1 * torch.randn(minutes * 60 * model.sample_rate, generator=torch.Generator().manual_seed(1))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        model.anonymize([wave], [voice])
        status = Path("/proc/self/status").read_text().splitlines()
        peaks.append(int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 2**10)
        print(f"after {minutes} minutes: peak {peaks[-1]:.0f} MiB, one wave {wave.nbytes / 2**20:.0f} MiB", flush=True)
    print(f"grown by {peaks[1] - peaks[0]:.0f} MiB")


if __name__ == "__main__":
    main()
