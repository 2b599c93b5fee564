"""What came of a retraining, and telling it: a table and a page among Prefect's artifacts, an event, a notification."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.blocks.core import Block
from prefect.events import emit_event

from tasks.expressions import EXPRESSIONS
from tasks.judge import Comparison, Side

EVENT = "ferflow.champion"  # .promoted or .kept
TABLE, PAGE = "retrain-candidates", "retrain-decision"  # keys of the artifacts
NOTHING = "nothing to do"
TOLD = 3  # reasons that fit in a line; all of them are on the page
COLUMNS = {  # of the leaderboard, and how the table shows them
    "candidate": "{}",
    "val_accuracy": "{:.1%}",
    "test_accuracy": "{:.1%}",
    "val_lowest_recall": "{:.1%}",
    "parameters": "{:,.0f}",
    "megabytes": "{:.1f}",
    "verdict": "{}",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a retraining."""

    name: Literal["promoted", "kept", "nothing", "failed"]
    reasons: tuple[str, ...]  # sentences; the first one matters most
    champion: str | None = None  # the version that is deployed afterwards
    other: str | None = None  # what it replaced, or the challenger that did not replace it
    comparison: Comparison | None = None  # of the challenger with the champion before
    changes: dict[str, list[str]] = field(default_factory=dict)  # inputs that had changed, by stage
    failures: dict[str, str] = field(default_factory=dict)  # stages that failed, and why
    commit: str = ""  # that made it the champion
    tag: str = ""

    @property
    def line(self) -> str:
        """What matters most, in a line."""
        subject = {
            "promoted": f"promoted {self.champion}" + (f" in place of {self.other}" if self.other else ""),
            "kept": f"kept {self.champion or 'no champion'}",
            "nothing": NOTHING,
            "failed": "",
        }[self.name]
        more = f" (and {len(self.reasons) - TOLD} more)" if len(self.reasons) > TOLD else ""
        return ": ".join(part for part in (subject, " ".join(self.reasons[:TOLD]) + more) if part)


def tell(outcome: Outcome, notify: str | None) -> None:
    """Leave the decision in Prefect, announce it as an event, and to the notification block of that name."""
    get_run_logger().info(outcome.line)
    if outcome.name in ("promoted", "kept"):
        create_markdown_artifact(page(outcome), PAGE, f"The last decision: {outcome.name}")
        emit_event(
            f"{EVENT}.{outcome.name}",
            resource={"prefect.resource.id": EVENT, "prefect.resource.name": outcome.champion or "none"},
            payload={
                "champion": outcome.champion,
                "other": outcome.other,
                "reasons": list(outcome.reasons),
                "failures": outcome.failures,
            },
        )
    if notify and outcome.name != "nothing":
        _notify(outcome, notify)


def show_candidates(leaderboard: Path) -> None:
    """Leave the leaderboard in Prefect as a table."""
    with leaderboard.open(newline="", encoding="utf-8") as file:
        rows = [{name: _formatted(row[name], form) for name, form in COLUMNS.items()} for row in csv.DictReader(file)]
    create_table_artifact(rows, TABLE, "Candidates of the last retraining, by accuracy on val")


def _formatted(value: str, pattern: str) -> str:
    if pattern == "{}":
        return value
    return pattern.format(float(value)) if value else ""


def _notify(outcome: Outcome, block: str) -> None:
    """Tell a notification block all the reasons; if that fails, the retraining has not."""
    try:
        cast("Any", Block.load(block)).notify("\n".join(outcome.reasons), f"ferflow: {outcome.line}")
    except Exception as error:  # whatever a service of somebody else's may raise
        get_run_logger().warning("could not notify %s: %s", block, error)


def page(outcome: Outcome) -> str:
    """The decision as Markdown: what and why, what had changed, what failed, and both champions side by side."""
    lines = [f"# {outcome.name.capitalize()}: {outcome.champion or 'no champion'}", ""]
    lines += [f"- {reason}" for reason in outcome.reasons]
    if outcome.commit:
        lines += ["", f"Recorded in commit `{outcome.commit[:7]}`, tag `{outcome.tag}`."]
    if outcome.failures:
        lines += ["", "## Failed", *(f"- `{stage}`: {reason}" for stage, reason in outcome.failures.items())]
    if outcome.changes:
        lines += ["", "## What had changed", *(f"- `{name}`" for name in changed_inputs(outcome.changes))]
    if outcome.comparison:
        lines += ["", *_side_by_side(outcome.comparison)]
    return "\n".join(lines)


def changed_inputs(changes: dict[str, list[str]]) -> list[str]:
    """Each changed input once, however many stages read it."""
    return list(dict.fromkeys(name for names in changes.values() for name in names))


def _side_by_side(comparison: Comparison) -> list[str]:
    challenger, before = comparison.one, comparison.other
    rows = [
        ("accuracy", f"{before.accuracy:.1%}", f"{challenger.accuracy:.1%}"),
        *(
            (f"recall of {name}", f"{before.recall[name]:.1%}", f"{recall:.1%}")
            for name, recall in challenger.recall.items()
        ),
        ("MB", f"{before.megabytes:.1f}", f"{challenger.megabytes:.1f}"),
        ("ms a face", f"{before.milliseconds:.2f}", f"{challenger.milliseconds:.2f}"),
    ]
    return [
        f"## On the same {comparison.faces:,} faces",
        f"| | champion {before.version} | challenger {challenger.version} |",
        "|---|--:|--:|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *_confusion("Champion", before),
        "",
        *_confusion("Challenger", challenger),
    ]


def _confusion(title: str, side: Side) -> list[str]:
    """A confusion matrix as a table."""
    return [
        f"### {title} {side.version}: shown (rows), answered (columns)",
        f"| | {' | '.join(EXPRESSIONS)} |",
        "|---|" + "--:|" * len(EXPRESSIONS),
        *(
            f"| **{name}** | {' | '.join(map(str, row))} |"
            for name, row in zip(EXPRESSIONS, side.confusion, strict=True)
        ),
    ]
