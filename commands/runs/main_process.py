"""Of several devices' processes one prints and writes the run's files."""

from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

say = rank_zero_only(tqdm.write)  # above the progress bar


def is_main_process() -> bool:
    """Whether this process writes the run's files; of several devices' processes one does."""
    return getattr(rank_zero_only, "rank", 0) == 0
