"""The flow that retrains: looks whether anything changed, rebuilds apart, judges, and installs what is better, or nothing.

From Python: `from flows.retrain import retrain; retrain()`, in the folder of the pipeline. On a schedule: `ferflow serve`, or
the deployment `retrain` of prefect.yaml. The work is in tasks/: rebuild, judge, install. Here it is put in order.

Killed at any moment, it leaves the champion whole, the old or the new; the next run takes up what was done.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from flows.candidates import train_elsewhere
from flows.decision import Outcome, show_candidates, tell
from tasks import champion, judge, params, rebuild
from tasks.errors import UserError, explaining
from tasks.files import alone, read_json, write_json
from tasks.git import git
from tasks.install import check_disk, install, record, recover
from tasks.params import Params
from tasks.parse import load_split
from tasks.paths import CHAMPION, LEADERBOARD
from tasks.rebuild import JOURNAL, STATE
from tasks.versions import rolled_back

BUSY = "another retraining is at work in this folder; one at a time is enough"
LOCK = STATE / "lock"
DECIDED = STATE / "decided.json"  # what the last rebuild was judged by, and the outcome
RUNNING = STATE / "running.json"  # the run at work; one that died leaves it behind


def step(work: Callable[..., Any]) -> Task[..., Any]:
    """A task that ends Failed with one line for what a user can mend, where Prefect would show a stack trace."""

    @functools.wraps(work)
    def quiet(*args: Any, **options: Any) -> Any:
        try:
            with explaining():
                return work(*args, **options)
        except UserError as error:
            return Failed(message=str(error))

    return task(cache_policy=NO_CACHE)(quiet)


def do(work: Task[..., Any], *args: Any) -> Any:
    """Run a task; returns what it gives, raises UserError with its message if it fails."""
    state: State[Any] = work(*args, return_state=True)  # type: ignore[assignment]  # no coroutine: the tasks are not async
    if state.is_failed():
        raise UserError(str(state.message))
    return state.result()


@flow(name="retrain")
def retrain(
    force: bool = False, push: bool = False, notify: str | None = None, work_pool: str | None = None
) -> State[Any]:
    """Rebuild what is out of date and replace the champion if the outcome is better.

    Ends Completed with what came of it in a line, or Failed with what was wrong; nothing has changed then.

    Args:
        force: judge even if nothing has changed since the last time.
        push: also push the commit and the version's tag of a new champion to the branch's remote.
        notify: a notification block of Prefect, such as `slack-webhook/team`, that is told what came of it.
        work_pool: whose workers train the candidates, at the same time; None: this machine does, one after the other.
    """
    try:
        settings = params.load()  # first of all: without it, this is no folder of the pipeline
        with explaining(), alone(LOCK) as mine:
            if not mine:
                return Completed(message=BUSY)
            try:
                _bury_the_dead()
                outcome = _retrain(settings, force, push, work_pool)
            finally:
                RUNNING.unlink(missing_ok=True)
    except UserError as error:
        outcome = Outcome("failed", (str(error),))
    tell(outcome, notify)
    return Failed(message=outcome.line) if outcome.name == "failed" else Completed(message=outcome.line)


def _retrain(settings: Params, force: bool, push: bool, work_pool: str | None) -> Outcome:
    """The whole work, step by step."""
    if recover(JOURNAL):
        get_run_logger().info("an installation that was cut short is mended")
    rebuild.check_workspace()
    check_disk(STATE)
    deployed = champion.load().version if CHAMPION.exists() else None
    inputs = {"champion": deployed, "gate": settings.gate.model_dump()}
    changes = do(look, settings.ingest.source, inputs, force)
    if isinstance(changes, Outcome):
        return changes
    left = rolled_back()  # before hours of training: a clone may not know
    DECIDED.unlink(missing_ok=True)
    folder = do(prepare, settings)
    failures = build(folder, settings, work_pool)
    outcome: Outcome = replace(do(decide, folder, settings, deployed, left), changes=changes, failures=failures)
    if outcome.name == "promoted":
        outcome = do(install_champion, folder, outcome)
        if push:
            do(push_champion, outcome)
    else:
        write_json(DECIDED, {"inputs": inputs, "outcome": outcome.line, "date": datetime.now(UTC).isoformat()})
    return outcome


@step
def look(source: str, inputs: dict[str, Any], force: bool) -> dict[str, list[str]] | Outcome:
    """The inputs that changed, by stage; or the outcome `nothing`, if none has, or all that has was judged already."""
    changes = rebuild.out_of_date(Path())
    if force:
        return changes
    if not changes and inputs["champion"]:
        return Outcome("nothing", ("no data, parameter or code has changed",), inputs["champion"])
    decided = read_json(DECIDED)
    if decided and decided["inputs"] == inputs and not rebuild.out_of_date(rebuild.bring_inputs(source)):
        reason = f"all changes were judged on {decided['date'][:10]}: {decided['outcome']}"
        return Outcome("nothing", (reason,), inputs["champion"])
    return changes


@step
def prepare(settings: Params) -> Path:
    """Bring the worktree up to date; returns its folder."""
    return rebuild.renew(settings)


def build(folder: Path, settings: Params, work_pool: str | None = None) -> dict[str, str]:
    """Run every stage; returns why some failed. A candidate that fails does not stop the others.

    Raises:
        UserError: the data failed, or every candidate.
    """
    hours = settings.retrain.stage_hours
    failures: dict[str, str] = {}
    trained_elsewhere: set[str] = set()
    for stage in rebuild.stages(settings):
        kind, _, candidate = stage.partition("@")
        if work_pool and kind == "train" and candidate not in trained_elsewhere:
            together = rebuild.fellows(settings, candidate)
            failures |= train_elsewhere(folder, together, settings, work_pool)
            trained_elsewhere.update(together)
        if f"train@{candidate}" in failures:
            continue
        try:
            pull = kind == "train" and work_pool is not None
            do(run_stage.with_options(task_run_name=stage), folder, stage, hours, pull)
        except UserError as error:
            if not candidate:
                raise
            failures[stage] = str(error)
    if sum(not stage.startswith("teach@") for stage in failures) == len(settings.candidates):
        raise UserError("every candidate failed: " + "; ".join(f"{stage}: {why}" for stage, why in failures.items()))
    return failures


@step
def run_stage(folder: Path, stage: str, hours: float, pull: bool = False) -> None:
    """Let DVC run one stage in the worktree, or with `pull` take it from the remote; its log goes to the run's log."""
    if failure := rebuild.reproduce(folder, stage, get_run_logger().info, hours, pull):
        raise UserError(failure)


