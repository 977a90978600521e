"""The ddos system: its objective, whose rows its adversary moves, and that what it moves them to could be sent."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.flow.flows import NSL_KDD, written
from tests.flow.made_flows import rows
from torch import Tensor, nn

from sparring.cli import main
from sparring.commands import flow_train
from sparring.core.compose import OfClass
from sparring.core.game import play
from sparring.core.gradient import frozen
from sparring.core.players import Nature
from sparring.core.tools import Tools
from sparring.domains.flow.check import violations
from sparring.domains.flow.feasible import Feasible
from sparring.domains.flow.generator import fit
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.table import Table
from sparring.systems import ddos, standard

EPS = 0.1


@pytest.fixture(scope="module")
def table() -> Table:
    """Rows whose kind can be told from many small `err`s: malicious where it is high."""
    made = rows(0, 256)
    labels = np.where(made.columns["err"] > 0.4, "flood", "normal").astype(object)
    return Table(made.schema, made.columns, labels)


@pytest.fixture(scope="module")
def prepared(table: Table) -> tuple[Preprocessing, Tensor, Tensor]:
    preprocessing = Preprocessing.fit(table)
    return preprocessing, preprocessing.encode(table), torch.from_numpy(table.malicious.astype(np.int64))


def network(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 2))


def made(config: ddos.Config, preprocessing: Preprocessing, model: nn.Module) -> ddos.Game:
    threat = OfClass(Feasible(preprocessing, config.eps), 1)
    tools = Tools(rng=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return ddos.game(config, model=model, optimizer=optimizer, threat=threat, tools=tools)


def test_only_malicious_rows_move_and_only_to_what_could_be_sent(
    table: Table, prepared: tuple[Preprocessing, Tensor, Tensor]
) -> None:
    preprocessing, x, y = prepared
    model = network(preprocessing.width)
    before = copy.deepcopy(model.state_dict())
    game = made(ddos.Config(eps=EPS), preprocessing, model)
    z = game.adversary.respond(model, (x, y))
    moved = (z != x).any(1)
    assert not moved[y == 0].any()
    assert moved[y == 1].double().mean() > 0.5
    changed = preprocessing.to_table(z, table)
    assert violations(table, changed).feasible.all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with frozen(model), torch.no_grad():
        assert (game.payoff(model, z, (x, y)) >= game.payoff(model, x, (x, y)) - 1e-6).all()


def test_the_objective_is_the_formula(prepared: tuple[Preprocessing, Tensor, Tensor]) -> None:
    preprocessing, x, y = prepared
    model, z = network(preprocessing.width), (x + 0.05).clamp(0, 1)
    clean, attacked = (F.cross_entropy(model(each), y, reduction="none") for each in (x, z))
    for a in (0.0, 0.3, 1.0):
        wanted = torch.where(y == 1, (1 - a) * clean + a * attacked, clean)
        torch.testing.assert_close(ddos.objective(a)(model, z, (x, y)), wanted)


@pytest.mark.parametrize("changes", [{"adversary": "none"}, {"weight": 0.0}])
def test_without_an_adversary_it_is_standard_training(
    changes: dict[str, object], prepared: tuple[Preprocessing, Tensor, Tensor]
) -> None:
    preprocessing, x, y = prepared
    weights = []
    for system, config in ((ddos, ddos.Config(**changes)), (standard, standard.Config())):  # type: ignore[arg-type]
        model = network(preprocessing.width)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        game = system.game(config, model=model, optimizer=optimizer)
        assert isinstance(game.adversary, Nature)
        list(play(game, [(x, y)] * 5))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_training_against_it_lowers_what_it_wins(prepared: tuple[Preprocessing, Tensor, Tensor]) -> None:
    preprocessing, x, y = prepared
    worst = {}
    for adversary in ("none", "capgd"):
        model = network(preprocessing.width)
        list(play(made(ddos.Config(adversary=adversary, eps=0.3), preprocessing, model), [(x, y)] * 150))
        attack = made(ddos.Config(eps=0.3, steps=20), preprocessing, model).adversary
        z = attack.respond(model, (x, y))
        with frozen(model), torch.no_grad():
            worst[adversary] = F.cross_entropy(model(z), y, reduction="none")[y == 1].mean().item()
    assert worst["capgd"] < 0.9 * worst["none"]


def test_gadot_mimics_and_needs_its_generator(table: Table, prepared: tuple[Preprocessing, Tensor, Tensor]) -> None:
    preprocessing, x, y = prepared
    model = network(preprocessing.width)
    generator = fit(x[y == 0], torch.Generator().manual_seed(0), steps=3, batch=16)
    config = ddos.Config(adversary="gadot", eps=EPS, steps=4)
    threat = OfClass(Feasible(preprocessing, EPS), 1)
    hands = Tools(rng=torch.Generator().manual_seed(0))
    game = ddos.game(config, model=model, threat=threat, tools=hands, generator=generator)
    z = game.adversary.respond(model, (x, y))
    assert torch.equal(z[y == 0], x[y == 0])
    assert (z != x).any(1)[y == 1].any()
    assert violations(table, preprocessing.to_table(z, table)).feasible.all()
    with pytest.raises(ValueError, match="'generator' parameter"):
        ddos.game(config, model=model, threat=threat)


def test_the_control_leaves_the_feasible_set(table: Table, prepared: tuple[Preprocessing, Tensor, Tensor]) -> None:
    preprocessing, x, y = prepared
    model = network(preprocessing.width)
    z = made(ddos.Config(adversary="pgd", eps=EPS), preprocessing, model).adversary.respond(model, (x, y))
    assert not Feasible(preprocessing, EPS).contains(z, x)[y == 1].any()
    assert torch.equal(z[y == 0], x[y == 0])


@pytest.mark.parametrize(
    "changes", [{"adversary": "gradient"}, {"weight": 1.5}, {"eps": 0.0}, {"steps": 0}, {"eps_warmup": -1.0}]
)
def test_config_refuses_what_is_outside(changes: dict[str, object]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        ddos.Config(**changes)  # type: ignore[arg-type]
    assert json.loads(json.dumps(asdict(ddos.Config())))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training and a test file in the published form, with an attack in the test that training has not."""
    root = tmp_path_factory.mktemp("flows")
    folder = root / "nsl_kdd"
    folder.mkdir()
    normal, neptune, smurf = NSL_KDD
    rng = np.random.default_rng(0)

    def varied(line: str, count: int) -> list[str]:
        cells = line.split(",")
        made = []
        for _ in range(count):
            cells[4] = str(int(cells[4]) and int(rng.integers(100, 5000)))
            made.append(",".join(cells))
        return made

    train = varied(normal, 60) + varied(smurf, 40)
    written(folder / "KDDTrain+_20Percent.txt", *train)
    written(folder / "KDDTest+.txt", *varied(normal, 40), *varied(smurf, 20), *varied(neptune, 10))
    return root


