"""A report's figures in the VoicePrivacy challenges' terms."""

import csv
from pathlib import Path

from release_sample import ReportMaker
from typer.testing import CliRunner

from governance.report import Figure
from governance.vpc import COLUMNS, vpc_table
from metrics.estimate import Estimate
from pipelines.cli import app


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


def test_an_official_list_has_a_row_of_its_own_with_its_gender(make_report: ReportMaker) -> None:
    figure = Figure.of(Estimate(0.0748, 0.05, 0.1, 16))
    names = [f"subgroup.trials.{name}.privacy.semi_informed.eer" for name in ("libri_test_trials_f", "iemocap")]
    report = make_report()[0]
    rows = rows_of(vpc_table([report.model_copy(update={"metrics": report.metrics | dict.fromkeys(names, figure)})]))
    found = {row["trials"]: (row["gender"], row["value"]) for row in rows if row["attacker"] == "semi_informed"}
    lists = {"libri_test_trials_f": ("f", "7.48"), "iemocap": ("all", "7.48")}
    assert {name: found[name] for name in lists} == lists


def test_the_command_writes_the_table_of_finished_jobs(make_report: ReportMaker, tmp_path: Path) -> None:
    reports = [make_report()[0], make_report(dataset="second")[0]]
    for number, report in enumerate(reports):
        folder = tmp_path / f"job-{number}" / "runs" / "20261122" / "report"
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(report.to_json())
    folders = [str(tmp_path / f"job-{number}") for number in range(2)]
    result = CliRunner().invoke(app, ["report", *folders, "--format", "vpc"])
    assert result.exit_code == 0, result.output
    assert result.stdout == vpc_table(reports)
    missing = CliRunner().invoke(app, ["report", str(tmp_path / "nothing"), "--format", "vpc"])
    assert missing.exit_code == 2
    assert "holds no report.json" in missing.stderr
