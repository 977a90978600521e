"""What every system has to hold, run over `sparring.systems.NAMES`: a new method cannot dodge it."""

import copy
import dataclasses
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring import systems
from sparring.core.game import play
from sparring.core.gradient import frozen
from sparring.core.payoff import margin
from sparring.core.players import Attacker
from sparring.core.threat import Threat
from sparring.core.tools import Tools
from sparring.domains.image.data import load
from sparring.engine.system import System
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.suite import Suite, pgd_challenge

ALL = [name for name, _ in systems.NAMES]
NAMES = [name for name in ALL if systems.find(name).domain == "image"]
"""Systems that play on images; those of other domains have the same tests on data of their own (tests/flow)."""
HEADINGS = ("Learner", "Adversary", "Payoff", "Threat", "Reference", "Departs from the paper", "Claim")


@pytest.fixture(params=NAMES)
def system(request: pytest.FixtureRequest) -> System:
    return systems.find(request.param)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    return load("digits").train.take(torch.arange(256))


def network(seed: int = 0) -> nn.Module:
    """A small network with BatchNorm, whose statistics an attack could disturb."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    return nn.Sequential(*layers)


def game(system: System, model: nn.Module, seed: int = 0, **changes: object) -> sparring.Game:
    config = dataclasses.replace(system.config(), **changes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    return system.game(config, model=model, optimizer=optimizer, tools=tools)


def reach(system: System) -> Threat:
    """Where a system's training move may be: its threat, unless its file says with a `reach` that it trains wider."""
    module = importlib.import_module(system.game.__module__)
    widest: Threat = getattr(module, "reach", system.threat)(system.config())
    return widest


def ascended(played: sparring.Game, model: nn.Module, move: object, batch: tuple[Tensor, ...]) -> Tensor:
    """What the adversary ascends, in eval mode: the game's payoff, or its surrogate where it has one (TRADES: KL)."""
    adversary = played.adversary
    payoff = adversary.payoff if isinstance(adversary, Attacker) else played.payoff
    with frozen(model), torch.no_grad():
        if isinstance(adversary, Attacker) and adversary.reference is not None:
            batch = (*batch, adversary.reference(model, batch))
        return payoff(model, move, batch)


def batches(digits: tuple[Tensor, Tensor], count: int) -> list[tuple[Tensor, Tensor]]:
    x, y = digits
    return [(x[i : i + 64], y[i : i + 64]) for i in (64 * (k % 4) for k in range(count))]


def test_a_file_of_the_folder_is_a_system_and_is_listed() -> None:
    inside = Path(systems.__file__).parent.iterdir()
    files = {path.stem for path in inside if path.suffix == ".py" or (path / "__init__.py").exists()} - {"__init__"}
    assert files == {name.replace("-", "_") for name in ALL}
    for name in ALL:
        assert systems.find(name).name == name


def test_config_default_constructs_is_frozen_and_round_trips_through_json(system: System) -> None:
    config = system.config()
    assert type(config).__dataclass_params__.frozen
    assert system.config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
    for field in dataclasses.fields(config):
        assert isinstance(getattr(config, field.name), (int, float, str, type(None))), f"{field.name} is not a scalar"


def test_every_field_of_the_config_has_a_docstring(system: System) -> None:
    source = Path(systems.__file__).with_name(f"{system.name.replace('-', '_')}.py").read_text().splitlines()
    for field in dataclasses.fields(system.config):
        at = next(i for i, line in enumerate(source) if line.startswith(f"    {field.name}: "))
        assert source[at + 1].strip().startswith('"""'), f"{field.name} has no docstring"


def test_the_card_has_its_headings_and_a_formula(system: System) -> None:
    for heading in HEADINGS:
        assert f"\n{heading}" in system.card, heading
    assert "min_theta" in system.card


def test_the_citation_is_bibtex(system: System) -> None:
    assert system.citation.startswith("@")
    assert system.citation.count("{") == system.citation.count("}")
    assert "year" in system.citation


