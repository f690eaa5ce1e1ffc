"""The report as one HTML file that needs nothing else: no script, no style sheet, no request.

It opens in MLflow's artifact viewer, on paper and on a telephone, in light and in dark. Everything that comes from the
data is escaped by the template engine.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from governance.catalogue import SCENARIO_TITLES, Meaning, Unit, describe, written, written_range
from governance.evidence import Evidence
from governance.plots import Plot, draw_all
from governance.report import Figure, Report, RuleVerdict

if TYPE_CHECKING:
    from jinja2 import Environment

HEADLINES = {
    ("release", "release"): "This data may be used",
    ("release", "review"): "A person has to decide",
    ("release", "withhold"): "This data must not be released",
    ("audit", "release"): "This data would meet the policy",
    ("audit", "review"): "A person has to look at this data",
    ("audit", "withhold"): "This data no longer meets the policy",
}


@dataclass(frozen=True)
class Gauge:
    """Where a figure, its interval and its bound lie between the ends of a scale, in per cent of its width."""

    value: float
    lower: float
    upper: float
    allowed_from: float
    allowed_to: float
    bound: float
    start: str
    end: str


@dataclass(frozen=True)
class Row:
    """One line of a table of figures; `cells` are value, interval and whether it counts, one for each column."""

    title: str
    explanation: str
    cells: tuple[tuple[str, str, bool], ...]


def write_report(report: Report, evidence: Evidence, folder: Path) -> list[Path]:
    """Write report.html, report.json, policy.yaml and plots/*.svg into `folder`, and return their paths."""
    plots = draw_all(evidence)
    texts = {
        "report.html": report_html(report, evidence, plots),
        "report.json": report.to_json(),
        "policy.yaml": report.policy.text,
    }
    texts |= {f"plots/{plot.name}.svg": plot.svg for plot in plots}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def report_html(report: Report, evidence: Evidence, plots: list[Plot] | None = None) -> str:
    """Return the page. `plots` saves drawing them again where the caller has them already."""
    plots = draw_all(evidence) if plots is None else plots
    page = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            lineage=report.lineage,
            counts=report.lineage.counts,
            headline=HEADLINES[report.lineage.job, report.decision],
            failed=[rule for rule in report.rules if not rule.passed],
            met=[rule for rule in report.rules if rule.passed],
            attackers=_attackers(report),
            attacker_titles=[SCENARIO_TITLES[scenario] for scenario in _scenarios(report)],
            inference=_inference(report),
            utility=_utility(report),
            worst=_worst_subgroups(report),
            untrusted=_untrusted(report),
            figures=[(describe(name), figure) for name, figure in report.metrics.items()],
            plots=plots,
        )
    )
    return re.sub(r"(?<=\d) %", "\u00a0%", page)  # a number and its unit stay on one line


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda figure, unit: _value(figure, unit)
    environment.filters["interval"] = lambda figure, unit: _interval(figure, unit)
    environment.filters["short"] = lambda text: text.replace(" percentage points", " points")
    environment.filters["gauge"] = gauge
    environment.filters["unit"] = lambda name: describe(name.replace(".*", ".2")).unit
    # a drawing is made here, and matplotlib escapes the text in it
    environment.filters["drawing"] = lambda plot: Markup(plot.svg)
    return environment


def _value(figure: Figure | None, unit: Unit) -> str:
    return "not measured" if figure is None or figure.value is None else written(figure.value, unit)


def _interval(figure: Figure | None, unit: Unit) -> str:
    if figure is None or figure.lower is None or figure.upper is None or figure.lower == figure.upper:
        return ""
    return written_range(figure.lower, figure.upper, unit)


def gauge(rule: RuleVerdict) -> Gauge | None:
    """Lay a rule out on a scale; None where there is no figure or no limit to draw."""
    figure = rule.figure
    if figure is None or figure.value is None or rule.limit is None:
        return None
    unit = describe(rule.metric).unit
    lower = figure.value if figure.lower is None else figure.lower
    upper = figure.value if figure.upper is None else figure.upper
    start, end = _scale(unit, min(lower, rule.limit, figure.value), max(upper, rule.limit, figure.value))

    def place(number: float) -> float:
        return round(100 * min(max((number - start) / (end - start), 0.0), 1.0), 2)

    at_least = rule.expectation.startswith("at least")
    return Gauge(
        value=place(figure.value),
        lower=place(lower),
        upper=place(upper),
        allowed_from=place(rule.limit) if at_least else 0.0,
        allowed_to=100.0 if at_least else place(rule.limit),
        bound=place(rule.limit),
        start=_tick(start, unit),
        end=_tick(end, unit),
    )


def _tick(number: float, unit: Unit) -> str:
    """Return the end of a scale as short as it can be written."""
    return f"{100 * number:g} points" if unit == "points" else written(number, unit, -1 if unit == "score" else 0)


def _scale(unit: Unit, lowest: float, highest: float) -> tuple[float, float]:
    """Return the ends of a scale on which the numbers are told apart: that of the unit, or a round part of it."""
    if unit == "score":
        return 1.0, 5.0
    if unit == "correlation":
        return (0.0 if lowest >= 0 else -1.0), 1.0
    step = next((step for step in (0.1, 0.2, 0.5, 1.0) if max(highest, -lowest) <= step), math.ceil(highest))
    return (-step if lowest < 0 else 0.0), float(step)


def _scenarios(report: Report) -> list[str]:
    return [scenario for scenario in SCENARIO_TITLES if any(f"privacy.{scenario}." in name for name in report.metrics)]


def _cell(report: Report, name: str, unit: Unit) -> tuple[str, str, bool]:
    figure = report.metrics.get(name)
    if figure is None:
        return ("n/a", "", True)
    return (_value(figure, unit), _interval(figure, unit), figure.trustworthy)


def _attackers(report: Report) -> list[Row]:
    """Return the privacy figures, a row a criterion, a column a scenario; the longest list stands for all of them."""
    scenarios = _scenarios(report)
    endings = ["eer", "min_cllr", "cllr"]
    for kind in ("linkability", "singling_out"):
        populations = [
            int(name.rsplit(".", 1)[1])
            for name in report.metrics
            if name.startswith("privacy.") and name.rsplit(".", 1)[0].endswith(f".{kind}")
        ]
        endings += [f"{kind}.{max(populations)}"] if populations else []
    rows = []
    for ending in endings:
        names = [f"privacy.{scenario}.{ending}" for scenario in scenarios]
        if any(name in report.metrics for name in names):
            meaning = describe(names[0])
            title = meaning.title.split(": ", 1)[1]
            cells = tuple(_cell(report, name, meaning.unit) for name in names)
            rows.append(Row(title[0].upper() + title[1:], meaning.explanation, cells))
    return rows


def _inference(report: Report) -> list[tuple[str, tuple[str, str, bool], tuple[str, str, bool], str]]:
    """Return (attribute, from the original, from the anonymized speech, chance) for every attribute."""
    attributes = sorted(
        {
            name.removeprefix("privacy.inference.").rsplit(".", 1)[0]
            for name in report.metrics
            if name.startswith("privacy.inference.")
        }
    )
    rows = []
    for attribute in attributes:
        head = f"privacy.inference.{attribute}"
        chance = report.chance.get(f"{head}.anonymized", report.chance.get(f"{head}.original"))
        told = written(chance, "share") if chance is not None else "not known"
        rows.append(
            (attribute, _cell(report, f"{head}.original", "share"), _cell(report, f"{head}.anonymized", "share"), told)
        )
    return rows


def _utility(report: Report) -> list[Row]:
    """Return what is left of the speech: a row a measure, columns original, anonymized and the comparison of both."""
    pairs = [("utility.wer", "increase"), ("utility.cer", "increase"), ("utility.uar", "retained")]
    recalled = {name.rsplit(".", 1)[0] for name in report.metrics if name.startswith("utility.recall.")}
    pairs += [(head, "") for head in sorted(recalled)]
    pairs += [("utility.dnsmos", "")]
    rows: list[Row] = []
    for head, compared in pairs:
        names = [f"{head}.original", f"{head}.anonymized"]
        if not any(name in report.metrics for name in (*names, f"{head}.{compared}")):
            continue
        meaning = describe(names[0])
        cells = [_cell(report, name, meaning.unit) for name in names]
        change = f"{head}.{compared}"
        value, interval, counts = ("", "", True)
        if change in report.metrics:
            value, interval, counts = _cell(report, change, describe(change).unit)
            value = f"{value} {'more' if compared == 'increase' else compared}"
        explained = any(row.explanation == meaning.explanation for row in rows)  # once is enough
        title = meaning.title.replace(", original speech", "")
        rows.append(Row(title, "" if explained else meaning.explanation, (*cells, (value, interval, counts))))
    for name in ("utility.emotion_agreement", "utility.pitch_correlation", "utility.duration_ratio"):
        if name in report.metrics:
            meaning = describe(name)
            cell = _cell(report, name, meaning.unit)
            rows.append(Row(meaning.title, meaning.explanation, (("", "", True), ("", "", True), cell)))
    return rows


def _worst_subgroups(report: Report) -> list[tuple[Meaning, Figure, int]]:
    """Return, for every metric measured in two groups or more of a column, the group that fares worst."""
    groups: dict[tuple[str, str], list[tuple[Meaning, Figure]]] = {}
    for name, figure in report.metrics.items():
        meaning = describe(name)
        if meaning.subgroup and figure.value is not None and meaning.better != "either":
            groups.setdefault((meaning.for_everyone, meaning.subgroup[0]), []).append((meaning, figure))
    worst = []
    for members in groups.values():
        sign = 1 if members[0][0].better == "higher" else -1
        meaning, figure = min(members, key=lambda member: sign * (member[1].value or 0.0))
        if len(members) > 1:
            worst.append((meaning, figure, len(members)))
    return worst


def _untrusted(report: Report) -> dict[str, list[str]]:
    """Return the reasons why figures prove nothing, each with the titles of the figures it concerns."""
    concerned: dict[str, list[str]] = {}
    for name, figure in report.metrics.items():
        if not figure.trustworthy:
            for reason in figure.reasons or ("The audit gives no reason.",):
                concerned.setdefault(reason, []).append(describe(name).full_title)
    return concerned
