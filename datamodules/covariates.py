"""What is known of a patient next to the images: columns of the cohort table, coded as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.checks.spelling import bound_of, is_missing, number_of

# Axes: N = scans; B = batch; P = coded columns.

Coded = tuple[str, str | None]  # a column of the table, and the category that is 1; None: a number


@dataclass(frozen=True)
class Covariates:
    """Columns of a cohort table as numbers, one row per scan.

    Args:
        columns: What each coded column is, (P,).
        values: A number as it is, NaN where it is missing; a category as 0 and 1, float32 (N, P).
        remarks: Cells that are not taken as they are, in words.
    """

    columns: tuple[Coded, ...]
    values: Float[np.ndarray, "n p"]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Coding:
    """How the covariates of a training set are imputed and scaled.

    Args:
        columns: What each coded column is, (P,).
        fill: What a missing number becomes: the median, (P,).
        mean: What is subtracted, (P,).
        sd: What it is divided by, (P,).
    """

    columns: tuple[Coded, ...]
    fill: Sequence[float]
    mean: Sequence[float]
    sd: Sequence[float]

    @classmethod
    def of(cls, state: Mapping[str, Any] | None) -> "Coding":
        """Read what a checkpoint or bundle keeps; older ones have no covariates."""
        if not state:
            return NO_COVARIATES
        columns = tuple((name, category) for name, category in state["columns"])
        return cls(columns, state["fill"], state["mean"], state["sd"])

    @property
    def names(self) -> list[str]:
        """The columns of the table that it needs."""
        return list(dict.fromkeys(name for name, _ in self.columns))

    def scale(self, values: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Impute and scale."""
        fill, mean, sd = (
            torch.tensor(each, dtype=values.dtype, device=values.device)
            for each in (self.fill, self.mean, self.sd)
        )
        return (torch.where(values.isnan(), fill, values) - mean) / sd


NO_COVARIATES = Coding((), (), (), ())


def read_covariates(
    cells: Mapping[str, Sequence[str]],
    columns: Sequence[Coded] | Sequence[str],
    table: str,
    num_scans: int,
) -> Covariates:
    """Turn columns of a table into numbers.

    A column counts as numbers if most of its cells that are filled in are; '89+' counts as 89, and
    a cell that is no number as missing: both are told. Of other columns each category becomes a
    column of 0 and 1.

    Args:
        cells: The cells of each column of the table.
        columns: Names of the columns, or how a training coded them.
        table: Path of the table, for messages.
        num_scans: Rows of the table.

    Raises:
        ValueError: If the table lacks a column, or nothing is filled in.
    """
    remarks: list[str] = []
    coded: list[Coded] = []
    values: list[np.ndarray] = []
    names = [each if isinstance(each, str) else each[0] for each in columns]
    known = [tuple(each) for each in columns if not isinstance(each, str)]
    for name in dict.fromkeys(names):
        if name not in cells:
            raise ValueError(
                f"Cohort table {table} has no column {name!r}, which is a covariate; it has "
                f"{sorted(cells)}. Add it, or correct --data.covariates."
            )
        filled = ["" if is_missing(cell) else cell for cell in cells[name]]
        as_trained = [category for other, category in known if other == name]
        if as_trained == [None] or (not as_trained and _are_numbers(name, filled, table)):
            coded.append((name, None))
            values.append(_numbers(name, filled, remarks))
            continue
        categories = as_trained or sorted(set(filled) - {""})
        if unknown := sorted(set(filled) - {"", *map(str, categories)}):
            remarks.append(
                f"Column {name!r}: {', '.join(map(repr, unknown))} did not occur in the training: "
                "counted as missing."
            )
        for category in categories:
            coded.append((name, category))
            values.append(np.array([cell == category for cell in filled], np.float32))
    matrix = np.array(values, np.float32).reshape(len(values), num_scans).T
    return Covariates(tuple(coded), np.ascontiguousarray(matrix), remarks)


def fit_coding(covariates: Covariates, rows: np.ndarray) -> Coding:
    """Fit imputation and scale on these rows, which must be training scans.

    Categories are neither imputed nor scaled: a missing one is 0 everywhere.
    """
    fill, mean, sd = [], [], []
    for (_, category), values in zip(covariates.columns, covariates.values.T, strict=True):
        known = values[rows][~np.isnan(values[rows])].astype(np.float64)
        is_number = category is None and len(known) > 0
        middle = float(np.median(known)) if is_number else 0.0
        filled = np.where(np.isnan(values[rows]), middle, values[rows]).astype(np.float64)
        fill.append(middle)
        mean.append(float(filled.mean()) if is_number else 0.0)
        sd.append((float(filled.std()) if is_number else 0.0) or 1.0)
    return Coding(covariates.columns, fill, mean, sd)


def _are_numbers(name: str, filled: Sequence[str], table: str) -> bool:
    """Whether most of the cells that are filled in are numbers."""
    given = [cell for cell in filled if cell]
    if not given:
        raise ValueError(
            f"Column {name!r} of {table}, a covariate, is empty. Fill it, or leave it out."
        )
    return sum((_number(cell) or bound_of(cell)) is not None for cell in given) > len(given) / 2


def _number(cell: str) -> float | None:
    number = number_of(cell)
    return float(number) if number is not None else None


def _numbers(name: str, filled: Sequence[str], remarks: list[str]) -> np.ndarray:
    """Read a column of numbers; tell which cells are bounds, and which are no numbers."""
    bounds = {cell: bound_of(cell) for cell in filled if cell and _number(cell) is None}
    capped = sorted(cell for cell, bound in bounds.items() if bound is not None)
    if capped:
        remarks.append(
            f"Column {name!r}: {', '.join(map(repr, capped))} count as the number in them."
        )
    if odd := sorted(cell for cell, bound in bounds.items() if bound is None):
        remarks.append(
            f"Column {name!r}: {', '.join(map(repr, odd))} are no numbers: counted as missing."
        )
    known = {cell: float(bound) for cell, bound in bounds.items() if bound is not None}
    numbers = [known.get(cell, _number(cell)) if cell else None for cell in filled]
    return np.array([np.nan if each is None else each for each in numbers], np.float32)
