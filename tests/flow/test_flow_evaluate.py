"""What `sparring evaluate` measures of detectors, on made flows: attacks, rates, types, and checks that can fail."""

import csv
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.flow.made_flows import SCHEMA, rows
from torch import Tensor, nn

from sparring.commands import flow_attacks, flow_bench, flow_checks, flow_measured
from sparring.commands.flow_attacks import drawn_rows, infeasible
from sparring.commands.flow_bench import Bench, Outcome, worst
from sparring.commands.flow_evaluate import Flags, evaluate
from sparring.commands.flow_measured import measured
from sparring.commands.flow_rates import Severities, rates, share
from sparring.domains.flow.alarm import Alarm
from sparring.domains.flow.artefact import Layer
from sparring.domains.flow.data import FlowData, load
from sparring.evaluation.detection import threshold_at
from sparring.evaluation.detection_table import table
from sparring.evaluation.interval import wilson


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FlowData:
    """Floods are rows with many errors, which their sender may lower; worms are the same and never trained on."""
    made = rows(0, 400)
    labels = np.where(made.columns["err"] > 0.5, "flood", "normal")
    file = tmp_path_factory.mktemp("flows") / "flows.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*SCHEMA.names, "label"])
        writer.writerows(zip(*made.columns.values(), labels, strict=True))
    found = load(str(file), schema=SCHEMA)
    worms = found.test.names.copy()
    worms[np.flatnonzero(worms == "flood")[::3]] = "worm"
    return replace(found, test=replace(found.test, names=worms, kinds=worms))


