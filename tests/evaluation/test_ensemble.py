"""Suites: only who stands goes on, an interruption costs nothing, several threats give their union, a fast view lies
about nothing."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.core.payoff import cross_entropy, margin
from sparring.core.threat import L1, L2, Linf
from sparring.engine.ledger import Ledger
from sparring.evaluation import fast
from sparring.evaluation.ensemble import run
from sparring.evaluation.evaluate import Evaluation, evaluate
from sparring.evaluation.exploit import exploit
from sparring.evaluation.subject import subject
from sparring.evaluation.suite import (
    Suite,
    apgd_challenge,
    fgsm_challenge,
    pgd_challenge,
    plus,
    quick,
    rand,
    square_challenge,
    standard,
    targeted_challenge,
)

Case = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="module")
def trained() -> Case:
    """A convolutional network trained a little, on a task with five classes."""
    rng = torch.Generator().manual_seed(0)
    centres = 0.3 + 0.4 * torch.rand(5, 1, 6, 6, generator=rng)
    y = torch.arange(120) % 5
    x = (centres[y] + 0.1 * torch.randn(120, 1, 6, 6, generator=rng)).clamp(0, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval(), x, y


def short(threat: Any, classes: int) -> Suite:
    """The attacks of the standard suite with small budgets."""
    challenges = (
        apgd_challenge("apgd-ce", threat, cross_entropy, steps=8),
        targeted_challenge("apgd-t", threat, classes, steps=8, count=2),
        square_challenge("square", queries=30),
    )
    return Suite("short", challenges, grid=30)


def quiet(stage: str) -> Any:
    return lambda share: None


def test_only_standing_examples_go_on_and_each_attack_reports_all_up_to_it(trained: Case) -> None:
    model, x, y = trained
    made = subject(model, (x, y))
    threat = Linf(0.08)
    outcome = run(made, threat, short(threat, 5), seed=0, watch=quiet)
    standing = made.clean_right
    for name in ("apgd-ce", "apgd-t", "square"):
        found, row = outcome.exploits[name], outcome.results[name]
        assert torch.equal(found.attempted, standing)
        assert (found.forwards[~standing] == 0).all()
        standing = standing & found.right
        assert row["accuracy"] == standing.double().mean().item()
        assert row["attempted"] == int(found.attempted.sum())
        assert row["broke"] == int((found.attempted & ~found.right).sum())
        assert row["forwards"] == int(found.forwards.sum())
    assert torch.equal(outcome.right, standing)
    assert 0 < outcome.results["worst"]["accuracy"] < outcome.results["clean"]["accuracy"]


def test_the_worst_input_is_the_one_that_won(trained: Case) -> None:
    model, x, y = trained
    made = subject(model, (x, y))
    outcome = run(made, Linf(0.08), short(Linf(0.08), 5), seed=0, watch=quiet)
    with torch.no_grad():
        assert torch.equal(model(outcome.z).argmax(1) == y, outcome.right)
    assert Linf(0.08).contains(outcome.z, x).all()


def test_costs_are_what_the_model_was_asked(trained: Case) -> None:
    """Counted by the model itself: every row of every forward pass of the attack."""
    inner, x, y = trained
    asked = {"rows": 0, "count": False}

    class Asked(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            asked["rows"] += len(z) * asked["count"]
            return inner(z)

    made = subject(Asked(), (x, y), batch_size=500)
    challenge = pgd_challenge("pgd", Linf(0.05), margin, steps=7)
    attack = challenge.attack

    def counting(*arguments: Any, **keywords: Any) -> Tensor:
        asked["count"] = True
        z = attack(*arguments, **keywords)
        asked["count"] = False
        return z

    found = exploit(made, Linf(0.05), type(challenge)(**{**vars(challenge), "attack": counting}), seed=0)
    assert int(found.forwards.sum()) == asked["rows"] > 0
    assert int(found.backwards.sum()) < int(found.forwards.sum())  # the last iterate is valued, not differentiated


@dataclass
class Broken:
    """A ledger whose owner is killed after a number of writes."""

    inner: Ledger
    after: int
    keys: list[str] = field(default_factory=list)

    def read(self, key: str) -> dict[str, Tensor] | None:
        return self.inner.read(key)

    def write(self, key: str, chunk: dict[str, Tensor]) -> None:
        if len(self.keys) == self.after:
            raise KeyboardInterrupt
        self.keys.append(key)
        self.inner.write(key, chunk)


def timeless(e: Evaluation) -> dict[str, Any]:
    results = {name: {**row, "seconds": 0} for name, row in e.results.items()}
    return {**e.as_dict(), "results": results, "seconds": 0, "others": [timeless(other) for other in e.others]}


@pytest.mark.parametrize("after", [0, 2, 5, 14])
def test_an_interrupted_evaluation_goes_on_and_ends_the_same(trained: Case, tmp_path: Any, after: int) -> None:
    model, x, y = trained
    arguments: dict[str, Any] = {"threat": Linf(0.08), "suite": short, "batch_size": 50}
    whole = evaluate(model, (x, y), **arguments)
    ledger = Ledger(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, (x, y), ledger=Broken(ledger, after), **arguments)
    again = Broken(ledger, 10_000)
    resumed = evaluate(model, (x, y), ledger=again, **arguments)
    assert timeless(resumed) == timeless(whole)
    assert all(torch.equal(resumed.examples[name], value) for name, value in whole.examples.items())
    third = Broken(ledger, 10_000)
    evaluate(model, (x, y), ledger=third, **arguments)
    assert again.keys
    assert third.keys == []  # everything was there


def test_a_ledger_of_another_evaluation_is_not_believed(trained: Case, tmp_path: Any) -> None:
    model, x, y = trained
    ledger = Ledger(tmp_path / "parts")
    evaluate(model, (x, y), threat=Linf(0.08), suite=short, ledger=ledger)
    fresh = Broken(ledger, 10_000)
    other = nn.Sequential(*model.children())
    with torch.no_grad():
        other[0].bias += 1e-3
    changed = evaluate(other, (x, y), threat=Linf(0.08), suite=short, ledger=fresh)
    assert len(fresh.keys) > 10
    with torch.no_grad():
        other[0].bias -= 1e-3
    assert changed.results["clean"]["n"] == 120


def test_a_damaged_part_is_done_again(tmp_path: Any) -> None:
    ledger = Ledger(tmp_path / "parts")
    assert ledger.read("a") is None
    ledger.write("a", {"z": torch.arange(3)})
    kept = ledger.read("a")
    assert kept is not None
    assert torch.equal(kept["z"], torch.arange(3))
    file = next((tmp_path / "parts").iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    assert ledger.read("a") is None
    ledger.clear()
    assert not (tmp_path / "parts").exists()


def test_several_threats_give_the_accuracy_under_their_union(trained: Case) -> None:
    model, x, y = trained
    result = evaluate(model, (x, y), threat=(Linf(0.05), L2(0.3), L1(1.0)), suite=short)
    each = [result, *result.others]
    assert [e.threat["norm"] for e in each] == ["linf", "l2", "l1"]
    rights = torch.stack([e.outcomes["worst"] for e in each])
    assert result.union is not None
    assert result.union["accuracy"] == rights.all(0).double().mean().item()
    assert result.union["accuracy"] <= min(e.results["worst"]["accuracy"] for e in each)
    assert torch.equal(result.outcomes["union"], rights.all(0))
    for e in each:
        alone = evaluate(model, (x, y), threat=(Linf(0.05), L2(0.3), L1(1.0))[each.index(e)], suite=short)
        assert alone.results["worst"]["accuracy"] == e.results["worst"]["accuracy"]
    assert "union" in str(result)


class Lying(nn.Module):
    """A view that is right about which way to go, but believes that every example falls too early or too late."""

    def __init__(self, model: nn.Module, bias: float) -> None:
        super().__init__()
        self.model, self.bias = model, bias

    def forward(self, z: Tensor) -> Tensor:
        logits = self.model(z)
        return logits - self.bias * nn.functional.one_hot(logits.argmax(1), logits.shape[1])


@pytest.mark.parametrize("bias", [0.3, -0.3])
def test_a_view_that_errs_near_the_boundary_is_put_right(trained: Case, bias: float) -> None:
    """With the bias the view sees examples fall that stand, or stand that fall; what it gets wrong is attacked again on
    the model itself, so that the answer is no weaker than the model's own."""
    model, x, y = trained
    made = subject(model, (x, y))
    challenge = apgd_challenge("apgd-ce", Linf(0.08), cross_entropy, steps=15)
    exact = exploit(made, Linf(0.08), challenge, seed=0)
    viewed = exploit(made, Linf(0.08), challenge, seed=0, view=Lying(model, bias))
    assert int((viewed.right & ~exact.right).sum()) <= 1
    with torch.no_grad():
        assert torch.equal(model(viewed.z).argmax(1) == y, viewed.right)


