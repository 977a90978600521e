"""An independent implementation of what the core computes: convex programs, solved by cvxpy and Clarabel."""

import math
import warnings
from collections.abc import Callable, Sequence

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

Balls = Sequence[tuple[float, float]]  # (p, eps)


def _feasible(x: np.ndarray, balls: Balls, low: float, high: float) -> tuple[cp.Variable, list[cp.Constraint]]:
    v = cp.Variable(len(x))
    constraints = [cp.norm(v - x, p) <= eps for p, eps in balls]
    constraints += [v >= low] if math.isfinite(low) else []
    constraints += [v <= high] if math.isfinite(high) else []
    return v, constraints


def _solve(objective: cp.Minimize | cp.Maximize, constraints: list[cp.Constraint]) -> None:
    problem = cp.Problem(objective, constraints)
    with warnings.catch_warnings():  # the solver may stop short of 1e-10; the tests' own tolerance is what judges
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert problem.status in ("optimal", "optimal_inaccurate"), problem.status


@pytest.fixture(scope="session")
def nearest() -> Callable[..., Tensor]:
    """`nearest(z, x, balls, low, high)`: the Euclidean projection of each example, by quadratic programming."""

    def project(z: Tensor, x: Tensor, balls: Balls, low: float, high: float) -> Tensor:
        rows = []
        flat_x, flat_z = x.reshape(len(x), -1).double().numpy(), z.reshape(len(z), -1).double().numpy()
        for start, target in zip(flat_x, flat_z, strict=True):
            v, constraints = _feasible(start, balls, low, high)
            _solve(cp.Minimize(cp.sum_squares(v - target)), constraints)
            rows.append(torch.from_numpy(np.asarray(v.value)))
        return torch.stack(rows).reshape(x.shape)

    return project


@pytest.fixture(scope="session")
def highest() -> Callable[..., Tensor]:
    """`highest(w, x, balls, low, high)`: max <w, z> over the set `[B]`, by linear or cone programming."""

    def maximum(w: Tensor, x: Tensor, balls: Balls, low: float, high: float) -> Tensor:
        values = []
        flat_x, flat_w = x.reshape(len(x), -1).double().numpy(), w.reshape(len(w), -1).double().numpy()
        for start, direction in zip(flat_x, flat_w, strict=True):
            v, constraints = _feasible(start, balls, low, high)
            _solve(cp.Maximize(direction @ v), constraints)
            values.append(float(direction @ v.value))
        return torch.tensor(values, dtype=torch.float64)

    return maximum
