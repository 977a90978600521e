"""nids-ensemble: what its learner collects and fits, where its adversary moves whose rows, and the adaptive gain."""

import copy
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.flow.made_flows import rows
from torch import Tensor, nn

from sparring import systems
from sparring.core.game import Game, play
from sparring.core.gradient import value_and_gradient
from sparring.core.pgd import pgd
from sparring.core.threat import Linf
from sparring.core.tools import Tools
from sparring.domains.flow import models
from sparring.domains.flow.check import violations
from sparring.domains.flow.feasible import Feasible
from sparring.domains.flow.fitting import error, fit_autoencoder, fit_perceptron
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.table import Table
from sparring.systems import nids_ensemble
from sparring.systems.nids_ensemble import Config, Defence, Refit, adaptive

SMALL = Config(rounds=1, trees=4, folds=2, epochs=4, gan_steps=3)


@pytest.fixture(scope="module")
def table() -> Table:
    made = rows(0, 240)
    labels = np.where(made.columns["err"] > 0.4, "flood", "normal").astype(object)
    return Table(made.schema, made.columns, labels)


@pytest.fixture(scope="module")
def prepared(table: Table) -> tuple[Preprocessing, Tensor, Tensor]:
    preprocessing = Preprocessing.fit(table)
    return preprocessing, preprocessing.encode(table), torch.from_numpy(table.malicious.astype(np.int64))


def game(preprocessing: Preprocessing, config: Config = SMALL, seed: int = 0) -> Game:
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    return nids_ensemble.game(config, threat=Feasible(preprocessing, config.eps), tools=tools)


@pytest.fixture(scope="module")
def played(prepared: tuple[Preprocessing, Tensor, Tensor]) -> tuple[Game, list[dict[str, float]]]:
    """After a round of standard training and one against the adversary."""
    preprocessing, x, y = prepared
    one = game(preprocessing)
    told = [{k: v.item() for k, v in metrics.items()} for metrics in play(one, [(x, y)] * 2)]
    return one, told


def test_the_card_and_the_config_are_what_every_system_has() -> None:
    system = systems.find("nids-ensemble")
    for heading in ("Learner", "Adversary", "Payoff", "Threat", "Reference", "Departs from the paper", "Claim"):
        assert f"\n{heading}" in system.card
    assert "min_theta" in system.card
    assert system.citation.count("{") == system.citation.count("}")
    config = system.config()
    assert system.config(**json.loads(json.dumps(asdict(config)))) == config
    assert all(isinstance(getattr(config, field.name), int | float | str) for field in fields(config))
    source = Path(nids_ensemble.__file__).read_text().splitlines()
    for field in fields(config):
        at = next(i for i, line in enumerate(source) if line.startswith(f"    {field.name}: "))
        assert source[at + 1].strip().startswith('"""'), field.name


@pytest.mark.parametrize(
    "changes",
    [{"rounds": -1}, {"generated": 1.5}, {"gan_steps": 0}, {"eps": 0.0}, {"folds": 1}, {"trees": 0}, {"epochs": True}],
)
def test_config_refuses_what_is_outside(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        Config(**changes)


def test_the_first_round_is_standard_training_and_the_next_adds_what_the_adversary_made(
    prepared: tuple[Preprocessing, Tensor, Tensor], played: tuple[Game, list[dict[str, float]]]
) -> None:
    _, x, y = prepared
    one, told = played
    assert told[0]["loss"] == pytest.approx(np.log(2))  # a defence that is not fitted says even odds
    assert told[0]["collected"] == 0
    assert 0 < told[1]["collected"] <= int(y.sum())
    assert isinstance(one.learner, Refit)
    material, labels, origin = one.learner.material((x, y))
    count = len(x) + int(told[1]["collected"])
    assert material.shape == (count, x.shape[1])
    assert torch.equal(material[: len(x)], x)
    assert torch.equal(labels, y[origin])
    assert (labels[len(x) :] == 1).all(), "only malicious rows are collected"
    assert (material[len(x) :] != x[origin[len(x) :]]).any(1).all()
    assert ((material[len(x) :] - x[origin[len(x) :]]).abs() <= SMALL.eps + 1e-5).all()


def test_a_benign_row_that_someone_moved_is_not_collected(prepared: tuple[Preprocessing, Tensor, Tensor]) -> None:
    preprocessing, x, y = prepared
    learner = game(preprocessing, Config(rounds=0, trees=2, folds=2, epochs=2)).learner
    assert isinstance(learner, Refit)
    learner.update((x * 0.9).clamp(0, 1), (x, y))
    material, labels, _ = learner.material((x, y))
    assert len(material) == len(x) + int(y.sum())
    assert (labels[len(x) :] == 1).all()


def test_only_malicious_rows_move_and_only_to_what_could_be_sent(
    table: Table,
    prepared: tuple[Preprocessing, Tensor, Tensor],
    played: tuple[Game, list[dict[str, float]]],
) -> None:
    preprocessing, x, y = prepared
    one, _ = played
    defence, batch = one.learner.model, (x.clone(), y.clone())
    before = copy.deepcopy(defence.state_dict())
    z = one.adversary.respond(defence, batch)
    moved = (z != x).any(1)
    assert not moved[y == 0].any()
    assert moved[y == 1].double().mean() > 0.5
    assert Feasible(preprocessing, SMALL.eps).contains(z, x).all()
    assert violations(table, preprocessing.to_table(z, table)).feasible.all()
    assert all(torch.equal(before[name], value) for name, value in defence.state_dict().items())
    assert torch.equal(batch[0], x)
    assert torch.equal(batch[1], y)
    payoff = one.payoff(defence, z, batch)
    assert payoff.shape == (len(x),)
    assert payoff.isfinite().all()


@pytest.mark.parametrize("generated", [0.0, 1.0])
def test_each_half_of_the_adversary_is_no_worse_than_nature(
    generated: float,
    prepared: tuple[Preprocessing, Tensor, Tensor],
    played: tuple[Game, list[dict[str, float]]],
) -> None:
    """FGSM raises the surrogate's loss, IDSGAN never lowers the stack's."""
    preprocessing, x, y = prepared
    defence = played[0].learner.model
    assert isinstance(defence, Defence)
    assert defence.surrogate is not None
    config = Config(generated=generated, gan_steps=3)
    z = game(preprocessing, config, seed=3).adversary.respond(defence, (x, y))
    own = y == 1
    seen = defence if generated else defence.surrogate
    gained = nids_ensemble.ahead(seen, z[own]) - nids_ensemble.ahead(seen, x[own])
    if generated:
        assert (gained >= 0).all()
    assert gained.mean() > 0


def test_the_same_seed_gives_the_same_defence_and_a_resumed_one_is_it(
    prepared: tuple[Preprocessing, Tensor, Tensor], played: tuple[Game, list[dict[str, float]]]
) -> None:
    preprocessing, x, y = prepared
    torch.manual_seed(5)  # what a game draws from is its own generator
    again = game(preprocessing)
    list(play(again, [(x, y)] * 2))
    wanted = played[0].learner.model.state_dict()
    assert set(again.learner.model.state_dict()) == set(wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in again.learner.model.state_dict().items())
    resumed = game(preprocessing).learner
    assert isinstance(resumed, Refit)
    assert isinstance(again.learner, Refit)
    resumed.load_state_dict(again.learner.state_dict())
    resumed.fit((x, y))
    assert resumed.rounds == 2
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.model.state_dict().items())


