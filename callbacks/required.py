"""The callbacks that every run has, whatever its YAML lists."""

from collections.abc import Sequence

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden

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

    Raises:
        ValueError: If checkpoints could not tell the states of two of them apart.
    """
    keys = set()
    for callback in configured:
        has_state = is_overridden("state_dict", callback, Callback)
        if has_state and callback.state_key in keys:
            raise ValueError(
                f"trainer.callbacks has {type(callback).__name__} twice with the same settings, "
                "which a checkpoint cannot tell apart. Drop one, or let it monitor something else."
            )
        keys.add(callback.state_key)
    required = [BestValidationCheckpoint(), ConfidenceRanking(), DistributedRun(), ModelContract()]
    missing = [
        each for each in required if not any(isinstance(own, type(each)) for own in configured)
    ]
    return [*configured, *missing, SeenPatients(inherited)]
