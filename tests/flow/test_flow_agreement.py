"""The attack's idea of a feasible flow and that of the independent check, on real rows: they share no code."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparring.attacks.apgd import apgd
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import cross_entropy
from sparring.domains.flow.check import violations
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.read import read

DATA = os.environ.get("SPARRING_DATA", "")
SETS = {"nsl-kdd": "nsl_kdd", "unsw-nb15": "unsw_nb15"}


@pytest.mark.parametrize("name", SETS)
def test_attacked_rows_pass_the_check(name: str) -> None:
    if not DATA or not Path(DATA, SETS[name]).is_dir():
        pytest.skip(f"SPARRING_DATA has no {SETS[name]}")
    tables = read(name)
    fitted = Preprocessing.fit(tables[0])
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(fitted.width, 64), nn.ReLU(), nn.Linear(64, 2))
    for table in tables[-1:]:  # where there is a test set, its rows: some lie outside the training rows
        malicious = np.flatnonzero(table.malicious)
        table = table.take(np.random.default_rng(0).choice(malicious, 2000, replace=False))
        own = violations(table, table)
        x = fitted.encode(table)
        gain = ClassifierGain(net, torch.ones(len(table), dtype=torch.int64), cross_entropy)
        for eps in (0.05, 0.1, 0.3):
            z = apgd(gain, x, Feasible(fitted, eps), steps=10, rng=torch.Generator().manual_seed(0))
            found = violations(table, fitted.to_table(z, table))
            assert (found.feasible | ~own.feasible).all(), found.counts()
            assert Feasible(fitted, eps).contains(z, x).all()
            assert (z != x).any(1).float().mean() > 0.9
            free = apgd(gain, x, unconstrained(fitted, eps), steps=10, rng=torch.Generator().manual_seed(0))
            assert not violations(table, fitted.to_table(free, table)).feasible.any()  # the check does look