@pytest.fixture(scope="module")
def model(data: FlowData) -> nn.Module:
    """Logistic regression, fitted as far as fifty steps go."""
    torch.manual_seed(0)
    made = nn.Linear(data.preprocessing.width, 2)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(made(data.train.x), data.train.y).backward()
        optimizer.step()
    return made.eval().requires_grad_(False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators, substitutes and attacks of a few steps."""
    monkeypatch.setattr(flow_attacks, "STEPS", 15)
    monkeypatch.setattr(flow_bench, "GENERATOR_STEPS", 3)
    monkeypatch.setattr(flow_bench, "IDSGAN_STEPS", 3)
    monkeypatch.setattr(flow_bench, "fit_substitute", lambda *a, **k: real_substitute(*a, **{**k, "steps": 60}))


real_substitute = flow_bench.fit_substitute


def bench(data: FlowData, model: nn.Module, gradient: Any = "whole", **more: Any) -> Bench:
    alarm = Alarm(model, 0.5, **more)
    return Bench(data, drawn_rows(data, 0, 0), alarm, gradient, 20, 0, lambda *_: None)


def severities(alarm: Alarm, data: FlowData, chosen: Tensor) -> Severities:
    said = alarm.severity(data.test.x)
    malicious = data.test.y == 1
    place = torch.cumsum(malicious.long(), 0) - 1
    return Severities(said[~malicious], said[~malicious], said[malicious], said[chosen], place[chosen])


@pytest.mark.usefixtures("quick")
def test_the_evaluation_of_a_linear_detector(data: FlowData, model: nn.Module) -> None:
    alarm, chosen = Alarm(model, 0.5), drawn_rows(data, 0, 0)
    stages: list[str] = []

    def told(stage: str, part: float) -> None:
        stages.extend([stage] if part == 0 else [])

    radii = (0.1, 0.3)
    found, outcomes = measured(data, chosen, alarm, severities(alarm, data, chosen), radii, 20, 0, told)
    assert len(stages) == flow_measured.STAGES + 3 * len(radii)
    assert found["detector"] == {"gradient": "whole"}
    attacks = [name for name in found["results"] if name not in ("clean", "worst")]
    assert attacks == ["capgd", "transfer", "search", "generated", "idsgan"]
    for name in attacks:
        result = found["results"][name]
        assert result["infeasible"] == result["refused"] == 0
        assert found["results"]["worst"]["accuracy"] <= result["accuracy"] <= found["results"]["clean"]["accuracy"]
        assert result["accuracy"] == outcomes[name].double().mean()
    assert torch.equal(outcomes["worst"], torch.stack([outcomes[name] for name in attacks]).all(0))
    assert [row["eps"] for row in found["eps_grid"]] == [0.1, 0.3]
    assert found["eps_grid"][1]["accuracy"] < found["eps_grid"][0]["accuracy"]
    for loose, feasible in zip(found["unconstrained"], found["eps_grid"], strict=True):
        assert loose["accuracy"] <= feasible["accuracy"]
    assert {check["name"]: check["verdict"] for check in found["checks"]} == dict.fromkeys(
        (
            "verified",
            "feasible",
            "deterministic",
            "eps-monotone",
            "steps-monotone",
            "white-box",
            "black-box",
            "large-eps",
        ),
        "pass",
    )
    assert found["threat"]["fields"]["down"] == ["age"]
    assert found["names"]["worm"]["seen"] is False
    assert found["auroc"]["attacked"]["value"] < found["auroc"]["clean"]["value"]
    said = table({**found, **_about()})
    assert "worm (unseen)" in said
    assert "pass feasible            0 of" in said
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def _about() -> dict[str, Any]:
    detector = {"spec": "mlp", "layers": ["autoencoder"], "threshold": 0.5, "false_positives": 0.01, "held_out": 9}
    return {"detector": detector}


class Jumps(nn.Module):
    """A detector whose answer jumps, with no slope or with one that says little."""

    def __init__(self, model: nn.Module, slope: float) -> None:
        super().__init__()
        self.model, self.slope = model, slope

    def forward(self, u: Tensor) -> Tensor:
        logits: Tensor = self.model(u)
        return (2 * logits).round() / 2 + self.slope * logits


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("slope", "gradient"), [(0.0, "none"), (0.1, "part")])
def test_without_a_whole_gradient_it_is_copied_and_searched(
    data: FlowData, model: nn.Module, slope: float, gradient: str
) -> None:
    alarm, chosen = Alarm(Jumps(model, slope), 0.5), drawn_rows(data, 40, 0)
    found, _ = measured(data, chosen, alarm, severities(alarm, data, chosen), (0.3,), 60, 0, lambda *_: None)
    assert found["detector"]["gradient"] == gradient
    assert found["suite"]["bound"]
    assert ("capgd" in found["results"]) == (gradient == "part")
    assert found["steps_grid"] == []
    assert "queries-monotone" in [check["name"] for check in found["checks"]]
    assert found["results"]["worst"]["accuracy"] < found["results"]["clean"]["accuracy"]


@pytest.mark.usefixtures("quick")
def test_a_layer_behind_has_to_be_evaded_too(data: FlowData, model: nn.Module) -> None:
    class Far(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return torch.full_like(u, 0.5)

    class Alike(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return u + 1e-3

    plain = bench(data, model)
    for behind, same in ((Alike(), True), (Far(), False)):
        layered = bench(data, model, layers=(Layer("autoencoder", behind, 0.05),))
        assert torch.equal(layered.main(0.3).stands, plain.main(0.3).stands) == same
    assert layered.main(0.3).stands.all()  # every flow is far from what the layer reconstructs


def test_what_could_not_be_sent_counts_as_it_came(data: FlowData, model: nn.Module) -> None:
    tried = bench(data, model)
    within = tried.feasible(0.1)
    count = len(tried.rows)

    def attack(x: Tensor, _: object, __: int) -> Tensor:
        z = x.clone()
        z[0] = torch.nan
        z[1] = z[1] + 0.5
        return z

    found = tried._outcome("made", within, attack, {})
    assert (found.refused, found.infeasible, found.moved) == (2, 0, 0)
    assert torch.equal(found.severity, tried.clean)
    loose = replace(within)
    object.__setattr__(loose, "contains", lambda z, x: torch.ones(len(z), dtype=torch.bool))
    found = tried._outcome("made", loose, lambda x, *_: (x + 0.03).clamp(0, 1), {})
    assert found.refused == 0
    assert found.infeasible > 0.9 * count  # a check that shares no code with the projection
    wrong = infeasible(data, tried.rows, tried.x, (tried.x + 0.03).clamp(0, 1))
    assert torch.equal(found.severity[wrong], tried.clean[wrong])


def outcome(stands: list[int], **more: Any) -> Outcome:
    given: dict[str, Any] = {"refused": 0, "infeasible": 0, "moved": 5, "parameters": {}, "seconds": 1.0, **more}
    bits = torch.tensor(stands, dtype=torch.bool)
    return Outcome(bits.double() - 0.5, bits, **given)


def test_checks_fail_when_they_should(data: FlowData, model: nn.Module) -> None:
    strong, weak = outcome([0] * 60 + [1] * 40), outcome([1] * 100)
    verdicts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (flow_checks.verified([strong], 100), flow_checks.verified([outcome([1], refused=1)], 100)),
        (flow_checks.feasible([strong]), flow_checks.feasible([outcome([1], infeasible=1)])),
        (flow_checks.radius([weak, strong]), flow_checks.radius([strong, weak])),
        (flow_checks.white_box(strong, weak), flow_checks.white_box(weak, strong)),
        (flow_checks.black_box(strong, weak), flow_checks.black_box(weak, strong)),
    ]
    for good, bad in verdicts:
        assert (good["verdict"], bad["verdict"]) == ("pass", "fail"), good["name"]

    class Noise(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return torch.randn(len(u), 2)

    torch.manual_seed(0)
    assert flow_checks.deterministic(bench(data, model))["verdict"] == "pass"
    assert flow_checks.deterministic(bench(data, Noise()))["verdict"] == "fail"
    assert flow_checks.huge_radius(bench(data, model))["verdict"] == "pass"

    class Masked(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            logits: Tensor = model(u.detach()) - 1e-3 * (model(u) - model(u).detach())
            return logits

    masked = bench(data, Masked())
    assert flow_checks.huge_radius(masked)["verdict"] == "fail"
    _, climbed = next(masked.attacks(0.3))
    assert flow_checks.black_box(climbed, masked.searched(0.3, 100))["verdict"] == "fail"


def test_worst_is_flow_by_flow() -> None:
    both = worst((outcome([1, 0, 1, 1]), outcome([1, 1, 0, 1])), {"attack": "both"})
    assert both.stands.tolist() == [True, False, False, True]
    assert both.severity.tolist() == [0.5, -0.5, -0.5, 0.5]
    assert (both.moved, both.seconds) == (10, 2.0)


def test_rates_are_counted(data: FlowData) -> None:
    malicious = int((data.test.y == 1).sum())
    unseen = data.unseen[data.test.table.malicious]
    held_out = torch.linspace(-1, 0.2, 200, dtype=torch.float64)
    benign = torch.linspace(-1, 0.1, 100, dtype=torch.float64)
    every = torch.where(torch.from_numpy(unseen), -0.5, 0.5).double()
    chosen = torch.arange(0, malicious, 2)
    found = rates(Severities(held_out, benign, every, every[chosen] - 1.0, chosen), data, 0)
    assert found["detection"]["rate"] == float((~unseen).mean())
    assert found["false_alarms"] == share(benign > 0)
    assert (found["false_alarms"]["low"], found["false_alarms"]["high"]) == wilson(int((benign > 0).sum()), 100)
    assert {name: fact["all"]["rate"] for name, fact in found["types"].items()} == {"seen": 1.0, "unseen": 0.0}
    assert {name: fact["all"]["rate"] for name, fact in found["names"].items()} == {"flood": 1.0, "worm": 0.0}
    assert all(fact["attacked"]["rate"] == 0 for fact in found["names"].values())
    assert sum(fact["attacked"]["n"] for fact in found["names"].values()) == len(chosen)
    for allowed, row in zip((0.001, 0.01, 0.05), found["at_rates"].values(), strict=True):
        assert row["held_out"]["rate"] <= allowed
        threshold = threshold_at(held_out, allowed)
        assert row["false_alarms"]["rate"] == float((benign > threshold).double().mean())
        assert row["all"]["rate"] == float((every > threshold).double().mean())
    assert found["auroc"]["attacked"]["value"] < found["auroc"]["all"]["value"]
    none = rates(Severities(held_out, benign, every, every[:1], torch.tensor([0])), data, 0)
    assert sorted(none["names"][name]["attacked"] is None for name in ("flood", "worm")) == [False, True]


def test_a_longer_run_of_pgd_contains_a_shorter(data: FlowData, model: nn.Module) -> None:
    tried = bench(data, model)
    few, many = (tried.stepped(0.3, steps).severity for steps in (4, 12))
    assert bool((many <= few + 1e-9).all())
    assert bool((many < few - 1e-9).any())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="evaluate needs one run folder"):
        evaluate(Flags(), "")
    for given in ({"examples": -1}, {"queries": 1}, {"eps": (0.0,)}):
        (name,) = given
        with pytest.raises(ValueError, match=f"'{name}' parameter must be"):
            Flags(**given)  # type: ignore[arg-type]