def test_the_autoencoder_is_fitted_to_benign_rows_and_to_nothing_else(
    prepared: tuple[Preprocessing, Tensor, Tensor], played: tuple[Game, list[dict[str, float]]]
) -> None:
    """Other malicious rows, in batch and move, leave it as it is, bit for bit; another benign row does not."""
    preprocessing, x, y = prepared
    wanted = played[0].learner.model.autoencoder.state_dict()
    weights = {}
    for label in (1, 0):
        turned = x.clone()
        turned[(y == label).nonzero()[0]] = torch.rand(1, x.shape[1], generator=torch.Generator().manual_seed(1))
        other = game(preprocessing, Config(rounds=0, trees=2, folds=2, epochs=4))
        list(play(other, [(turned, y)]))
        weights[label] = other.learner.model.autoencoder.state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in weights[1].items())
    assert not all(torch.equal(wanted[name], value) for name, value in weights[0].items())


def test_fitting_a_network_lowers_what_it_is_fitted_by_and_leaves_the_global_generator(
    prepared: tuple[Preprocessing, Tensor, Tensor],
) -> None:
    _, x, y = prepared
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    benign = x[y == 0]
    values = [error(fit_autoencoder(benign, torch.Generator().manual_seed(0), epochs=k, batch=32), benign).mean().item()
              for k in (1, 40)]  # fmt: skip
    assert values[1] < 0.7 * values[0]
    model = fit_perceptron(x, y, torch.Generator().manual_seed(0), epochs=40, batch=32)
    assert (model(x).argmax(1) == y).double().mean() > 0.95
    assert torch.equal(torch.rand(2), expected)
    network = models.autoencoder(x.shape[1])
    torch.testing.assert_close(error(network, x), ((network(x) - x) ** 2).sum(1) / x.shape[1])


def test_the_adaptive_gain_is_the_formula_and_its_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    surrogate = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    autoencoder = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6)).double()
    z = torch.rand(40, 6, dtype=torch.float64)
    r = error(autoencoder, z).detach()
    t2 = float(r.median())
    log_p = surrogate(z).log_softmax(1)[:, 1]
    for kappa in (0.0, 0.5, 20.0):
        gain = adaptive(surrogate, autoencoder, t2, kappa)
        torch.testing.assert_close(gain(z), -log_p - kappa * (r - t2).clamp(min=0))
        _, slope = value_and_gradient(gain, z)
        clear = (r - t2).abs() > 1e-4  # away from the corner of the clamp
        step = 1e-6
        for i in range(6):
            there, back = z.clone(), z.clone()
            there[:, i] += step
            back[:, i] -= step
            numeric = (gain(there) - gain(back)) / (2 * step)
            torch.testing.assert_close(slope[clear, i], numeric[clear], atol=1e-6, rtol=1e-5)
    assert (r > t2).any()
    assert (r < t2).any()


def test_an_attack_with_kappa_pays_in_evasion_for_an_error_that_is_lower() -> None:
    torch.manual_seed(1)
    surrogate = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    autoencoder = nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 6))
    x = torch.rand(60, 6)
    t2 = float(error(autoencoder, x).detach().quantile(0.2))
    reached = []
    for kappa in (0.0, 100.0):
        gain = adaptive(surrogate, autoencoder, t2, kappa)
        z = pgd(gain, x, Linf(0.2), steps=20, rng=torch.Generator().manual_seed(0))
        evasion = adaptive(surrogate, autoencoder, t2, 0.0)(z)
        reached.append([float(each.detach().mean()) for each in (error(autoencoder, z), evasion)])
    assert reached[1][0] < 0.95 * reached[0][0]
    assert reached[1][1] < reached[0][1]
