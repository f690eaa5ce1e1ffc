"""What the commands print: progress while a job runs, then the decision, each rule with its figure, and the paths."""

import json as json_module
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from governance.catalogue import describe, written, written_range
from governance.lineage import without_secrets
from governance.report import Figure, Report, RuleVerdict
from operators.schema import InputError
from pipelines.config import Job, load_job
from pipelines.progress import tracking_progress
from pipelines.registered import with_local_model
from pipelines.release import Kind, Outcome, plan_job, run_job

STYLES = {"release": ("green", "RELEASE"), "review": ("yellow", "REVIEW"), "withhold": ("red", "WITHHOLD")}
SAMPLE = Path(__file__).parents[1] / "sample" / "english" / "index.parquet"


def decide_job(job: Job, kind: Kind, resume: bool, dry_run: bool, json: Path | None, console: Console) -> int:
    """Run a job (or only check it) and return the exit code of its decision."""
    job = with_local_model(job)
    if dry_run:
        describe_plan(job, kind, console)
        return 0
    if json is not None:
        check_json_target(json)
    with tracking_progress(console) as track:
        outcome = run_job(job, kind, resume, track)
    print_outcome(outcome, console)
    if json is not None:
        result = outcome.report.machine_result(outcome.paths, outcome.mlflow_run_id)
        part = json.with_name(f".{json.name}.part")
        part.write_text(json_module.dumps(result, indent=2) + "\n")
        part.replace(json)
    return 0 if outcome.report.decision == "release" else 3


def check_json_target(json: Path) -> None:
    """Make sure that the result can be written, and that no older result is taken for it. Raises InputError."""
    try:
        json.unlink(missing_ok=True)
        json.touch()
        json.unlink()
    except OSError as fault:
        raise InputError(f"--json {json} cannot be written: {fault.strerror}") from None


