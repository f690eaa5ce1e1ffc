"""Messages: what is taken, what is refused and with which words."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.protocol import FAULTS, PcmReader, Refusal, read_ask, read_start, write_pcm

START = {"type": "start", "sample_rate": 16_000}


def test_the_shortest_start_asks_for_a_random_voice_in_pcm16() -> None:
    start = read_start(json.dumps(START))
    assert (start.encoding, start.voice.kind, start.token) == ("pcm16", "random", "")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": "16000"}, "sample_rate"),
        ({"sample_rate": True}, "sample_rate"),
        ({"sample_rate": 1e9}, "sample_rate"),
        ({"encoding": "mp3"}, "encoding"),
        ({"voice": {"kind": "seed", "seed": -1}}, "voice.seed"),
        ({"voice": {"kind": "seed", "seed": 2**64}}, "voice.seed"),
        ({"voice": {"kind": "named"}}, "voice.named.name"),
        ({"voice": {"kind": "mine"}}, "voice"),
        ({"type": "begin"}, "type"),
        ({"more": 1}, "more"),
        ({"token": 7}, "token"),
    ],
)
def test_a_bad_start_names_the_field(change: dict[str, object], place: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_start(json.dumps(START | change))
    assert refused.value.code == "bad_start"
    assert refused.value.detail.startswith(place.split(".")[0])


def test_a_refusal_never_repeats_the_token() -> None:
    with pytest.raises(Refusal) as refused:
        read_start(json.dumps(START | {"token": "sesame" * 50}))
    assert "sesame" not in refused.value.message()


@given(
    st.text(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["type", "token", "voice", "kind", "sample_rate"]), inner, max_size=5)
        ),
        max_leaves=9,
    ).map(json.dumps)
)
def test_whatever_comes_is_a_start_or_a_refusal(text: str) -> None:
    for read in (read_start, read_ask):
        refusal = None
        try:
            read(text)
        except Refusal as caught:
            refusal = caught
        if refusal is not None:
            assert refusal.code in FAULTS
            assert json.loads(refusal.message())["code"] == refusal.code


def test_a_text_message_has_a_length_limit() -> None:
    with pytest.raises(Refusal) as refused:
        read_start(json.dumps(START | {"token": "x" * 5_000}))
    assert refused.value.code == "too_big"


@given(st.binary(max_size=4_000), st.lists(st.integers(0, 50), max_size=20))
def test_pcm_may_be_cut_anywhere(data: bytes, sizes: list[int]) -> None:
    reader, at, waves = PcmReader("pcm16"), 0, []
    for size in sizes:
        waves.append(reader.read(data[at : at + size]))
        at += size
    waves.append(reader.read(data[at:]))
    wave = np.concatenate(waves)
    assert write_pcm(wave, "pcm16") == data[: len(data) // 2 * 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_audio_must_be_finite(bad: float) -> None:
    with pytest.raises(Refusal) as refused:
        PcmReader("float32").read(np.array([0.1, bad], "<f4").tobytes())
    assert refused.value.code == "bad_message"


@given(st.binary(max_size=400))
def test_float_audio_stays_within_full_scale(data: bytes) -> None:
    try:
        wave = PcmReader("float32").read(data)
    except Refusal:
        return
    assert np.abs(wave).max(initial=0.0) <= 1.0


def test_what_is_too_loud_is_clipped_not_wrapped() -> None:
    loud = np.array([-2.0, -1.0, 1.0, 2.0], np.float32)
    assert np.frombuffer(write_pcm(loud, "pcm16"), "<i2").tolist() == [-32_768, -32_768, 32_767, 32_767]