@pytest.mark.parametrize("eps", [0, -1, float("nan"), float("inf"), True, "large"])
def test_config_refuses_an_eps_that_is_no_radius(system: System, eps: object) -> None:
    with pytest.raises(ValueError, match="'eps' parameter"):
        system.config(eps=eps)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(system: System, digits: tuple[Tensor, Tensor]) -> None:
    weights = []
    for noise in range(2):
        model = network()
        torch.manual_seed(noise)  # a game draws from the generator it is given, never from the global one
        for _ in play(game(system, model), batches(digits, 4)):
            pass
        weights.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_respond_leaves_the_model_and_the_batch_as_found(system: System, digits: tuple[Tensor, Tensor]) -> None:
    model = network()
    model[1].eval()  # a BatchNorm that the user froze
    model[0].weight.requires_grad_(False)
    batch = tuple(part[:32].clone() for part in digits)
    before = copy.deepcopy(model.state_dict())
    played = game(system, model)
    played.adversary.respond(model, batch)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(batch[0], digits[0][:32])
    assert torch.equal(batch[1], digits[1][:32])


def test_the_move_is_allowed_and_the_payoff_is_per_example(system: System, digits: tuple[Tensor, Tensor]) -> None:
    model, batch = network(), tuple(part[:32] for part in digits)
    played = game(system, model)
    move = played.adversary.respond(model, batch)
    assert reach(system).contains(move, batch[0]).all()
    payoff = played.payoff(model.eval(), move, batch)
    assert payoff.shape == (32,)
    assert payoff.isfinite().all()


def test_the_adversary_is_no_worse_than_nature(system: System, digits: tuple[Tensor, Tensor]) -> None:
    model, batch = network(), tuple(part[:64] for part in digits)
    for _ in play(game(system, model), batches(digits, 8)):
        pass
    played = game(system, model)
    move = played.adversary.respond(model, batch)
    assert (ascended(played, model, move, batch) >= ascended(played, model, batch[0], batch) - 1e-5).all()
    model.eval()
    with torch.no_grad():  # a surrogate has to serve what is reported too, if not on every example
        assert played.payoff(model, move, batch).mean() >= played.payoff(model, batch[0], batch).mean() - 1e-5


def test_a_larger_budget_never_lowers_the_mean_payoff(system: System, digits: tuple[Tensor, Tensor]) -> None:
    model, batch = network(), tuple(part[:64] for part in digits)
    values = []
    for eps in (0.01, 0.05, 0.15):
        played = game(system, model, eps=eps)
        move = played.adversary.respond(model, batch)
        values.append(ascended(played, model, move, batch).mean().item())
    assert values == sorted(values)


def test_playing_lowers_what_the_learner_descends(system: System, digits: tuple[Tensor, Tensor]) -> None:
    model = network()
    losses = [metrics["loss"].item() for metrics in play(game(system, model), batches(digits, 40))]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])


def test_exploitability_falls_where_there_is_an_adversary(digits: tuple[Tensor, Tensor]) -> None:
    """Trained for as long, every adversarial method stands better than the baseline against an attack it never saw.

    Each in its own threat model: the balls of a union are larger than the Linf ball that the others share.
    """

    def stands(model: nn.Module, threat: Threat) -> float:
        suite = Suite("one", (pgd_challenge("pgd-40-margin", threat, margin, steps=40),))
        return evaluate(model, digits, threat=threat, suite=suite).results["worst"]["accuracy"]

    def trained(name: str) -> nn.Module:
        model = network()
        system = systems.find(name)
        known = {field.name for field in dataclasses.fields(system.config)}
        fewer = {"steps": 4} if "steps" in known else {}  # enough here, and half the time
        for _ in play(game(system, model, eps=0.1, **fewer), batches(digits, 160)):
            pass
        return model

    baseline, bars, short = trained("standard"), {}, {}
    for name in NAMES:
        if name != "standard":
            found = systems.find(name)
            threat = found.threat(found.config(eps=0.1))
            if repr(threat) not in bars:
                bars[repr(threat)] = stands(baseline, threat) + 0.1
            if (value := stands(trained(name), threat)) <= bars[repr(threat)]:
                short[name] = value
    assert not short, (short, bars)