def describe_plan(job: Job, kind: Kind, console: Console) -> None:
    """Check everything that can be checked, the first rows included, and say what would run."""
    from pipelines.evidence.semi_informed import folds_suffice
    from pipelines.survey import check_first_rows

    plan = plan_job(job, kind)
    faults = check_first_rows(job, plan.survey)
    survey = plan.survey
    console.print(
        f"[bold]{kind}[/] of {escape(without_secrets(job.index))} as {job.name}: the checks passed, nothing was run",
        soft_wrap=True,
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("rows", f"{survey.rows}, {survey.usable_rows} of them with an id of their own")
    table.add_row("speakers", str(survey.speakers))
    table.add_row("languages", ", ".join(map(escape, survey.languages)) or f"not said; {plan.language} is assumed")
    table.add_row("first rows", escape("; ".join(faults)) or "can be read")
    table.add_row("anonymizer", f"{job.anonymizer}, a voice for every {job.voice_level}")
    if hears := plan.anonymizer.config.get("context"):
        table.add_row("heard", "to the end" if hears == "full" else "as in a live call")
    if prosody := plan.anonymizer.config.get("prosody"):
        table.add_row("prosody", str(prosody))
    table.add_row("key", f"from {job.key_env}" if plan.has_key else "made for the run and thrown away")
    table.add_row("kept columns", ", ".join(job.keep_columns) or "none")
    for model in plan.auditors:
        table.add_row(model.role, f"{model.uri} sha256:{model.digest[:12]}")
    if plan.training is not None:
        table.add_row(
            "semi-informed", f"trained on {plan.training.speakers} speakers of {escape(str(job.attacker_corpus))}"
        )
    elif plan.network is not None:
        table.add_row("semi-informed", f"{escape(plan.network.uri)}, trained on {plan.network.card.speakers} speakers")
    elif plan.trains_in_folds:
        enough = "" if folds_suffice(survey.speakers) else f"; {survey.speakers} speakers are too few to believe it"
        table.add_row(
            "semi-informed", f"trained on folds of the corpus itself{enough}; --attacker-corpus names another"
        )
    table.add_row("policy", f"{plan.policy.name} {plan.policy.version}, {len(plan.policy.rules)} rules")
    table.add_row("MLflow", escape(without_secrets(plan.tracking)))
    if kind == "release":
        table.add_row("would release to", str(plan.target))
    console.print(table)
    for sentence in plan.told:
        console.print(escape(sentence), soft_wrap=True)


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the decision, the rules, and where report, data and MLflow are."""
    print_decision(outcome.report, console)
    for name, path in outcome.paths.items():
        console.print(f"{name.replace('_', ' '):<12} {path}", soft_wrap=True)
    if outcome.tracking.startswith(("http://", "https://")):
        console.print(f"MLflow       {without_secrets(outcome.tracking)}, run {outcome.mlflow_run_id}", soft_wrap=True)
    else:
        mlflow = os.path.relpath(Path(sys.executable).parent / "mlflow")
        console.print(f"MLflow       {mlflow} ui --backend-store-uri {outcome.tracking}", soft_wrap=True)


def print_decision(report: Report, console: Console) -> None:
    """Print the decision and a line for each rule: expectation, value, interval, verdict."""
    style, word = STYLES[report.decision]
    console.print(
        Panel(escape(report.sentence), title=f"[bold]{word}[/]: {report.lineage.dataset}", border_style=style)
    )
    table = Table("rule", "expected", "measured", "95 % interval", "verdict", box=None, header_style="bold")
    for rule in report.rules:
        verdict = "[green]met[/]" if rule.passed else f"[{STYLES[rule.on_fail][0]}]not met[/]"
        table.add_row(escape(rule.title), escape(rule.expectation), *_measured(rule), verdict)
    console.print(table)
    for reason in dict.fromkeys(reason for rule in report.rules if rule.figure for reason in rule.figure.reasons):
        console.print(f"[yellow]not trustworthy:[/] {escape(reason)}")
    counts = report.lineage.counts
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.reasons.items())
    console.print(
        f"rows         {counts.input} in = {counts.released} usable + {counts.quarantined} quarantined"
        + (f" ({reasons})" if reasons else "")
    )


def _measured(rule: RuleVerdict) -> tuple[str, str]:
    """Return a rule's value and interval as people read them."""
    figure: Figure | None = rule.figure
    if figure is None or figure.value is None:
        return "not measured", ""
    unit = describe(rule.metric).unit
    value = written(figure.value, unit) + ("" if figure.trustworthy else " (not trustworthy)")
    if figure.lower is None or figure.upper is None or figure.lower == figure.upper:
        return value, ""
    return value, written_range(figure.lower, figure.upper, unit)


def anonymize_only(job: Job, resume: bool, console: Console) -> None:
    """Run the anonymizing half and say where the result lies."""
    from pipelines.release import run_anonymize

    job = with_local_model(job)
    with tracking_progress(console) as track:
        run, rows, reasons = run_anonymize(job, resume, track)
    console.print(f"{rows} utterances in {run.staged}, {sum(reasons.values())} quarantined; nobody attacked them yet")


def run_demo(output: Path, console: Console) -> None:
    """Release the sample corpus; a withheld result is a demonstration as good as any."""
    if not SAMPLE.exists():
        raise InputError(f"the sample corpus is missing at {SAMPLE}; run the demo from a checkout of the project")
    options = {"index": str(SAMPLE), "name": "sample", "output": output, "keep_columns": "text,emotion,gender,language"}
    job = load_job(None, options)
    with tracking_progress(console) as track:
        outcome = run_job(job, "release", False, track)
    print_outcome(outcome, console)


def clean_runs(folder: Path, remove: bool, console: Console) -> None:
    """List the abandoned runs below a folder, and delete them where that is asked."""
    from pipelines.abandoned import find_abandoned, remove_run

    runs = find_abandoned(folder)
    for run in runs:
        if remove:
            remove_run(run)
        told = f"{run.size / 1e6:,.1f} MB, started {run.started:%Y-%m-%d %H:%M} UTC"
        console.print(f"{'removed' if remove else 'abandoned'}  {run.folder}  ({told})", soft_wrap=True)
    if not runs:
        console.print(f"no run below {folder} is unfinished and left alone", soft_wrap=True)
    elif not remove:
        console.print(
            "`--resume` with the command that started one goes on with it; `voxveil clean --remove` deletes them"
        )


def show_reports(folders: list[Path], console: Console) -> None:
    """Print the report of each run, or of the newest run of each dataset."""
    for path, report in map(find_report, folders):
        print_decision(report, console)
        console.print(f"report       {path.with_suffix('.html')}", soft_wrap=True)


def show_vpc_table(folders: list[Path]) -> None:
    """Write the figures of the reports to standard output as the VoicePrivacy challenges name them."""
    from governance.vpc import vpc_table

    sys.stdout.write(vpc_table([report for _, report in map(find_report, folders)]))


def find_report(folder: Path) -> tuple[Path, Report]:
    """Return the report of a run, or of the newest run of a dataset, and where it lies. Raises InputError."""
    candidates = [folder] if folder.is_file() else sorted(folder.glob("**/report/report.json"))
    if not candidates:
        raise InputError(f"{folder} holds no report.json; name a dataset's folder, such as voxveil-out/<name>")
    try:
        return candidates[-1], Report.from_json(candidates[-1].read_text())
    except ValueError as fault:
        raise InputError(f"{candidates[-1]} is not a report: {str(fault).splitlines()[0]}") from None
