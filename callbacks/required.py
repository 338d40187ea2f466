"""The callbacks that every run has, whatever its YAML lists."""

from collections.abc import Sequence

from lightning.pytorch.callbacks import Callback

from callbacks.best_checkpoint import BestValidationCheckpoint
from callbacks.confidence_ranking import ConfidenceRanking
from callbacks.distributed import DistributedRun
from callbacks.model_contract import ModelContract
from callbacks.seen_patients import SeenPatients
from lightning_modules.transfer import Seen


def required_callbacks(
    configured: Sequence[Callback] = (), inherited: Seen = Seen()
) -> list[Callback]:
    """Add to the configured callbacks those that a run needs.

    Args:
        configured: Callbacks with settings of their own; one of a required class replaces it.
        inherited: What the weights that the training starts from had seen.
    """
    required = [BestValidationCheckpoint(), ConfidenceRanking(), DistributedRun(), ModelContract()]
    missing = [
        each for each in required if not any(isinstance(own, type(each)) for own in configured)
    ]
    return [*configured, *missing, SeenPatients(inherited)]
