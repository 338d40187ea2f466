"""The classical methods: scikit-learn estimators by name, tuned inside each fold.

Add one by adding a line to METHODS.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

NUM_INNER_FOLDS = 5
BALANCE = [None, "balanced"]
PENALTIES = [0.1, 1, 10, 100, 1000, 10_000]
RIDGE = [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]  # inverse of the penalty
Inputs = Literal["image", "encoder", "covariates", "mask"]


@dataclass(frozen=True)
class ClassicalMethod:
    """A classical method.

    Args:
        estimator: scikit-learn classifier or regressor.
        grid: Settings of the estimator to choose from, by inner cross-validation.
        inputs: 'image' sees principal components of the voxels or of an encoder's outputs;
            'encoder' is a probe: it sees an encoder's outputs as they are; 'covariates' sees
            columns of the cohort table; 'mask' sees volume, shape and brightness of the mask.
    """

    estimator: BaseEstimator
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    inputs: Inputs = "image"


METHODS: dict[str, ClassicalMethod] = {
    "dummy": ClassicalMethod(DummyClassifier(strategy="prior")),
    "svm": ClassicalMethod(SVC(), {"C": [0.1, 1, 10], "class_weight": BALANCE}),
    "linear-svm": ClassicalMethod(
        SVC(kernel="linear"), {"C": [0.001, 0.01, 0.1], "class_weight": BALANCE}
    ),
    "k-nearest-neighbours": ClassicalMethod(KNeighborsClassifier(), {"n_neighbors": [3, 5, 9, 15]}),
    "naive-bayes": ClassicalMethod(GaussianNB(), {"var_smoothing": [1e-9, 0.1]}),
    "random-forest": ClassicalMethod(RandomForestClassifier(), {"class_weight": BALANCE}),
    "dense-network": ClassicalMethod(MLPClassifier((64,), max_iter=300), {"alpha": [0.01, 1, 10]}),
    "logistic-regression": ClassicalMethod(
        LogisticRegression(max_iter=1000), {"C": [0.001, 0.01, 0.1, 1], "class_weight": BALANCE}
    ),
    "linear-probe": ClassicalMethod(
        LogisticRegression(max_iter=1000), {"C": RIDGE, "class_weight": BALANCE}, "encoder"
    ),
    "mlp-probe": ClassicalMethod(
        MLPClassifier((64,), max_iter=300), {"alpha": [0.01, 1, 10]}, "encoder"
    ),
    "covariates": ClassicalMethod(
        LogisticRegression(max_iter=1000), {"C": [0.1, 1], "class_weight": BALANCE}, "covariates"
    ),
    "mask-features": ClassicalMethod(
        LogisticRegression(max_iter=1000), {"C": [0.01, 0.1, 1], "class_weight": BALANCE}, "mask"
    ),
}


def _scaled(estimator: BaseEstimator) -> BaseEstimator:
    """Let a regressor see the target in standard deviations, on which its settings depend."""
    return TransformedTargetRegressor(estimator, transformer=StandardScaler())


REGRESSION_METHODS: dict[str, ClassicalMethod] = {
    "mean": ClassicalMethod(DummyRegressor()),
    "ridge": ClassicalMethod(Ridge(), {"alpha": PENALTIES}),
    "svr": ClassicalMethod(
        _scaled(SVR()), {"regressor__C": [0.1, 1, 10], "regressor__epsilon": [0.1, 0.3]}
    ),
    "k-nearest-neighbours": ClassicalMethod(KNeighborsRegressor(), {"n_neighbors": [3, 5, 9, 15]}),
    "linear-probe": ClassicalMethod(Ridge(), {"alpha": PENALTIES}, "encoder"),
    "covariates": ClassicalMethod(Ridge(), {"alpha": [0.1, 1, 10, 100]}, "covariates"),
    "mask-features": ClassicalMethod(Ridge(), {"alpha": [0.1, 1, 10, 100]}, "mask"),
}
EXPLAINED_VARIANCE = (0.5, 0.8, 0.95)  # of the principal components that a method sees


def fit_method(
    method: ClassicalMethod,
    features: Float[np.ndarray, "n f"] | pd.DataFrame,
    labels: Int[np.ndarray, " n"] | Float[np.ndarray, " n"],
    groups: Sequence[str],
    seed: int,
    *,
    smote: bool = False,
    synthetic: Sequence[bool] = (),
) -> BaseEstimator:
    """Fit a method on the training part of a fold, its settings chosen by inner cross-validation.

    Standardisation and imputation are fitted on the fold's training part, principal components
    also again in each inner fold.

    Args:
        method: The method.
        features: One row per scan.
        labels: Class index of each scan, or its target.
        groups: Patient of each scan, never parted.
        seed: Seed of inner folds and estimator.
        smote: Whether rare classes are filled up before the estimator sees them, also in each inner
            fold: with points between the features of two neighbours of a class (Chawla et al.
            2002).
        synthetic: Whether each scan is for training alone; none is if this is empty. Settings are
            chosen by the others.

    Returns:
        The fitted estimator, to be used with `predict_probs`, or of a target with `predict`.
    """
    estimator = clone(method.estimator)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    grid = {f"estimator__{name}": values for name, values in method.grid.items()}
    steps: list[tuple[str, BaseEstimator]] = [("columns", _columns())]
    tuned: list[tuple[str, BaseEstimator]] = [("estimator", estimator)]
    if method.inputs in ("image", "encoder"):
        # Turned to as many axes as there are scans, the inner components stay what they would be.
        # A penalty on the sum of squares is the same along any axes.
        steps = [("scale", StandardScaler()), ("turn", PCA(svd_solver="full"))]
        if np.isnan(features).any():  # of a contrast that a scan lacks
            steps.insert(0, ("impute", SimpleImputer()))
    if method.inputs == "image":
        tuned.insert(0, ("pca", PCA(whiten=True, svd_solver="full")))
        grid["pca__n_components"] = EXPLAINED_VARIANCE
    search: BaseEstimator = Pipeline(tuned)
    if smote:
        from imblearn.pipeline import Pipeline as SamplingPipeline  # takes a second

        tuned.insert(-1, ("smote", _smote(seed)))
        search = SamplingPipeline(tuned)
    num_folds = min(NUM_INNER_FOLDS, *_patients_per_class(labels, groups))
    scoring, folds_of = "balanced_accuracy", StratifiedGroupKFold
    if is_regressor(method.estimator):
        num_folds = min(NUM_INNER_FOLDS, len(set(groups)))
        scoring, folds_of = "neg_mean_absolute_error", GroupKFold
    if num_folds < 2 or not method.grid:
        search.set_params(**{name: values[-1] for name, values in grid.items()})
        return Pipeline([*steps, ("model", search)]).fit(features, labels)
    folds = folds_of(num_folds, shuffle=True, random_state=seed)
    judged = ~np.asarray(synthetic or np.zeros(len(labels)), dtype=bool)
    inner = [
        (train, held_out[judged[held_out]])
        for train, held_out in folds.split(features, labels, np.asarray(groups, dtype=object))
    ]
    search = GridSearchCV(search, grid, scoring=scoring, cv=inner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return Pipeline([*steps, ("model", search)]).fit(features, labels)


def predict_probs(
    fitted: BaseEstimator, features: Float[np.ndarray, "n f"] | pd.DataFrame
) -> Float[np.ndarray, "n k"]:
    """Predict one output per class in [0, 1]; a decision function is squashed, not calibrated."""
    if hasattr(fitted, "predict_proba"):
        return fitted.predict_proba(features)
    decision = fitted.decision_function(features)
    if decision.ndim == 1:
        return np.stack([expit(-decision), expit(decision)], axis=1)
    return softmax(decision, axis=1)


def _smote(seed: int) -> BaseEstimator:
    """SMOTE among at most 5 neighbours, as many as the rarest class has."""
    from imblearn.over_sampling import SMOTE

    class FittingSMOTE(SMOTE):
        def _fit_resample(self, X: np.ndarray, y: np.ndarray) -> Any:  # noqa: N803
            rarest = np.unique(y, return_counts=True)[1].min()
            if rarest < 2:
                return X, y  # no neighbour to go to
            self.k_neighbors = min(5, int(rarest) - 1)
            return super()._fit_resample(X, y)

    return FittingSMOTE(random_state=seed)


def _columns() -> BaseEstimator:
    """Impute and scale numbers, one-hot encode words."""
    return make_column_transformer(
        (
            make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
            make_column_selector(dtype_include="number"),
        ),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
    )


def _patients_per_class(labels: np.ndarray, groups: Sequence[str]) -> list[int]:
    names = np.asarray(groups, dtype=object)
    return [len(set(names[labels == label])) for label in np.unique(labels)]
