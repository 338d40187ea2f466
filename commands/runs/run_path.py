"""Where a run is kept; without the imports that training needs."""

from pathlib import Path

RUNS_DIR = Path("runs")


def run_path(name: str) -> Path:
    """Turn a run's name into runs/<name>; leave what already is a path."""
    path = Path(name).expanduser()
    is_path = path.is_absolute() or name.startswith((".", f"{RUNS_DIR}/")) or path.suffix == ".ckpt"
    return path if is_path else RUNS_DIR / path
