"""The deployments of prefect.yaml, read and checked: one place for schedules, time zone, parameters and triggers."""

import ast
import difflib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tasks.errors import UserError
from tasks.params import Loader

if TYPE_CHECKING:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.deployments.runner import RunnerDeployment
    from pydantic import BaseModel

DEPLOYMENTS = Path("prefect.yaml")
SERVED = {"name", "description", "entrypoint", "parameters", "schedules", "triggers", "concurrency_limit", "tags"}
OF_WORKERS = {"work_pool", "build", "push", "pull", "version", "enforce_parameter_schema"}  # known, and not needed here
FORMS = {
    "parameters": (dict, "mapping"),
    "schedules": (list, "list"),
    "triggers": (list, "list"),
    "tags": (list, "list"),
}


def read_deployments() -> list[dict[str, Any]]:
    """The deployments of prefect.yaml: what Prefect accepts of each, with parameters that its flow accepts.

    Raises:
        UserError: no such file, no YAML, an unknown key, a missing function, two deployments of one name, or a value that Prefect
            or the flow does not accept.
    """
    try:
        content = yaml.load(DEPLOYMENTS.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError as error:
        raise UserError(f"no {DEPLOYMENTS} here; run this in the folder of the pipeline") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{DEPLOYMENTS}, line {line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # no YAML; not UTF-8; a date such as 2026-13-01
        raise UserError(f"{DEPLOYMENTS}: {_first_line(error)}") from error
    deployments = content.get("deployments") if isinstance(content, dict) else None
    if not isinstance(deployments, list) or not deployments:
        raise UserError(f"{DEPLOYMENTS}: no list of deployments")
    names: set[str] = set()
    for number, deployment in enumerate(deployments, 1):
        if not isinstance(deployment, dict) or not {"name", "entrypoint"} <= deployment.keys():
            raise UserError(f"{DEPLOYMENTS}: deployment {number} has no name or no entrypoint")
        name = _check(deployment)
        if name in names:
            raise UserError(f"{DEPLOYMENTS}: two deployments are {name}; give each a name of its own")
        names.add(name)
    return deployments


def as_served(deployment: dict[str, Any]) -> "RunnerDeployment":
    """A deployment as Prefect's runner takes it."""
    from prefect.deployments.runner import RunnerDeployment

    details = _details(deployment)
    served = RunnerDeployment.from_entrypoint(
        deployment["entrypoint"],
        name=deployment["name"],
        description=deployment.get("description"),
        parameters=deployment.get("parameters"),
        tags=deployment.get("tags"),
        triggers=details["triggers"],
        concurrency_limit=details["concurrency_limit"],
    )
    served.schedules = details["schedules"]
    served.work_pool_name = None  # said, not left out: a deployment that belonged to a work pool no longer does
    return served


def _check(deployment: dict[str, Any]) -> str:
    """Check a deployment; returns its name as Prefect knows it, with its flow's."""
    from prefect.exceptions import PrefectException
    from prefect.types import BANNED_CHARACTERS

    name = deployment["name"]
    where = f"{DEPLOYMENTS}, deployment {name}"
    if not isinstance(name, str) or not name or set(name) & set(BANNED_CHARACTERS):
        raise UserError(f"{where}: {name!r} is no name; use text without {' '.join(BANNED_CHARACTERS)}")
    _check_keys(where, deployment, SERVED | OF_WORKERS)
    _check_function(where, str(deployment["entrypoint"]))
    for key, (form, word) in FORMS.items():
        if deployment.get(key) is not None and not isinstance(deployment[key], form):
            raise UserError(f"{where}: {key} is {deployment[key]!r}, no {word}")
    try:
        for trigger in deployment.get("triggers") or []:
            _check_trigger(f"{where}, triggers", trigger)
        served = as_served(deployment)
    except (ValueError, TypeError, AttributeError, PrefectException) as error:  # pydantic's are of ValueError
        raise UserError(f"{where}: {_first_line(error)}") from error
    _check_parameters(f"{where}, parameters", deployment)
    return served.full_name


def _check_trigger(where: str, trigger: Any) -> None:
    """Refuse keys that a trigger of its type does not have; Prefect passes them over."""
    from prefect.events.schemas import deployment_triggers as triggers

    kinds: dict[Any, type[BaseModel]] = {
        "metric": triggers.DeploymentMetricTrigger,
        "compound": triggers.DeploymentCompoundTrigger,
        "sequence": triggers.DeploymentSequenceTrigger,
    }
    kind = kinds.get(trigger.get("type"), triggers.DeploymentEventTrigger) if isinstance(trigger, dict) else None
    _check_keys(where, trigger, {"type", *(kind.model_fields if kind else ())})


def _check_keys(where: str, given: Any, known: Collection[str]) -> None:
    if not isinstance(given, dict):
        raise UserError(f"{where}: {given!r} is no mapping")
    for key in given.keys() - known:
        close = difflib.get_close_matches(str(key), known, n=1)
        raise UserError(
            f"{where}: unknown key {key}"
            + (f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}")
        )


def _check_parameters(where: str, deployment: dict[str, Any]) -> None:
    """Refuse what the flow would not run with: by itself, or with what a schedule has in its place."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools import validate

    schema = parameter_schema(load_flow_from_entrypoint(deployment["entrypoint"])).model_dump_for_openapi()
    own = deployment.get("parameters") or {}
    for schedule in deployment.get("schedules") or [{}]:
        given = own | (schedule.get("parameters") or {})
        _check_keys(where, given, schema["properties"])
        for error in validate(given, schema):
            raise UserError(f"{where}: {': '.join([*map(str, error.path), error.message])}")


def _check_function(where: str, entrypoint: str) -> None:
    """Look for a flow's function in its module without running that: what is wrong is said in a line then."""
    path, colon, name = entrypoint.rpartition(":")
    if not colon:
        raise UserError(f"{where}: entrypoint {entrypoint} is not of the form flows/FILE.py:FUNCTION")
    try:
        body = ast.parse(Path(path).read_bytes(), path).body
    except (OSError, SyntaxError) as error:
        raise UserError(
            f"{where}: cannot read entrypoint {entrypoint}: {error.strerror if isinstance(error, OSError) else error}"
        ) from error
    if not any(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) and part.name == name for part in body):
        raise UserError(f"{where}: no function {name} in {path}")


def _first_line(error: Exception) -> str:
    """The essence of an error's text, which for pydantic's is in several lines."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = first["msg"].removeprefix("Value error, ")
        return f"{first['loc'][-1]}: {text}" if first["loc"] else text
    return str(error).partition("\n")[0]


def _details(deployment: dict[str, Any]) -> dict[str, Any]:
    """Schedules, triggers and limit of a deployment as Prefect's objects."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter

    triggers = TypeAdapter(list[DeploymentTriggerTypes]).validate_python(deployment.get("triggers") or [])
    limit = deployment.get("concurrency_limit")
    if isinstance(limit, dict):
        limit = ConcurrencyLimitConfig(**limit)
    number = limit.limit if isinstance(limit, ConcurrencyLimitConfig) else limit
    if isinstance(number, int) and number < 1:  # which only the server refuses
        raise ValueError(f"concurrency_limit: {number} is less than 1")
    return {
        "schedules": [_schedule(entry) for entry in deployment.get("schedules") or []],
        "triggers": triggers,
        "concurrency_limit": limit,
    }


def _schedule(entry: dict[str, Any]) -> "DeploymentScheduleCreate":
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    kinds: dict[str, type[CronSchedule] | type[IntervalSchedule] | type[RRuleSchedule]]
    kinds = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
    around = {"active", "parameters", "slug"}  # of the entry, not of the schedule itself
    named = entry.keys() & kinds if isinstance(entry, dict) else set()
    if len(named) != 1:
        raise ValueError(f"a schedule is one of cron, interval, rrule, not {entry!r}")
    schedule = kinds[named.pop()].model_validate({key: value for key, value in entry.items() if key not in around})
    return DeploymentScheduleCreate(schedule=schedule, **{key: value for key, value in entry.items() if key in around})
