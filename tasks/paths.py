"""Where the artifacts lie, relative to the workspace; dvc.yaml names the same places."""

from pathlib import Path

DVC_LOCK = Path("dvc.lock")
DATA = Path("data")
RAW = Path("data/raw")
WEIGHTS = Path("data/weights")
INGESTED = Path("data/ingested")
ARRAYS = Path("data/arrays")
QUALITY = Path("data/quality")
TAUGHT = tuple(DATA / f"taught{again}" for again in ("", "_again", "_thrice", "_fourth"))
DATA_MADE = (INGESTED, ARRAYS, QUALITY, *TAUGHT)  # by stages
UNFINISHED = Path("models/unfinished")
CANDIDATES = Path("models/candidates")
TIMINGS = Path("models/timings")
LEADERBOARD = Path("models/leaderboard.csv")
CHAMPION = Path("models/champion")
SMALL = Path("models/small")
PROMOTED = (LEADERBOARD, LEADERBOARD.with_suffix(".png"), SMALL, CHAMPION)  # by the stage promote; the champion last


def vgg16_files(folder: Path) -> list[Path]:
    """The files of a folder that may hold VGG16's weights; the first is taken."""
    return sorted(path for path in folder.glob("*.h5") if "vgg16" in path.name.lower())
