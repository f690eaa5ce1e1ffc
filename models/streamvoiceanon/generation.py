"""Writing acoustic codes with the acoustic language model: the order of a sequence, sampling, refilling, many at once.

A sequence is the speaker condition, then content and acoustic vectors in turn. With a delay of d frames, content
frame t is followed by acoustic frame t - d: first the prompt's frames, then the source's without a mark. The first d
acoustic places hold wait-for-start vectors, the d content places past the last frame hold wait-for-end vectors. Every
sequence has its own generator and its own row in the cache; what it becomes depends on nothing else in the batch.

A code is one choice among many that are about as likely, and what is close to all of them is more often right than the
one that was chosen. Where the codec's codes are numbers that can be averaged (`Codec.values`), the mean can be spoken
instead. What the language model reads of its own past is the chosen code all the same.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.streamvoiceanon import kernels
from models.streamvoiceanon.acoustic_lm import MAX_DELAY, AcousticLM, FastState
from models.streamvoiceanon.state import put, take
from models.streamvoiceanon.transformer import TransformerState

KEPT_FRAMES = 32  # source frames that a refilled sequence starts with


@dataclass(frozen=True)
class Prompt:
    """What a sequence starts with: speaker condition [n, width], content codes [P], acoustic codes [codebooks, P]."""

    condition: Tensor
    content: Tensor
    acoustic: Tensor


@dataclass
class Writer:
    """One sequence as it is being written."""

    prompt: Prompt
    delay: int
    generator: torch.Generator | None  # None: greedy
    pending: Tensor  # the last acoustic vector [width], not yet read by the slow transformer
    prefix: int = 0  # vectors that a refill keeps
    frames: int = 0  # content frames in the sequence, the prompt's included
    given: int = 0  # acoustic frames still to come from the prompt
    content: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT_FRAMES))  # vectors of the last frames
    acoustic: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT_FRAMES))  # what followed each of them


def check_delay(delay: int) -> None:
    """Raise ValueError unless the wait embeddings cover `delay` frames."""
    if not 0 <= delay <= MAX_DELAY:
        raise ValueError(f"delay must be between 0 and {MAX_DELAY} frames, not {delay}")


def sample(logits: Tensor, uniform: Tensor, greedy: Tensor, top_p: float = 0.7, temperature: float = 0.7) -> Tensor:
    """Map logits [B, codes] to codes [B]: the best where `greedy` (bool [B]), else the one that `uniform` [B] falls on.

    Of the codes in order of probability those are kept whose probabilities, their own included, sum to at most `top_p`
    (the best always); their logits, divided by the temperature, give the distribution to draw from.
    """
    logits = logits.float()
    if logits.device.type == "cpu" and kernels.available():
        return kernels.draw_codes(logits, uniform, greedy, top_p, temperature)
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    beyond = ordered.softmax(-1).cumsum(-1) > top_p
    beyond[:, 0] = False
    cumulative = (ordered / temperature).masked_fill(beyond, -torch.inf).softmax(-1).cumsum(-1)
    drawn = (cumulative <= uniform.unsqueeze(1) * cumulative[:, -1:]).sum(-1)
    drawn = drawn.clamp(max=logits.shape[1] - 1).masked_fill(greedy, 0)
    return index.gather(1, drawn.unsqueeze(1)).squeeze(1)


class WriterBatch:
    """Up to `slots` sequences that are written in step, each in a slot of its own, of at most `vectors` vectors."""

    def __init__(self, lm: AcousticLM, slots: int, vectors: int, values: Tensor | None = None) -> None:
        """With `values` [codebooks, codes, channels], what each code means, means of them are returned for codes."""
        self._lm, self._values = lm, None if values is None else values.transpose(1, 2).contiguous()
        self._state: TransformerState = lm.initial_state(slots, vectors)
        self._writers: list[Writer | None] = [None] * slots
        self._fast: dict[int, FastState] = {}

    def free_slot(self) -> int | None:
        """The first slot that holds no sequence, if any."""
        return next((slot for slot, writer in enumerate(self._writers) if writer is None), None)

    def start(self, slot: int, prompt: Prompt, delay: int, generator: torch.Generator | None) -> None:
        """Read a prompt into a slot; None for `generator` writes the best code always."""
        check_delay(delay)
        lm = self._lm
        self._state.restart(slot)
        wait = lm.decoder.wait4start_embedding.weight[:delay]
        acoustic = torch.cat(
            [wait, lm.embed_acoustic(prompt.acoustic)]
        )  # (delay + P, width): what follows content frame i
        content = lm.embed_content(prompt.content)
        frames = len(content)
        vectors = torch.stack([content, acoustic[:frames]], dim=1).flatten(0, 1)[
            :-1
        ]  # its last acoustic one is pending
        self._read(slot, torch.cat([prompt.condition, vectors]))
        self._writers[slot] = Writer(
            prompt,
            delay,
            generator,
            pending=acoustic[frames - 1],
            prefix=int(self._state.position[slot]),
            frames=frames,
            given=delay,
        )

    def end(self, slot: int) -> None:
        """Free a slot."""
        self._writers[slot] = None

    def step(self, content: dict[int, Tensor]) -> dict[int, Tensor]:
        """Read one content vector [width] in each of these slots; return codes [codebooks] where a frame was written,
        or what they mean on average [codebooks, channels].

        In the first `delay` steps of a sequence the acoustic frames that follow are the prompt's last, and nothing is
        returned.
        """
        lm = self._lm
        slots = sorted(content)
        writers = [self._writer(slot) for slot in slots]
        for slot, writer in zip(slots, writers, strict=True):
            if writer.frames >= lm.config.max_frames:
                self._refill(slot, writer)
        rows = torch.tensor(slots)
        vectors = torch.stack(
            [torch.stack([writer.pending, content[slot]]) for slot, writer in zip(slots, writers, strict=True)]
        )
        hidden, moved = lm.slow(vectors, take(self._state, rows))
        put(self._state, rows, moved)
        writing = [i for i, writer in enumerate(writers) if writer.given == 0]
        spoken: dict[int, Tensor] = {}
        if writing:
            codes, logits = self._write(hidden[writing, -1], [writers[i] for i in writing])
            frames = codes if self._values is None else average(logits, self._values)
            for i, frame, vector in zip(writing, frames, lm.embed_acoustic(codes.T), strict=True):
                spoken[slots[i]], writers[i].pending = frame, vector
        for slot, writer in zip(slots, writers, strict=True):
            if slot not in spoken:
                writer.pending = self._prompt_vector(writer, len(writer.prompt.content) - writer.given)
                writer.given -= 1
            writer.frames += 1
            writer.content.append(content[slot])
            writer.acoustic.append(writer.pending)
        return spoken

    def _writer(self, slot: int) -> Writer:
        writer = self._writers[slot]
        if writer is None:
            raise ValueError(f"slot {slot} holds no sequence")
        return writer

    def _prompt_vector(self, writer: Writer, frame: int) -> Tensor:
        """What an acoustic place holds that belongs to prompt frame `frame`; before the first one, the wait vectors."""
        if frame < 0:
            return self._lm.decoder.wait4start_embedding.weight[frame + writer.delay]
        return self._lm.embed_acoustic(writer.prompt.acoustic[:, frame : frame + 1])[0]

    def _read(self, slot: int, vectors: Tensor) -> None:
        row = torch.tensor([slot])
        _, moved = self._lm.slow(vectors.unsqueeze(0), take(self._state, row))
        put(self._state, row, moved)

    def _refill(self, slot: int, writer: Writer) -> None:
        """Make the sequence what it would be had the source begun 32 frames ago.

        The cache of the prompt stands as it is (a causal model read it before anything else): only the last frames
        are read again, with the prompt's last `delay` acoustic frames in their first places.
        """
        prompt_frames = len(writer.prompt.content)
        content, acoustic = list(writer.content), list(writer.acoustic)
        first = [self._prompt_vector(writer, prompt_frames - writer.delay + i) for i in range(writer.delay)]
        acoustic = (first + acoustic[writer.delay :])[: len(content)]
        before = self._prompt_vector(writer, prompt_frames - 1 - writer.delay)
        places = [before, *(vector for pair in zip(content, acoustic, strict=True) for vector in pair)]
        self._state.position[slot] = writer.prefix
        self._read(slot, torch.stack(places[:-1]))
        writer.pending = places[-1]
        writer.frames = prompt_frames + len(content)

    def _write(self, hidden: Tensor, writers: list[Writer]) -> tuple[Tensor, Sequence[Tensor]]:
        """Write a frame of each sequence from its hidden state: codes [B, codebooks], and of every codebook the logits
        [B, codes] from which they were drawn."""
        lm, count = self._lm, len(writers)
        if count not in self._fast:
            self._fast[count] = lm.fast_state(count)
        greedy = torch.tensor([writer.generator is None for writer in writers], device=hidden.device)
        codebooks, top_p, temperature = lm.config.codebooks, lm.config.top_p, lm.config.temperature
        draws = [
            torch.zeros(codebooks) if writer.generator is None else torch.rand(codebooks, generator=writer.generator)
            for writer in writers
        ]
        uniform = torch.stack(draws, dim=1).to(hidden.device)
        state = self._fast[count]
        if state.writer is not None:
            codes, logits = state.writer(hidden, uniform, greedy, top_p, temperature)
            return codes.T, logits.unbind()
        left, seen = iter(uniform), []

        def choose(logits: Tensor) -> Tensor:
            seen.append(logits)
            return sample(logits, next(left), greedy, top_p, temperature)

        return lm.write_frame(hidden, choose, state), seen


def average(logits: Sequence[Tensor], values: Tensor) -> Tensor:
    """Map the logits [B, codes] of each codebook to the means of `values` [codebooks, channels, codes] by their
    probabilities, [B, codebooks, channels]; on a CPU every row by itself, to the last bit."""
    likely = torch.stack(list(logits), dim=1).float().softmax(-1)
    return (likely.unsqueeze(2) * values).sum(-1)


def vectors_needed(lm: AcousticLM, prompt: Prompt, frames: int, delay: int) -> int:
    """How many vectors a sequence of `frames` source frames comes to, with refilling."""
    most = min(len(prompt.content) + frames + delay, lm.config.max_frames)
    return len(prompt.condition) + 2 * most


@dataclass(frozen=True)
class Utterance:
    """Content, codes [T] or codes and their shares [T, n, 2], to be spoken after a prompt."""

    content: Tensor
    prompt: Prompt
    generator: torch.Generator | None


def write_all(
    lm: AcousticLM,
    utterances: Sequence[Utterance],
    delay: int,
    most: int,
    cache_bytes: int,
    values: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, codes [codebooks, T]) of each utterance as it is done; with `values` [codebooks, codes, channels]
    what the codes mean on average, [codebooks, T, channels].

    At most `most` are written at once, fewer where their caches would pass `cache_bytes`; a slot that becomes free
    takes the next. The longest start first, so that few are left at the end. An utterance without content comes back
    at once.
    """
    check_delay(delay)
    config = lm.config
    empty = torch.zeros(config.codebooks, 0, dtype=torch.int64)
    if values is not None:
        empty = values[:, :0]
    waiting = deque(sorted(range(len(utterances)), key=lambda i: -len(utterances[i].content)))
    while waiting and not len(utterances[waiting[-1]].content):
        yield waiting.pop(), empty
    if not waiting:
        return
    vectors = max(vectors_needed(lm, utterances[i].prompt, len(utterances[i].content), delay) for i in waiting)
    number = (lm.cache_dtype or lm.embedding.weight.dtype).itemsize
    bytes_each = vectors * config.slow_layers * 2 * config.width * number
    slots = max(1, min(most, len(waiting), cache_bytes // bytes_each))
    batch = WriterBatch(lm, slots, vectors, values)
    at: dict[int, int] = {}  # slot: index of its utterance
    read: dict[int, int] = {}  # slot: content frames read
    written: dict[int, list[Tensor]] = {}
    wait = lm.decoder.wait4end_embedding.weight
    while waiting or at:
        while waiting and (slot := batch.free_slot()) is not None:
            index = waiting.popleft()
            batch.start(slot, utterances[index].prompt, delay, utterances[index].generator)
            at[slot], read[slot], written[slot] = index, 0, []
        # Vectors are made as they are read: those of an hour would take 240 MB.
        contents = {slot: utterances[index].content for slot, index in at.items()}
        codes = batch.step(
            {
                slot: lm.embed_content(content[read[slot]])
                if read[slot] < len(content)
                else wait[read[slot] - len(content)]
                for slot, content in contents.items()
            }
        )
        for slot in list(at):
            read[slot] += 1
            if slot in codes:
                written[slot].append(codes[slot])
            if read[slot] == len(contents[slot]) + delay:
                batch.end(slot)
                yield at.pop(slot), torch.stack(written.pop(slot), dim=1)
