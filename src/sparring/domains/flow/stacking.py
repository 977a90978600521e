"""Fitting a stack: base learners on rows, a meta-learner on what base learners say of rows that they have not seen.

scikit-learn's `StackingClassifier` with `cv`: for each fold the base learners are fitted on the other folds and asked
about this one; the meta-learner is fitted on those answers; then the base learners are fitted on all rows. In-fold
answers would make the meta-learner trust whichever base learner remembers best.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.domains.flow.stack import BASES


def learners(seed: int, *, trees: int = 100, epochs: int = 15) -> list[tuple[str, Any]]:
    """The base learners, by name (`sparring.domains.flow.stack.BASES`).

    Args:
        seed: of whatever in them is random.
        trees: of the boosting, and half as many in the forest.
        epochs: of the perceptron.

    Raises:
        ImportError: without LightGBM.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    try:
        from lightgbm import LGBMClassifier
    except ImportError as error:
        raise ImportError("The stack has boosted trees of LightGBM: pip install 'sparring[flows]'.") from error
    seed %= 2**31
    made = (
        LGBMClassifier(
            n_estimators=trees, random_state=seed, n_jobs=1, deterministic=True, force_row_wise=True, verbose=-1
        ),
        RandomForestClassifier(max(1, trees // 2), max_depth=16, random_state=seed, n_jobs=1),
        MLPClassifier((64, 32), batch_size=256, learning_rate_init=2e-3, max_iter=epochs, random_state=seed),
        LogisticRegression(C=10.0, max_iter=300),
    )
    return list(zip(BASES, made, strict=True))


def fit_stack(x: Tensor, y: Tensor, fold: NDArray[np.int64], bases: list[tuple[str, Any]]) -> Any:
    """The fitted `sklearn.ensemble.StackingClassifier`, its meta-learner a logistic regression.

    Args:
        x: rows `[N, d]`.
        y: 0 benign, 1 malicious, int64 `[N]`.
        fold: of each row, `[N]`, as `folds_of` gives it.
        bases: the base learners.
    """
    from sklearn.ensemble import StackingClassifier
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in np.unique(fold)]
    model = StackingClassifier(bases, LogisticRegression(), cv=splits, stack_method="predict_proba")
    # a second thread gains nothing on matrices this small, and on busy cores waiting for it took many times as long
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)  # feature names that nobody gave; few epochs
        return model.fit(x.numpy(), y.numpy())


def folds_of(y: Tensor, origin: Tensor, folds: int, rng: torch.Generator) -> NDArray[np.int64]:
    """The fold of each row, `[N]`: a share of every class in each, and rows made of one row all in its fold, because a
    base learner that has seen a row knows its adversarial form as well.

    Args:
        y: classes `[N]`.
        origin: the row that each row was made of, `[N]`, its own number for one that came as it is.
        folds: at least 2, and no more than there are rows of any class that came as they are.
        rng: source of the assignment.

    Raises:
        ValueError: for folds out of this range.
    """
    own = origin == torch.arange(len(origin))
    least = min(int((y[own] == label).sum()) for label in y.unique())
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= least:
        raise ValueError(f"The 'folds' parameter must be an int in the range [2, {least}]. Got {folds!r} instead.")
    fold = torch.zeros(len(y), dtype=torch.int64)
    for label in y.unique():
        rows = (own & (y == label)).nonzero().squeeze(1)
        fold[rows[torch.randperm(len(rows), generator=rng)]] = torch.arange(len(rows)) % folds
    found: NDArray[np.int64] = fold[origin].numpy()
    return found