@step
def decide(folder: Path, settings: Params, deployed: str | None, left: set[str]) -> Outcome:
    """Promote the best candidate in the worktree, and judge it against the deployed champion. What was `left` stays so."""
    try:
        do(run_stage.with_options(task_run_name="promote"), folder, "promote", settings.retrain.stage_hours)
    except UserError as error:
        return Outcome("kept", (f"There is no challenger: {error}.",), deployed)
    finally:
        if (folder / LEADERBOARD).exists():
            show_candidates(folder / LEADERBOARD)
    challenger = champion.load(folder / CHAMPION)
    if challenger.version == deployed:
        return Outcome("kept", ("The rebuild ends with the same champion.",), deployed, challenger.version)
    if challenger.version in left:
        reason = (
            f"{challenger.version} was rolled back; `ferflow champion rollback {challenger.version}` brings it back."
        )
        return Outcome("kept", (reason,), deployed, challenger.version)
    if failure := rebuild.run(folder, ["tasks.smoke"], get_run_logger().info, settings.retrain.stage_hours):
        return Outcome(
            "kept", (f"{challenger.version} fails its last check: {failure}.",), deployed, challenger.version
        )
    if deployed is None:
        return Outcome("promoted", ("It is the first, and passes the bars of `promote`.",), challenger.version)
    return _judge(folder, settings, challenger)


def _judge(folder: Path, settings: Params, challenger: champion.Champion) -> Outcome:
    """Let both answer for the same rows of the rebuilt data, and ask the gate."""
    comparison = judge.compare(folder / CHAMPION, CHAMPION, *load_split(settings.gate.split, folder))
    decision = judge.decide(comparison, settings.gate, _saw_other_data(challenger, champion.load()))
    one, other = comparison.one.version, comparison.other.version
    if decision.promote:
        return Outcome("promoted", decision.reasons, one, other, comparison)
    return Outcome("kept", decision.reasons, other, one, comparison)


def _saw_other_data(one: champion.Champion, other: champion.Champion) -> bool:
    """Whether the two were trained on different arrays."""
    arrays = ({k: v for k, v in each.info["data"]["sha256"].items() if k.startswith("train")} for each in (one, other))
    return next(arrays) != next(arrays)


@step
def install_champion(folder: Path, outcome: Outcome) -> Outcome:
    """Make what was rebuilt the workspace's, as one transaction."""
    place = f", in place of {outcome.other}" if outcome.other else ""
    commit = record(folder, f"Champion {outcome.champion}{place}\n\n" + "\n".join(outcome.reasons))
    rebuild.check_workspace()  # nobody began to work here meanwhile
    tag = install(folder, commit, JOURNAL)
    rebuild.forget()  # not before: where it cannot be installed, what was trained serves the next run
    return replace(outcome, commit=commit, tag=tag)


@step
def push_champion(outcome: Outcome) -> None:
    """Push the commit and the tag; where that fails, the champion stays installed and the log says so."""
    try:
        branch = git(Path(), "symbolic-ref", "--short", "HEAD").decode().strip()
        asked = ("for-each-ref", "--format=%(upstream:remotename) %(upstream:remoteref)", f"refs/heads/{branch}")
        remote, _, there = git(Path(), *asked).decode().strip().partition(" ")
        if not there:
            raise UserError(
                f"{branch} follows no branch of a remote; once run: git push --set-upstream REMOTE {branch}"
            )
        git(Path(), "push", "--quiet", "--atomic", remote, f"HEAD:{there}", outcome.tag)
    except UserError as error:
        get_run_logger().warning("not pushed: %s", error)


def _bury_the_dead() -> None:
    """Whoever left RUNNING behind died: we hold the lock. Prefect, which waits for it for ever, learns of it."""
    if left := read_json(RUNNING):
        dead = UUID(left["flow_run"])
        with get_client(sync_client=True) as client:
            try:
                state = client.read_flow_run(dead).state
                if state and not state.is_final():
                    client.set_flow_run_state(dead, Crashed(message="its process died"), force=True)
            except ObjectNotFound:
                pass  # it ran with another server
    write_json(RUNNING, {"flow_run": flow_run.id})
