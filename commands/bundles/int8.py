"""A fold's graph in 8 bit: smaller, for small devices; measured against the float graph."""

import logging
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from commands.bundles.ensemble import Ensemble, Member, input_batches
from datamodules.cohort import Cohort

KINDS = ["Conv", "MatMul", "Gemm"]  # layers with weights; all others stay float
NUM_CALIBRATION = 32  # training scans, which tell how large activations get
NUM_TIMED = 10
Inputs = dict[str, np.ndarray]


@dataclass
class Int8:
    """Writes the graphs of a run in 8 bit and collects how they compare.

    Args:
        cohort: The run's scans.
        ensemble: The run.
    """

    cohort: Cohort
    ensemble: Ensemble
    differences: list[np.ndarray] = field(default_factory=list)
    num_other_class: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def write(self, member: Member, path: Path) -> None:
        """Quantise a graph statically on training scans, try it on those that are not.

        Args:
            member: The fold.
            path: Its float graph; the other one gets its name in the folder int8.
        """
        import onnxruntime  # exports alone need it

        trained = [patient in member.seen.patients for patient in self.cohort.patients]
        seen, others = np.flatnonzero(trained), np.flatnonzero(~np.array(trained))
        chosen = seen[np.linspace(0, len(seen) - 1, min(NUM_CALIBRATION, len(seen)), dtype=int)]
        small = path.parent / "int8" / path.name
        small.parent.mkdir(exist_ok=True)
        _quantise(path, small, [self._inputs(row) for row in chosen])
        alone = onnxruntime.SessionOptions()
        alone.intra_op_num_threads = 1
        graphs = [
            onnxruntime.InferenceSession(str(each), alone, providers=["CPUExecutionProvider"])
            for each in (path, small)
        ]
        tried = [self._inputs(row) for row in others]
        exact, rough = (
            np.concatenate([np.asarray(graph.run(None, each)[0]) for each in tried])
            for graph in graphs
        )
        unit = member.target_scale.sd if member.target_scale else 1.0
        self.differences.append(np.abs(rough - exact) / unit)
        self.num_other_class += int((rough.argmax(1) != exact.argmax(1)).sum())
        self.sizes.append((path.stat().st_size, small.stat().st_size))
        before, after = (_median_seconds(graph, tried) for graph in graphs)
        self.seconds.append((before, after))

    def _inputs(self, row: np.integer) -> Inputs:
        volume, covariates = next(input_batches(self.cohort, np.array([row])))
        more = {} if covariates is None else {"covariates": covariates.numpy()}
        return {"volume": volume.float().numpy(), **more}

    def words(self) -> str:
        """Say how the graphs compare."""
        found = np.concatenate(self.differences)
        before, after = (statistics.median(each) / 1024 for each in zip(*self.sizes, strict=True))
        slow, fast = (1000 * statistics.median(each) for each in zip(*self.seconds, strict=True))
        what = "Numbers, in standard deviations of the target,"
        other = ""
        if self.ensemble.classes:
            what = "Probabilities"
            other = f", {self.num_other_class} of {len(found)} with another class"
        return (
            f"`models/int8/` has the graphs in 8 bit, calibrated on training scans of each fold. "
            f"{what} differ from the float graphs by at most {found.max():.2g}, on average by "
            f"{found.mean():.1g}, on the scans that a fold has not trained on{other}. A graph has "
            f"{after:.0f} KB in the place of {before:.0f}, and takes {fast:.0f} ms in the place of "
            f"{slow:.0f} for a scan on one thread of the CPU that exported it."
        )


def _median_seconds(graph: Any, scans: list[Inputs]) -> float:
    """Time the graph on one scan after the other."""
    seconds = []
    for scan in (scans * NUM_TIMED)[:NUM_TIMED]:
        started = time.perf_counter()
        graph.run(None, scan)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _quantise(path: Path, small: Path, scans: list[Inputs]) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Scans(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(scans)

        def get_next(self) -> Inputs | None:
            return next(self.left, None)

    logging.disable(logging.WARNING)  # it advises another tool, which changes nothing here
    try:
        quantize_static(
            path,
            small,
            Scans(),
            quant_format=QuantFormat.QOperator,
            op_types_to_quantize=KINDS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