def test_train_writes_an_artefact_and_reproduce_gives_a_verdict(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--data-root", str(files), "--epochs", "2"]
    monkeypatch.setattr(flow_train, "fit", lambda benign, rng, **_: fit(benign, rng, steps=3))
    assert main(["train", "ddos", *common, "--steps", "2", "--run", "runs/a", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert Path("runs/a/detector.safetensors").exists()
    found = json.loads(Path("runs/a/record.json").read_text())
    assert found["data"]["schema"] == "nsl-kdd"
    assert found["status"] == "done"
    assert found["source"] == "nsl-kdd"
    assert found["data"]["kinds"] == ["dos"]
    assert main(["report", "runs/a"]) == 0
    assert Path(capsys.readouterr().out.strip()).exists()
    words = ["reproduce", "ddos", *common, "--seeds", "2", "--n", "15", "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["verdict", "effect", "arms", "seeds", "command"]
    assert [arm["name"] for arm in answer["arms"]] == ["standard", "capgd", "gadot", "unconstrained", "trees"]
    assert all(arm["infeasible"] == 0 for arm in answer["arms"])
    assert answer["effect"]["n"] == 15
    for arm in answer["arms"]:
        for name, figure in arm["figures"].items():
            assert name == "threshold" or 0 <= figure["mean"] <= 1
        caught = [arm["figures"][key]["mean"] for key in ("clean", "feasible 0.1")]
        assert caught[0] >= caught[1]
    assert main(words) == 0  # found again, not trained again
    assert json.loads(capsys.readouterr().out) == answer
    assert main([*words, "--eps", "0.15"]) == 0  # a radius that is none of the table's
    other = json.loads(capsys.readouterr().out)
    assert all({"feasible 0.1", "feasible 0.15"} <= set(arm["figures"]) for arm in other["arms"])
    assert main(words[:-1]) == 0
    assert "infeasible adversarial rows (must be 0): standard 0" in capsys.readouterr().out


def test_bad_arguments_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["reproduce", "ddos", "--seeds", "0"]) == 2
    assert "'seeds' parameter must be an int >= 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["train", "ddos", "--false-positives", "2", "--run", str(tmp_path / "r")])
    said = " ".join(capsys.readouterr().err.split())
    assert "The 'false_positives' parameter must be a number in the range (0, 1). Got 2.0 instead." in said
