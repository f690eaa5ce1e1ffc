"""Every figure has a name, a meaning and a sentence."""

import pytest

from governance.catalogue import describe, nearest, written, written_range


@pytest.mark.parametrize(
    "name",
    [
        "privacy.unprotected.eer",
        "privacy.semi_informed.min_cllr",
        "privacy.ignorant.cllr",
        "privacy.lazy_informed.linkability.1000",
        "privacy.lazy_informed.singling_out.20",
        "privacy.inference.native language.anonymized",
        "utility.wer.original",
        "utility.cer.increase",
        "utility.uar.retained",
        "utility.recall.very angry.anonymized",
        "utility.emotion_agreement",
        "utility.dnsmos.anonymized",
        "utility.pitch_correlation",
        "utility.duration_ratio",
        "data.quarantined_fraction",
        "subgroup.gender.female.privacy.lazy_informed.eer",
    ],
)
def test_every_stable_name_is_explained(name: str) -> None:
    meaning = describe(name)
    assert meaning.title
    assert meaning.explanation.endswith(".")
    assert "12.3 %" in meaning.claim("12.3 %")
    assert "{" not in meaning.title + meaning.explanation + meaning.claim("12.3 %")


def test_the_value_of_a_subgroup_may_contain_dots() -> None:
    meaning = describe("subgroup.accent.en.US.utility.wer.anonymized")
    assert meaning.subgroup == ("accent", "en.US")
    assert meaning.for_everyone == "utility.wer.anonymized"
    assert meaning.claim("9 %").startswith("Where accent is “en.US”: automatic transcription")


def test_braces_in_a_name_from_the_data_are_only_letters() -> None:
    assert "{value}" in describe("privacy.inference.{value}.anonymized").claim("9 %")


@pytest.mark.parametrize(
    ("mistaken", "meant"),
    [
        ("privacy.lazy_informd.eer", "privacy.lazy_informed.eer"),
        ("privacy.semi_informed.err", "privacy.semi_informed.eer"),
        ("utility.wer", "utility.wer.original"),
        ("data.quarantine_fraction", "data.quarantined_fraction"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(mistaken: str, meant: str) -> None:
    assert nearest(mistaken) == meant
    with pytest.raises(KeyError, match=f"“{mistaken}”; the nearest name is “{meant}”"):
        describe(mistaken)


@pytest.mark.parametrize("name", ["privacy.eer", "privacy.lazy_informed.linkability", "linkability.20", "", "x" * 500])
def test_a_name_that_is_almost_right_is_not_accepted(name: str) -> None:
    with pytest.raises(KeyError):
        describe(name)


def test_chance_follows_from_the_name() -> None:
    assert describe("privacy.ignorant.eer").chance == 0.5
    assert describe("privacy.ignorant.linkability.20").chance == 0.05
    assert describe("privacy.ignorant.singling_out.2").chance == 0.5
    assert describe("utility.wer.original").chance is None


def test_a_strong_attacker_on_original_speech_is_what_one_wants() -> None:
    assert describe("privacy.unprotected.eer").better == "lower"
    assert describe("privacy.lazy_informed.eer").better == "higher"
    assert describe("privacy.lazy_informed.linkability.5").better == "lower"


def test_figures_are_written_as_people_read_them() -> None:
    assert written(0.3312, "share") == "33.1 %"
    assert written(0.042, "points") == "4.2 percentage points"
    assert written(2.814, "score") == "2.81"
    assert written_range(0.271, 0.391, "share") == "27.1 to 39.1 %"
    assert written_range(2.71, 2.9, "score") == "2.71 to 2.90"
