"""A threat model that is one class's alone."""

from functools import partial

import torch

from sparring.core.compose import OfClass
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.pgd import pgd
from sparring.core.players import Attacker, OwnExamples
from sparring.core.threat import Linf, for_classes


def test_only_one_class_may_change() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(8, 2, 3, generator=rng), torch.tensor([0, 1, 1, 0, 2, 1, 0, 1])
    inner = Linf(0.1)
    owned = OfClass(inner, 1)
    threat = for_classes(owned, y)
    z = x + torch.randn(x.shape, generator=rng)
    mine = y == 1
    assert torch.equal(threat.project(z, x)[mine], inner.project(z, x)[mine])
    assert torch.equal(threat.project(z, x)[~mine], x[~mine])
    assert threat.contains(threat.sample(x, rng), x).all()
    assert not threat.contains(inner.project(z, x), x)[~mine].any()
    assert (threat.steepest(z, x)[~mine] == 0).all()
    rows = torch.tensor([5, 0, 1])
    assert torch.equal(threat.take(rows).project(z[rows], x[rows]), threat.project(z, x)[rows])
    assert torch.equal(threat.scaled(0.5).project(z, x)[mine], Linf(0.05).project(z, x)[mine])
    assert torch.equal(threat.scaled(0.5).project(z, x)[~mine], x[~mine])
    assert owned.describe() == {**inner.describe(), "class": 1}
    assert for_classes(inner, y) is inner


def test_an_attacker_and_pgd_leave_other_classes_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 5, generator=rng), torch.tensor([0, 1, 0, 1, 1, 0])
    model = torch.nn.Linear(5, 2)
    attacker = Attacker(of_model(cross_entropy), OfClass(Linf(0.1), 1), partial(pgd, steps=3), rng)
    z = attacker.respond(model, (x, y))
    assert torch.equal(z[y == 0], x[y == 0])
    assert (z[y == 1] != x[y == 1]).any(1).all()


def test_own_examples_are_attacked_alone_and_the_rest_is_natures() -> None:
    x, y = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 0])
    seen: list[torch.Tensor] = []

    class Marks:
        def respond(self, model: object, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            seen.append(batch[1])
            return torch.full_like(batch[0], 9.0)

    z = OwnExamples(Marks(), 1).respond(torch.nn.Linear(5, 2), (x, y))
    assert torch.equal(z[y == 0], x[y == 0])
    assert (z[y == 1] == 9.0).all()
    assert [part.tolist() for part in seen] == [[1, 1, 1]]
    assert OwnExamples(Marks(), 7).respond(torch.nn.Linear(5, 2), (x, y)) is x
