"""Where a run is kept, and which names are near one that does not exist."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

RUNS_DIR = Path("runs")


def run_path(name: str) -> Path:
    """Turn a run's name into runs/<name>; leave what already is a path."""
    path = Path(name).expanduser()
    is_path = path.is_absolute() or name.startswith((".", f"{RUNS_DIR}/")) or path.suffix == ".ckpt"
    return path if is_path else RUNS_DIR / path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names what is nearest to `name`, '' if nothing is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def near_files(path: Path) -> str:
    """`did_you_mean` among what is in the folder of a path that does not exist."""
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return did_you_mean(path.name, (other.name for other in found))
