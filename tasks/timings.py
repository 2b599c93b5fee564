"""How long things took: kept beside the artifacts DVC hashes, because no two runs take the same time."""

import json
from pathlib import Path
from typing import Any

from tasks.files import read_json, write_json
from tasks.paths import TIMINGS


def record_timing(candidate: str, **figures: float | list[float]) -> None:
    """Add figures, such as train_minutes=17.2, to the candidate's file; those of the same name, or damaged ones, are replaced."""
    path = TIMINGS / f"{candidate}.json"
    # Damaged in the middle of a merge, for example: no reason to lose what has just been trained.
    known = read_json(path)
    write_json(path, (known if isinstance(known, dict) else {}) | figures)


def read_timings(candidate: str, workspace: Path = Path()) -> dict[str, Any]:
    """What has been recorded of a candidate; empty if nothing was."""
    path = workspace / TIMINGS / f"{candidate}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