def test_the_bfloat16_view_answers_alike_and_leaves_the_model_alone(trained: Case) -> None:
    model, x, y = trained
    made = subject(model, (x, y))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for view in (fast.brain16(made), fast.fastest(made) or model):
        assert view is not None
        with torch.no_grad():
            answer = view(x)
        assert answer.dtype == torch.float32
        assert (answer - made.logits).abs().max() < 0.05 * made.logits.abs().max()
    assert model[0].weight.is_contiguous()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_last_layer_of_the_view_is_in_float32(trained: Case) -> None:
    """A step of 1e-3 on a hidden unit moves the logits by 1e-3 times a weight; in bfloat16 it would move by none."""
    model, x, y = trained
    view = fast.brain16(subject(model, (x, y)))
    assert view is not None
    with torch.no_grad():
        logits = view(x)
    assert (logits != logits.bfloat16().float()).double().mean() > 0.9


def test_a_model_that_cannot_be_copied_is_used_as_it_is(trained: Case) -> None:
    class Shy(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def __deepcopy__(self, memo: Any) -> "Shy":
            raise TypeError("not me")

        def forward(self, z: Tensor) -> Tensor:
            return self.model(z)

    model, x, y = trained
    assert fast.brain16(subject(Shy(model), (x, y))) is None
    assert fast.fastest(subject(Shy(model), (x, y))) is None


def test_the_standard_suite_is_autoattacks() -> None:
    """Order, budgets, restarts and targets of the published versions."""
    for threat, restarts, targets in ((Linf(0.1), 1, 9), (L2(0.5), 1, 9), (L1(5.0), 5, 5)):
        ce, t, fab, square = (c.parameters for c in standard(threat, 10).challenges)
        assert (ce["attack"], ce["loss"], ce["steps"], ce["restarts"]) == ("apgd", "cross-entropy", 100, restarts)
        assert (t["attack"], t["loss"], t["steps"], t["targets"]) == ("targeted apgd", "targeted dlr", 100, targets)
        assert (fab["attack"], fab["steps"], fab["targets"], fab["restarts"]) == ("targeted fab", 100, 9, 1)
        assert (square["attack"], square["queries"]) == ("square", 5000)
    names = [c.name for c in plus(Linf(0.1), 10).challenges]
    assert names == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert [c.parameters["draws"] for c in rand(Linf(0.1), 10).challenges] == [20, 20]
    with pytest.raises(ValueError, match="'standard' suite is defined for Linf, L2 and L1 balls"):
        standard(short, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_get_the_losses_that_are_defined_for_them(classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, classes)
    with torch.no_grad():
        model.bias.copy_(-model.weight.sum(1) / 2)  # all classes meet at mid-grey
    x = torch.rand(30, 1, 2, 4)
    y = model(x.flatten(1)).argmax(1)
    flat = nn.Sequential(nn.Flatten(), model)
    for suite in (quick, standard, plus):
        made = suite(Linf(0.1), classes)
        targets = [c.parameters["targets"] for c in made.challenges if "targets" in c.parameters]
        assert all(count <= classes - 1 for count in targets)
    result = evaluate(flat, (x, y), threat=Linf(0.9), suite=quick)
    assert result.results["worst"]["accuracy"] < 1


def test_progress_never_goes_back_and_ends_at_the_end(trained: Case) -> None:
    model, x, y = trained
    seen: list[tuple[str, float, float]] = []
    evaluate(
        model, (x, y), threat=(Linf(0.05), L2(0.3)), suite=short, advance=lambda *told: seen.append(told), batch_size=50
    )
    done = [told[1] for told in seen]
    assert done == sorted(done)
    assert all(told[1] <= told[2] for told in seen)
    assert seen[-1][2] - seen[-1][1] < 3
    bounds = [float(told[0].split("at most ")[1].split("%")[0]) for told in seen if "at most" in told[0]]
    assert bounds[: len(bounds) // 2] != []
    assert bounds[0] == max(bounds)


def test_fgsm_is_a_challenge_for_any_threat(trained: Case) -> None:
    model, x, y = trained
    found = exploit(subject(model, (x, y)), L2(0.5), fgsm_challenge("fgsm", L2(0.5)), seed=0)
    assert found.refused == 0
    assert int(found.backwards.sum()) == int(found.attempted.sum())
