"""Pseudonyms and seeds: repeatable with the key, unlinkable without it."""

from operators.keys import keyed_seed, pseudonym

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def test_a_pseudonym_is_the_same_under_the_same_key_alone() -> None:
    assert pseudonym(KEY, "utterance", "a") == pseudonym(KEY, "utterance", "a")
    assert pseudonym(KEY, "utterance", "a") != pseudonym(OTHER, "utterance", "a")


def test_an_utterance_and_a_speaker_of_one_name_do_not_share_a_pseudonym() -> None:
    assert pseudonym(KEY, "utterance", "a") != pseudonym(KEY, "speaker", "a")


def test_seeds_are_spread_over_64_bits_and_separated_by_purpose() -> None:
    seeds = {keyed_seed(KEY, purpose, str(name)) for purpose in ("voice", "sampling") for name in range(500)}
    assert len(seeds) == 1000
    assert max(seeds) > 2**63
    assert max(seeds) < 2**64
