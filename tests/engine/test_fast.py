"""How a run computes is measured once, written down, and never changes what is computed."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.jobs import Net, job
from torch import Tensor, nn

from sparring.core.game import play
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy
from sparring.core.tools import Tools
from sparring.core.view import Speed
from sparring.engine import fast, record
from sparring.engine.fast import PLAIN, WHOLE, Choice, choose, dress
from sparring.engine.run import train
from sparring.systems import pgd_at


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(16, 1, 8, 8, generator=rng), torch.randint(0, 10, (16,), generator=rng)


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def chosen(
    monkeypatch: pytest.MonkeyPatch, attack: dict[Speed, float], learner: dict[Speed, float], **how: Any
) -> Choice:
    """What `choose` picks when the clock says this."""
    monkeypatch.setattr(fast, "_attack_seconds", lambda model, x, y, speed: attack[speed])
    monkeypatch.setattr(fast, "_learner_seconds", lambda model, x, y, speed: learner[speed])
    how = {"precision": "auto", "compiling": "off", "rounds": 1, **how}
    return choose(network(), batch(), **how)


LAYOUT, HALF = Speed(channels_last=True), Speed(channels_last=True, bfloat16=True)
FOLDED = Speed(channels_last=True, folded=True)


def test_auto_takes_what_the_clock_says_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, {PLAIN: 1.0, FOLDED: 0.8, WHOLE: 0.2}, {PLAIN: 1.0, LAYOUT: 0.5, HALF: 0.9})
    assert choice == Choice(WHOLE, LAYOUT)


def test_auto_keeps_the_model_as_it_is_where_nothing_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, {PLAIN: 1.0, FOLDED: 0.97, WHOLE: 1.5}, {PLAIN: 1.0, LAYOUT: 0.95, HALF: 0.99})
    assert choice == Choice(PLAIN, PLAIN)


def test_32_measures_nothing_and_is_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, {}, {}, precision="32") == Choice(PLAIN, PLAIN)


def test_a_compilation_has_to_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = Speed(compiled=True)
    clock = {PLAIN: 1.0, FOLDED: 1.0, WHOLE: 1.0, compiled: 0.5}
    learner = {PLAIN: 1.0, LAYOUT: 1.0, HALF: 1.0}
    assert not chosen(monkeypatch, clock, learner, compiling="auto", rounds=1).attack.compiled  # too little ahead
    assert chosen(monkeypatch, clock, learner, compiling="auto", rounds=1000).attack.compiled
    clock[compiled] = 0.99
    assert not chosen(monkeypatch, clock, learner, compiling="auto", rounds=1000).attack.compiled
    assert chosen(monkeypatch, clock, learner, compiling="on", rounds=1).attack.compiled


def test_a_compiler_that_fails_leaves_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", refuse)
    choice = choose(network(), batch(), precision="32", compiling="on", rounds=1)
    assert choice.attack == PLAIN
    assert choice.note == "not compiled: RuntimeError: no C++ compiler"


def test_a_model_that_cannot_be_copied_is_attacked_as_it_is() -> None:
    class Unique(Net):
        def __deepcopy__(self, memo: dict[int, Any]) -> "Unique":
            raise TypeError("there is only one of me")

    choice = choose(Unique(), batch(), precision="bf16", compiling="off", rounds=1)
    assert choice.attack == PLAIN
    assert choice.note == "the attack is in float32: TypeError: there is only one of me"


def test_choosing_leaves_the_model_as_it_was() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    choose(model, batch(), precision="auto", compiling="off", rounds=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_choice_survives_its_record() -> None:
    choice = Choice(WHOLE, LAYOUT, "why")
    assert Choice.from_record(json.loads(json.dumps(choice.as_record()))) == choice


def test_a_choice_says_what_it_is() -> None:
    said = str(Choice(WHOLE, LAYOUT, "not compiled: RuntimeError: why"))
    assert said == (
        "computed: attack channels-last + bfloat16 + folded; learner channels-last; not compiled: RuntimeError: why"
    )
    assert str(Choice()) == "computed: attack as it is; learner as it is"


def after(choice: Choice, rounds: int = 5) -> list[Tensor]:
    """Weights after a few rounds of PGD-AT that computes in this way."""
    model, data = network(), batch()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    played, view = dress(model, choice, data[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tools = Tools(rng=torch.Generator().manual_seed(0), view=view)
    config = pgd_at.Config(steps=3, random_start=False)
    for _ in play(pgd_at.game(config, model=played, optimizer=optimizer, tools=tools), [data] * rounds):
        pass
    return [p.detach().clone(memory_format=torch.contiguous_format) for p in model.parameters()]


def test_layout_and_folding_change_the_result_by_rounding_only() -> None:
    for plain, quick in zip(after(Choice()), after(Choice(FOLDED, LAYOUT)), strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-3, atol=1e-5)


def test_bfloat16_stays_near() -> None:
    """Sign steps flip where a gradient is near zero, so the two are near, not equal."""
    plain, half = (torch.cat([p.flatten() for p in after(choice)]) for choice in (Choice(), Choice(WHOLE, HALF)))
    moved = torch.cat([p.detach().flatten() for p in network().parameters()])
    assert 0 < (half - plain).norm() < 0.2 * (plain - moved).norm()


def test_the_attack_bypasses_what_wraps_the_model_for_the_learner() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Tensor) -> Tensor:
            assert self.training, "only the learner comes this way"
            answer: Tensor = self.module(x)
            return answer

    data = batch()
    for choice in (Choice(), Choice(WHOLE, HALF), Choice(PLAIN, HALF)):
        model = network()
        played, view = dress(model, choice, data[0], played=Wrapper(model))
        tools = Tools(rng=torch.Generator().manual_seed(0), view=view)
        game = pgd_at.game(pgd_at.Config(steps=2), model=played, tools=tools)
        for _ in play(game, [data] * 2):
            pass


def test_a_resumed_run_computes_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is asked once: what it said stands in the record."""
    train(job(precision="auto", epochs=1), tmp_path / "run")
    facts = record.read(tmp_path / "run")
    assert set(facts["fast"]) == {"attack", "learner", "note"}
    facts.update(status="interrupted", fast=Choice(PLAIN, LAYOUT).as_record())
    record.write(tmp_path / "run", facts)

    def asked(*_: Any, **__: Any) -> Choice:
        raise AssertionError("the clock was asked again")

    monkeypatch.setattr(fast, "choose", asked)
    assert train(job(precision="auto", epochs=1), tmp_path / "run")["fast"]["learner"]["channels_last"]


def test_the_view_of_a_choice_is_the_model_itself_where_it_is_plain() -> None:
    model, (x, y) = network(), batch()
    played, view = dress(model, Choice(), x)
    assert played is model
    assert view is frozen
    assert cross_entropy(played(x), y).shape == y.shape
