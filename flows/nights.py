"""`ferflow demo --nights`: three nights of scheduled retraining on drawn faces, in a scratch copy of the workspace.

`ferflow serve` runs there as it would for real, with a Prefect server and a home of its own; a night comes every few seconds.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import yaml

from flows.decision import NOTHING, PAGE
from flows.demo import commit, make_workspace, run
from flows.server import ending
from tasks.errors import UserError
from tasks.processes import guarded

FOLDER = Path("demo-nights")
HOME = FOLDER / "prefect"  # Prefect's, for this demonstration alone
ROWS = 400
EVERY = 15  # s between two nights
SERVE_ENDS = 60.0  # s
PATIENCE = 900  # s that a night may take on a slow machine
# The made set's val has a few faces of each expression, of which one more or less is many points of recall; and a network
# as small as this is done with a batch in 2 ms, too short a time to compare.
BARS = {"min_accuracy": 0.0, "min_class_recall": 0.0, "max_predicted_share": 1.0}
GATE = {"max_class_drop": 0.5, "max_slowdown": 10.0}
CANDIDATE = "vgg_like"
RECIPE: dict[str, Any] = {
    "options": {"widths": [8, 16, 16]},
    "epochs": 2,
    "batch": 8,
    "precision": "float32",
    "optimizer": {"name": "adam", "learning_rate": 0.003},
    "schedule": "constant",
    "augment": {"mirror": True},
    "sizes": [],
}


class Night(NamedTuple):
    """A change that somebody makes by day, and what the recipe is then."""

    change: str
    recipe: dict[str, Any]

    def apply(self, params: dict[str, Any]) -> None:
        """Make the change in the content of params.yaml."""
        params["candidates"][CANDIDATE].update(self.recipe)


STORY = (
    Night("its training lasts 20 epochs, not 2", {"epochs": 20}),
    Night("somebody is in a hurry: 1 epoch", {"epochs": 1}),
    Night("nobody changed anything", {}),
)


def three_nights() -> None:
    """Run the demonstration; prints what happens, and leaves each decision as Markdown in FOLDER."""
    print(f"1. A scratch copy of the pipeline in {FOLDER}/, and a first champion, hardly trained", flush=True)
    make_workspace(FOLDER, {CANDIDATE: RECIPE}, ROWS)
    HOME.mkdir()
    (FOLDER / ".git/info/exclude").write_text(f"/{HOME.name}/\n/night-*.md\n", encoding="utf-8")
    _change(FOLDER / "params.yaml", _lenient)
    _change(FOLDER / "prefect.yaml", _only_nights)
    run([sys.executable, "-m", "dvc", "repro", "--quiet"], FOLDER)
    commit("The first champion", FOLDER)
    print(f"2. ferflow serve, there, with a night every {EVERY} s", flush=True)
    with _serving() as url:
        for number, night in enumerate(STORY, start=1):
            print(f"\nDay {number}: {night.change}", flush=True)
            since = datetime.now(UTC)
            if night.recipe:
                _change(FOLDER / "params.yaml", night.apply)
                commit(night.change, FOLDER)
            # A run that looked before the change has nothing to do.
            print(f"Night {number}: {_next_decision(url, since, NOTHING if night.recipe else None)}", flush=True)
            if night.recipe:
                _keep_page(url, FOLDER / f"night-{number}.md")
    print("\nWhat became of the champion:")
    run([sys.executable, "-m", "flows.cli", "champion"], FOLDER)
    print(f"The decisions, with confusion matrices: {FOLDER}/night-1.md and night-2.md")
    print(f"Prefect's pages of it: PREFECT_HOME=$PWD/{HOME} prefect server start")


def _change(path: Path, change: Callable[[Any], None]) -> None:
    """Read a YAML file, let `change` work on its content, write it."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _lenient(params: dict[str, Any]) -> None:
    """Let accuracy alone decide."""
    params["promote"].update(BARS)
    params["gate"].update(GATE)


def _only_nights(content: dict[str, Any]) -> None:
    """Leave the deployment that retrains, and let it run every few seconds, unless it still runs.

    (By its own lock it would end at once. But to start a run takes seconds of the processor, which the one at work needs.)
    """
    (retrain,) = (each for each in content["deployments"] if each["name"] == "retrain")
    retrain["schedules"] = [{"interval": EVERY}]
    retrain["concurrency_limit"] = {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    content["deployments"] = [retrain]


@contextmanager
def _serving() -> Iterator[str]:
    """`ferflow serve` in FOLDER; yields the address of its Prefect's API."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    others = ("PREFECT_API_URL", "PREFECT_SERVER_DATABASE_")  # of this computer, not for the demonstration
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    environment["PREFECT_HOME"] = str(HOME.resolve())
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)]
    with (HOME / "serve.txt").open("w") as log:
        process = guarded(command, cwd=FOLDER, env=environment, stdout=log, stderr=log)
    with ending(process, SERVE_ENDS):
        yield f"http://127.0.0.1:{port}/api"


def _next_decision(url: str, since: datetime, ignored: str | None) -> str:
    """Wait for a scheduled run that began after a time, and return what came of it, unless it begins with what is ignored."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(1)
        for message in _ended_runs(url, since):
            if not ignored or not message.startswith(ignored):
                return message
    raise UserError(f"no night came within {PATIENCE} s; see {HOME}/serve.txt")


def _ended_runs(url: str, since: datetime) -> list[str]:
    """What runs that began after a time said at their end, oldest first; nothing as long as the server starts."""
    wanted = {
        "start_time": {"after_": since.isoformat()},
        "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
    }
    try:
        runs = _ask(f"{url}/flow_runs/filter", {"flow_runs": wanted, "sort": "START_TIME_ASC"})
    except OSError:
        return []
    return [each["state"]["message"] or each["state"]["name"] for each in runs]


def _keep_page(url: str, path: Path) -> None:
    """Write the last decision's page, as Prefect has it, to a file."""
    pages = _ask(f"{url}/artifacts/latest/filter", {"artifacts": {"key": {"any_": [PAGE]}}})
    for page in pages:
        path.write_text(page["data"], encoding="utf-8")


def _ask(address: str, question: dict[str, Any]) -> list[dict[str, Any]]:
    """Prefect's answer to a filter."""
    request = Request(address, json.dumps(question).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        return list(json.load(answer))
