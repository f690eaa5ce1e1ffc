"""The drawings show what they say, and survive what data can do to them."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from release_sample import ReportMaker

from governance.drawing import clean
from governance.evidence import Evidence
from governance.plots import draw_all, population_series, subgroup_series
from metrics.estimate import Estimate


def test_there_is_a_drawing_for_all_that_there_is_evidence_for(make_report: ReportMaker) -> None:
    _, evidence = make_report()
    assert [plot.name for plot in draw_all(evidence)] == [
        "scores-unprotected",
        "scores-lazy_informed",
        "det",
        "linkability",
        "singling-out",
        "confusion-original",
        "confusion-anonymized",
        "subgroup-gender-privacy-lazy-informed-eer",
    ]


def test_every_drawing_is_well_formed_and_its_colours_follow_the_page(make_report: ReportMaker) -> None:
    for plot in draw_all(make_report()[1]):
        ET.fromstring(plot.svg)
        assert "var(--ink, #1d2733)" in plot.svg
        assert "<style" not in plot.svg
        assert "#0" not in plot.svg.replace("#000000", "")


def test_words_in_a_drawing_are_text_and_name_the_guess(make_report: ReportMaker) -> None:
    drawings = {plot.name: plot.svg for plot in draw_all(make_report()[1])}
    assert ">guessing</text>" in drawings["linkability"]
    assert ">guessing</text>" in drawings["singling-out"]
    assert ">90 %</text>" in drawings["confusion-original"]


def test_scores_that_are_all_equal_missing_or_not_finite_can_be_drawn() -> None:
    same, none, broken = np.full(5, 0.3), np.array([]), np.array([np.nan, np.inf, 0.2])
    for mated, nonmated in ((same, same), (none, same), (none, none), (broken, same)):
        assert len(draw_all(Evidence(metrics={}, scores={"ignorant": (mated, nonmated)}))) == 2


def test_an_emotion_nobody_was_labelled_with_is_no_division_by_zero() -> None:
    evidence = Evidence(metrics={}, confusions={"original": np.array([[2, 0], [0, 0]])}, emotion_classes=("a", "b"))
    (plot,) = draw_all(evidence)
    assert ">none</text>" in plot.svg
    assert "b 0 % of 0" in plot.alt


def test_populations_are_in_order_and_without_what_is_not_finite() -> None:
    some = Estimate(0.2, 0.1, 0.3, 9)
    head = "privacy.ignorant.linkability"
    metrics = {f"{head}.20": some, f"{head}.5": some, f"{head}.100": Estimate(np.nan, np.nan, np.nan, 0)}
    assert [n for n, _ in population_series(metrics, "linkability")["ignorant"]] == [5, 20]


def test_subgroups_are_collected_by_metric_and_column() -> None:
    some = Estimate(0.2, 0.1, 0.3, 9)
    metrics = {f"subgroup.{group}.utility.wer.anonymized": some for group in ("gender.m", "gender.f", "age.30")}
    assert [(name, column, [value for value, _ in groups]) for name, column, groups in subgroup_series(metrics)] == [
        ("utility.wer.anonymized", "age", ["30"]),
        ("utility.wer.anonymized", "gender", ["f", "m"]),
    ]


def test_subgroups_with_odd_names_keep_their_drawings_apart() -> None:
    some = Estimate(0.2, 0.1, 0.3, 9)
    columns = ("a", "/a", "ä", "x" * 300)
    evidence = Evidence(metrics={f"subgroup.{column}.v.utility.wer.anonymized": some for column in columns})
    names = [plot.name for plot in draw_all(evidence)]
    assert len(set(names)) == 4
    assert all(len(name) < 100 and "/" not in name for name in names)


def test_of_very_many_subgroups_the_worst_are_drawn() -> None:
    groups = {f"g{n:03}": Estimate(n / 200, n / 200, n / 200, 9) for n in range(100)}
    evidence = Evidence(metrics={f"subgroup.town.{name}.utility.wer.anonymized": e for name, e in groups.items()})
    (plot,) = draw_all(evidence)
    assert "(the worst 24 of 100)" in plot.title
    assert "g099" in plot.svg
    assert "g076" in plot.svg
    assert "g075" not in plot.svg


@pytest.mark.parametrize(
    ("label", "cleaned"),
    [("sad\x00\n", "sad"), ("", "(empty)"), ("x" * 60, "x" * 27 + "…"), ("éß 漢", "éß 漢")],
)
def test_a_label_is_one_short_printable_line(label: str, cleaned: str) -> None:
    assert clean(label) == cleaned
