"""A report's figures in the VoicePrivacy challenges' terms."""

import csv

from release_sample import ReportMaker

from governance.vpc import COLUMNS, vpc_table


def rows_of(table: str) -> list[dict[str, str]]:
    return list(csv.DictReader(table.splitlines(), delimiter="\t"))


def test_figures_are_in_per_cent_with_their_attack_and_gender(make_report: ReportMaker) -> None:
    rows = rows_of(vpc_table([make_report()[0]]))
    assert all(tuple(row) == COLUMNS for row in rows)
    lazy = {row["gender"]: row for row in rows if row["attacker"] == "lazy_informed"}
    assert {gender: row["value"] for gender, row in lazy.items()} == {
        "all": "47.00",
        "female": "44.00",
        "male": "48.00",
    }
    assert (lazy["all"]["enrolment"], lazy["all"]["trial"], lazy["all"]["metric"]) == ("a", "a", "EER")
    (ignorant,) = (row for row in rows if row["attacker"] == "ignorant")
    assert (ignorant["enrolment"], ignorant["trial"], ignorant["lower"], ignorant["upper"]) == (
        "o",
        "a",
        "45.00",
        "50.00",
    )


def test_words_and_emotions_stand_for_both_sides(make_report: ReportMaker) -> None:
    rows = rows_of(vpc_table([make_report()[0]]))
    utility = {(row["metric"], row["trial"]): row["value"] for row in rows if not row["attacker"]}
    assert utility == {("WER", "o"): "7.00", ("WER", "a"): "11.00", ("UAR", "o"): "86.00", ("UAR", "a"): "70.00"}


def test_several_reports_share_a_table_and_no_name_breaks_it(make_report: ReportMaker) -> None:
    first, second = make_report()[0], make_report(dataset="two\twords\nand more")[0]
    rows = rows_of(vpc_table([first, second]))
    assert {row["dataset"] for row in rows} == {"read sentences", "two words and more"}
    assert all(row["trustworthy"] == "yes" for row in rows)
