"""The engine's parts one by one: seeds, the stream, the hold-out, validation, the price of a step, records, trust."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import Net
from torch import Tensor, nn

from sparring import trust
from sparring.core.game import Game
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Descent, Nature
from sparring.core.seeds import derive
from sparring.core.threat import Linf
from sparring.engine import checkpoint, record
from sparring.engine.cost import step_ratio
from sparring.engine.stream import Stream, hold_out
from sparring.engine.training import Training
from sparring.engine.validation import validate


class Numbers:
    """A source whose examples are their own index."""

    def __init__(self, count: int, classes: int = 3) -> None:
        self.y = torch.arange(count) % classes

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        return rows.float()[:, None], self.y[rows]


def stream(count: int = 50, batch_size: int = 8, seed: int = 0) -> Stream:
    return Stream(Numbers(count), torch.arange(count), batch_size, seed, torch.Generator())


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from("abc"), st.integers(0, 99)), unique=True, min_size=2))
def test_seeds_differ_wherever_the_labels_do(labels: list[tuple[int, str, int]]) -> None:
    seeds = [derive(seed, purpose, step) for seed, purpose, step in labels]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.integers(2, 60), st.integers(1, 20))
def test_an_epoch_deals_every_example_once_but_for_a_last_batch_of_one(count: int, batch_size: int) -> None:
    dealt = [batch[0].flatten() for batch in stream(count, batch_size).epoch(0)]
    everything = torch.cat(dealt).sort().values
    left_out = count % batch_size == 1 and count > batch_size
    assert len(everything) == count - left_out
    assert len(everything.unique()) == len(everything)
    assert len(dealt) == stream(count, batch_size).steps


def test_epochs_differ_and_seeds_differ_and_a_batch_is_dealt_again_the_same() -> None:
    one, again, other = stream(), stream(), stream(seed=1)
    assert torch.equal(one.batch(0, 2)[0], again.batch(0, 2)[0])
    assert torch.equal(next(one.epoch(1, start=3))[0], again.batch(1, 3)[0])
    assert not torch.equal(one.batch(0, 0)[0], one.batch(1, 0)[0])
    assert not torch.equal(one.batch(0, 0)[0], other.batch(0, 0)[0])


def test_the_generators_of_a_round_depend_on_its_position_alone() -> None:
    draws = []
    for before in (0, 5):
        dealt = stream()
        for i in range(before):
            dealt.batch(0, i)
            torch.rand(7, generator=dealt.rng)
        dealt.batch(2, 1)
        draws.append((torch.rand(3, generator=dealt.rng), torch.rand(3)))
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[0][1])


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 5))
def test_the_hold_out_parts_every_class(sizes: list[int], share: float, seed: int) -> None:
    y = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    train, validation = hold_out(y, share, seed)
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(len(y)))
    for label, size in enumerate(sizes):
        held = int((y[validation] == label).sum())
        assert 1 <= held <= size - 1
        assert abs(held - share * size) <= 1


def test_a_class_of_one_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match=r"at least 2 training examples\. Class 1 has 1"):
        hold_out(torch.tensor([0, 0, 1]), 0.1, 0)


class Threshold(nn.Module):
    """Class 1 where x > 1/2: at distance |x - 1/2| from the boundary, whatever the attack."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.5 - x, x - 0.5], 1)


class Pixels(Numbers):
    def take(self, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        x = (rows.float()[:, None] + 0.5) / len(self)
        return x, (x[:, 0] > 0.5).long()


def test_validation_counts_what_stands_farther_than_eps_from_the_boundary() -> None:
    source, model = Pixels(100), Threshold()
    result = validate(model, source, torch.arange(100), Linf(0.2), steps=10, seed=0, rng=torch.Generator())
    assert result == {"clean": 1.0, "robust": 0.6, "n": 100}


def test_validation_leaves_the_model_and_the_global_generator_as_found() -> None:
    model, source = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2)), Pixels(40)
    before, drawn = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    validate(model, source, torch.arange(40), Linf(0.1), steps=3, seed=0, rng=torch.Generator())
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_a_saturated_model_is_validated_not_refused() -> None:
    class Saturated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x < 0.5, x >= 0.5], 1).float() * 1e4 + 0 * x

    result = validate(Saturated(), Pixels(20), torch.arange(20), Linf(0.1), steps=3, seed=0, rng=torch.Generator())
    assert result["robust"] == 1.0


def test_the_price_of_the_baseline_is_one_and_of_three_rounds_three() -> None:
    batch = torch.rand(256, 1, 8, 8), torch.zeros(256, dtype=torch.long)

    def game(times: int) -> Game:
        model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 2))

        def objective(model: nn.Module, z: Tensor, batch: Any) -> Tensor:
            return torch.stack([of_model(cross_entropy)(model, z, batch) for _ in range(times)]).sum(0)

        learner = Descent(model, torch.optim.SGD(model.parameters(), lr=0.0), objective)
        return Game(learner, Nature(), objective)

    same = step_ratio(lambda: game(1), lambda: game(1), batch, seconds=3, most=15)
    three = step_ratio(lambda: game(3), lambda: game(1), batch, seconds=3, most=15)
    assert 0.6 < same["step_ratio"] < 1.6
    assert 1.8 < three["step_ratio"] < 4.5
    assert same["step_ratio_n"] >= 3


def test_weights_travel_and_misfits_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = Net(), Net()
    checkpoint.save_weights(tmp_path / "w", model.state_dict())
    checkpoint.load_weights(tmp_path / "w", other)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(checkpoint.CheckpointError, match="There is no weights file"):
        checkpoint.load_weights(tmp_path / "nothing", other)
    checkpoint.save_weights(tmp_path / "w", nn.Linear(2, 2).state_dict())
    with pytest.raises(checkpoint.CheckpointError, match=r"weight is \[2, 2\] in the file and \[3, 2\] in the model"):
        checkpoint.load_weights(tmp_path / "w", nn.Linear(2, 3))


def test_differences_name_every_leaf() -> None:
    ours: dict[str, Any] = {"system": "a", "config": {"eps": 0.1, "steps": 3}, "seed": 0}
    theirs: dict[str, Any] = {"system": "a", "config": {"eps": 0.2, "steps": 3, "new": 1}, "seed": 0, "history": [1]}
    assert record.differences(ours, theirs) == ["config.eps: 0.1 != 0.2", "config.new: None != 1"]
    assert record.differences(ours, ours) == []


def test_a_record_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(record.RecordError, match="of format 1"):
        record.read(tmp_path)


def test_the_list_of_trusted_factories_survives_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert trust.known() == []
    trust.remember("a:b")
    trust.remember("c:d")
    trust.remember("a:b")
    assert trust.known() == ["a:b", "c:d"]
    for damaged in ("{", '{"a": 1}', "[1, null]"):
        trust.ledger().write_text(damaged)
        assert trust.known() == []
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/nowhere")
    trust.remember("a:b")
    assert trust.known() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("ema", 1.0), ("validation", 0.0), ("clip", -1.0)],
)
def test_training_refuses_what_is_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter must be .* Got {value!r} instead"):
        Training(**{field: value})
