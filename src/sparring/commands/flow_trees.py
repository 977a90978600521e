"""Gradient-boosted trees on flows: the baseline that has no gradient to follow."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.domains.flow.data import MALICIOUS, FlowData
from sparring.engine.stream import hold_out


def trees(data: FlowData, validation: float, seed: int) -> Callable[[Tensor], Tensor]:
    """scikit-learn's histogram gradient boosting with its defaults, on the rows that a network of this seed trains on.

    Returns:
        `score(u [N, d]) -> [N]`, float64, the probability of malicious.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, _ = hold_out(data.train.y, validation, seed)
    x, y = data.train.take(rows)
    model = HistGradientBoostingClassifier(random_state=seed).fit(x.numpy(), y.numpy())

    def score(u: Tensor) -> Tensor:
        return torch.from_numpy(model.predict_proba(u.detach().numpy())[:, MALICIOUS])

    return score
