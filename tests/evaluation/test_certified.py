"""Certified accuracy: a closed form, agreement with attacks, and the refusal to certify what is contradicted."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.cli import main
from sparring.core.payoff import margin
from sparring.core.traced import UnsupportedError
from sparring.domains.image.models import build
from sparring.evaluation.certified import ContradictionError, certified
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.interval import wilson
from sparring.evaluation.suite import Suite, foundation, pgd_challenge


def linear(d: int = 12) -> nn.Module:
    """Its classes are about as frequent as each other on inputs around 1/2."""
    torch.manual_seed(0)
    layer = nn.Linear(d, 3)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(layer)


def deeper() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(linear()[0], nn.ReLU(), nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 3))


def data(model: nn.Module, n: int = 300, d: int = 12) -> tuple[Tensor, Tensor]:
    """Inputs that no box of the radii used here cuts; a tenth of the labels are wrong."""
    rng = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, d, generator=rng)
    y = model(x).argmax(1)
    return x, torch.where(torch.arange(n) % 10 == 0, (y + 1) % 3, y)


@pytest.mark.parametrize("bound", ["auto", "ibp", "crown-ibp"])
def test_a_linear_model_is_certified_up_to_its_closed_form(bound: str) -> None:
    """An example stands exactly when every margin exceeds eps ||w_y - w_k||_1."""
    model = linear()
    x, y = data(model)
    w, logits, eps = model[0].weight.double(), model.double()(x.double()), 0.02
    model.float()
    gap = logits.gather(1, y[:, None]) - logits - eps * (w[y][:, None] - w[None]).abs().sum(2)
    stands = gap.scatter(1, y[:, None], torch.inf).amin(1) > 0
    assert 0.2 < stands.float().mean() < 0.8
    found = certified(model, (x, y), eps, bound=bound)
    assert torch.equal(found["right"], stands)
    low, high = wilson(int(stands.sum()), 300)
    expected = {"accuracy": int(stands.sum()) / 300, "low": low, "high": high, "n": 300}
    assert {name: found[name] for name in expected} == expected


def test_batches_and_the_size_of_a_batch_do_not_matter_and_the_model_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3)).train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = data(linear())
    whole = certified(model, (x, y), 0.01)["right"]
    assert torch.equal(certified(model, [(x[:100], y[:100]), (x[100:], y[100:])], 0.01, batch_size=7)["right"], whole)
    assert 0 < whole.sum() < 300
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(
        value.dtype == before[name].dtype and torch.equal(value, before[name])
        for name, value in model.state_dict().items()
    )


def test_a_larger_ball_certifies_fewer_of_the_same_examples_and_auto_is_the_better_of_both() -> None:
    model = deeper()
    x, _ = data(linear())
    y = model(x).argmax(1)
    before = torch.ones(300, dtype=torch.bool)
    gained = 0
    for eps in (1e-4, 0.005, 0.01, 0.03):
        ibp, crown, both = (certified(model, (x, y), eps, bound=b)["right"] for b in ("ibp", "crown-ibp", "auto"))
        assert torch.equal(both, ibp | crown)
        assert not (both & ~before).any()
        before, gained = both, gained + int((crown & ~ibp).sum())
    assert before.sum() < 300
    assert gained > 0


def test_a_certificate_that_an_attack_contradicts_is_an_error() -> None:
    model = linear()
    x, y = data(model)
    right = certified(model, (x, y), 0.02)["right"]
    certified(model, (x, y), 0.02, broken=~right)
    broken = ~right
    broken[right.nonzero()[0]] = True
    with pytest.raises(ContradictionError, match=rf"1 certified examples .* example {int(right.nonzero()[0])}:"):
        certified(model, (x, y), 0.02, broken=broken)


def test_what_a_trace_does_not_show_is_never_certified() -> None:
    model = linear()
    x, y = data(model)
    model[0].register_forward_hook(lambda module, inputs, output: -output)
    with pytest.raises(ContradictionError, match="differ from the model's logits"):
        certified(model, (x, y), 0.02)


def test_what_cannot_be_certified_says_so() -> None:
    model = linear()
    x, y = data(model)
    with pytest.raises(ValueError, match=r"'bound' parameter .* Got 'best'"):
        certified(model, (x, y), 0.1, bound="best")
    with pytest.raises(ValueError, match="'eps' parameter"):
        certified(model, (x, y), 0.0)
    with pytest.raises(ValueError, match=r"'broken' parameter must be bool of shape \[300\]"):
        certified(model, (x, y), 0.1, broken=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"float32 or float64 .* Got torch.bfloat16"):
        certified(linear().bfloat16(), (x, y), 0.1)
    with pytest.raises(ValueError, match="Got one logit per example"):
        certified(nn.Sequential(nn.Linear(12, 1)), (x, y.clamp(max=1)), 0.1)
    with pytest.raises(UnsupportedError, match="Tanh"):
        certified(nn.Sequential(nn.Linear(12, 3), nn.Tanh()), (x, y), 0.1)


def test_max_pooling_is_certified_by_intervals_alone() -> None:
    torch.manual_seed(0)
    model = build("small-conv", (1, 8, 8), 10, (0.3,), (0.4,))
    x = torch.rand(10, 1, 8, 8)
    y = model(x).argmax(1)
    assert certified(model, (x, y), 1e-4)["bound"] == "ibp"
    with pytest.raises(UnsupportedError, match="MaxPool2d"):
        certified(model, (x, y), 1e-4, bound="crown-ibp")


def test_an_evaluation_shows_certified_beside_empirical_accuracy() -> None:
    model = linear()
    x, y = data(model, 120)
    suite = Suite("one", (pgd_challenge("pgd-20", sparring.Linf(0.02), margin, steps=20),))
    plain = evaluate(model, (x, y), threat=sparring.Linf(0.02), suite=suite)
    result = evaluate(model, (x, y), threat=sparring.Linf(0.02), suite=suite, certify=True)
    assert "certified" not in plain.results
    assert list(result.results) == ["clean", "pgd-20", "worst", "certified"]
    assert {k: v for k, v in result.results.items() if k != "certified"}.keys() == plain.results.keys()
    assert not (result.outcomes["certified"] & ~result.outcomes["worst"]).any()
    assert result.results["certified"]["accuracy"] == result.outcomes["certified"].sum().item() / 120
    assert 0.2 < result.results["certified"]["accuracy"] < 0.8
    assert "certified" in str(result)
    assert "proved by ibp or crown-ibp" in str(result)
    json.dumps(result.as_dict(), allow_nan=False)


def test_what_has_no_bounds_is_refused_before_any_attack_runs() -> None:
    model = nn.Sequential(nn.Linear(12, 3), nn.Tanh())
    x, y = data(linear(), 20)
    said: list[str] = []
    with pytest.raises(UnsupportedError, match="Tanh"):
        evaluate(
            model,
            (x, y),
            threat=sparring.Linf(0.1),
            suite=foundation,
            certify=True,
            advance=lambda stage, done, total: said.append(stage),
        )
    with pytest.raises(ValueError, match="needs a Linf threat"):
        evaluate(model, (x, y), threat=sparring.L2(0.1), suite=foundation, certify=True)
    assert not said


def test_the_command_line_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    quick = ["--epochs", "1", "--examples", "128", "--validation-steps", "1", "--device", "cpu", "--eps", "0.02"]
    assert main(["train", "interval", "--run", str(run), "--model", "small-strided", *quick]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--examples", "30", "--certify", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["certified"]["n"] == 30
    assert results["certified"]["accuracy"] <= results["worst"]["accuracy"]
    assert main(["report", str(run)]) == 0
    assert any(line.startswith("| Certified") for line in (run / "report.md").read_text().splitlines())
