"""The page that people read: complete, self-contained, and deaf to what the data would like it to run."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from release_sample import ReportMaker

from governance.evidence import Evidence
from governance.page import report_html, write_report
from governance.plots import draw_all
from metrics.estimate import Estimate

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Outline(HTMLParser):
    """Collects what a page is made of, and checks that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if re.fullmatch(r"h\d", tag):
            self.headings.append((tag, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if self.headings and self.open and self.open[-1] == self.headings[-1][0]:
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    @property
    def words(self) -> str:
        return " ".join(self.text.replace("\u00a0", " ").split())


def test_the_decision_stands_first_and_the_rules_next(make_report: ReportMaker) -> None:
    outline = Outline(report_html(*make_report(good=False)))
    assert outline.headings[0] == ("h1", "This data must not be released")
    assert outline.headings[1] == ("h2", "The rules")
    assert outline.headings[3] == ("h3", "Lazy-informed attacker: equal error rate")


def test_each_rule_has_its_sentence_its_bound_its_interval_and_its_reason(make_report: ReportMaker) -> None:
    report, evidence = make_report(good=False)
    words = Outline(report_html(report, evidence)).words
    for rule in report.rules:
        assert rule.sentence in words
        assert " ".join(rule.reason.split()) in words
        assert rule.metric in words
    assert "27.1 to 39.1 %" in words


def test_every_figure_every_note_and_every_reason_for_quarantine_is_told(make_report: ReportMaker) -> None:
    report, evidence = make_report()
    words = Outline(report_html(report, evidence)).words
    assert all(name in words for name in report.metrics)
    assert "Enrolment and trial are utterances of one session." in words
    assert "3 of 100 recordings could not be used" in words
    assert "unreadable 2" in words
    assert "This data may be used" in words


def test_what_proves_nothing_is_marked_and_explained(make_report: ReportMaker) -> None:
    report, evidence = make_report()
    doubtful = report.metrics["privacy.lazy_informed.eer"].model_copy(
        update={"trustworthy": False, "reasons": ("The attacker is weak on original speech.",)}
    )
    report = report.model_copy(update={"metrics": report.metrics | {"privacy.lazy_informed.eer": doubtful}})
    words = Outline(report_html(report, evidence)).words
    assert "Not trustworthy: The attacker is weak on original speech." in words
    assert "47.0 % 43.0 to 50.0 % not trustworthy" in words


def test_the_group_that_is_worst_off_is_named(make_report: ReportMaker) -> None:
    words = Outline(report_html(*make_report())).words
    assert re.search(r"Lazy-informed attacker: equal error rate gender: female of 2 groups 44\.0 %", words)


def test_the_page_needs_nothing_from_outside_and_runs_nothing(make_report: ReportMaker) -> None:
    page = report_html(*make_report())
    outline = Outline(page)
    assert not outline.tags & {"script", "iframe", "object", "embed", "link", "base", "form", "img", "image"}
    for tag, name, value in outline.attributes:
        assert not name.startswith("on"), f"<{tag} {name}>"
        if name in ("href", "xlink:href", "src", "action", "data"):
            assert value.startswith("#"), f"<{tag} {name}={value}>"
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) <= {f"#{name}" for name in outline.ids}
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in outline.attributes


def test_names_from_the_data_cannot_become_part_of_the_page(make_report: ReportMaker) -> None:
    report, evidence = make_report(
        dataset=HOSTILE,
        counts={"input": 2, "released": 1, "quarantined": 1, "reasons": {HOSTILE: 1}},
        software={HOSTILE: HOSTILE},
        index_uri=f"/data/{HOSTILE}",
        notes=(HOSTILE,),
    )
    figure = Estimate(0.4, 0.3, 0.5, 5, trustworthy=False, reasons=(HOSTILE,))
    attack = '--></style></svg><img src=x onerror="alert(1)"> $\\frac{$ \x00\n'
    hostile = Evidence(
        metrics={
            **evidence.metrics,
            f"subgroup.{HOSTILE}.{attack}.privacy.lazy_informed.eer": figure,
            f"subgroup.{HOSTILE}.b.privacy.lazy_informed.eer": figure,
            f"utility.recall.{HOSTILE}.original": figure,
            f"privacy.inference.{HOSTILE}.anonymized": figure,
        },
        scores=evidence.scores,
        confusions={"original": np.array([[3, 1], [0, 2]])},
        emotion_classes=(HOSTILE, attack),
    )
    report = report.model_copy(
        update={
            "metrics": report.metrics
            | {
                name: report.metrics["privacy.lazy_informed.eer"].model_copy(
                    update={"trustworthy": False, "reasons": (HOSTILE,)}
                )
                for name in hostile.metrics.keys() - report.metrics.keys()
            }
        }
    )
    page = report_html(report, hostile)
    outline = Outline(page)
    assert not outline.tags & {"script", "img"}
    assert HOSTILE not in page
    assert HOSTILE in outline.words
    assert not any(name.startswith("on") for _, name, _ in outline.attributes)


def test_no_id_occurs_twice_and_every_drawing_is_told_in_words(make_report: ReportMaker) -> None:
    report, evidence = make_report()
    outline = Outline(report_html(report, evidence))
    assert len(outline.ids) == len(set(outline.ids))
    told = [value for tag, name, value in outline.attributes if tag == "div" and name == "aria-label"]
    assert {plot.alt for plot in draw_all(evidence)} <= {alt.replace("\u00a0", " ") for alt in told}


def test_a_report_without_scores_or_labels_still_reads_well(make_report: ReportMaker) -> None:
    report, _ = make_report()
    only = {"utility.dnsmos.anonymized": report.metrics["utility.dnsmos.anonymized"]}
    counts = report.lineage.counts.model_copy(update={"input": 97, "quarantined": 0, "reasons": {}})
    lineage = report.lineage.model_copy(update={"counts": counts})
    bare = report.model_copy(update={"metrics": only, "notes": (), "lineage": lineage})
    outline = Outline(report_html(bare, Evidence(metrics={"utility.dnsmos.anonymized": Estimate(2.8, 2.7, 2.9, 9)})))
    titles = [text for tag, text in outline.headings if tag == "h2"]
    assert "Can the speakers be recognised?" not in titles
    assert "None: all 97 recordings could be used." in outline.words


def test_writing_twice_gives_the_same_files(make_report: ReportMaker, tmp_path: Path) -> None:
    report, evidence = make_report()
    first = write_report(report, evidence, tmp_path / "a")
    second = write_report(report, evidence, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    names = {path.relative_to(tmp_path / "a").as_posix() for path in first}
    assert {"report.html", "report.json", "policy.yaml", "plots/det.svg"} <= names
    assert (tmp_path / "a" / "policy.yaml").read_text() == report.policy.text
