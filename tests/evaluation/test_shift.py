"""Accuracy under corruptions: everything follows from which answers are right, which toys decide exactly."""

import json

import pytest
import torch
from torch import Tensor, nn

from sparring.domains.image.corruptions import CORRUPTIONS
from sparring.evaluation.calibration import calibration
from sparring.evaluation.interval import wilson
from sparring.evaluation.shift import CHUNK, mean_corruption_error, shift

N = 600


class Threshold(nn.Module):
    """Class 1 where the first value is above a half, with the confidence of a logit of one."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        side = (x.flatten(1)[:, 0] > 0.5).float() - 0.5
        return self.scale * torch.stack([-side, side], 1)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(N, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0, 0, 0] > 0.5).long()


def same(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    return x


def inverted(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    return 1 - x


def lottery(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Inverts a tenth of the images per severity."""
    chosen = torch.rand(len(x), generator=rng) < severity / 10
    return torch.where(chosen.view(-1, 1, 1, 1), 1 - x, x)


TOYS = (("same", same), ("inverted", inverted), ("lottery", lottery))


def test_every_figure_follows_from_the_answers(data):
    result = shift(Threshold(), *data, TOYS)
    parts = result["corruptions"]
    assert list(parts) == ["same", "inverted", "lottery"]
    assert [row["severity"] for row in parts["same"]["severities"]] == [1, 2, 3, 4, 5]
    assert {row["accuracy"] for row in parts["same"]["severities"]} == {1.0} == {result["clean"]["accuracy"]}
    assert {row["accuracy"] for row in parts["inverted"]["severities"]} == {0.0}
    for row in parts["lottery"]["severities"]:
        assert row["accuracy"] == pytest.approx(1 - row["severity"] / 10, abs=0.06)
        hits = round(N * row["accuracy"])
        assert (row["low"], row["high"]) == pytest.approx(wilson(hits, N))
        confidence = torch.tensor([0.5, -0.5]).softmax(0).max().item()
        assert row["ece"]["ece"] == pytest.approx(abs(confidence - row["accuracy"]), abs=1e-6)
        assert row["ece"]["low"] <= row["ece"]["ece"] <= row["ece"]["high"]
    mean = sum(row["accuracy"] for row in parts["lottery"]["severities"]) / 5
    assert parts["lottery"]["accuracy"] == pytest.approx(mean)
    assert parts["lottery"]["low"] < mean < parts["lottery"]["high"]
    assert result["accuracy"] == pytest.approx((1 + 0 + mean) / 3)
    assert result["ece"] == pytest.approx(sum(part["ece"] for part in parts.values()) / 3)
    assert (result["mce"], result["relative_mce"], result["ce"]) == (None, None, None)
    assert (result["n"], result["seed"]) == (N, 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_severities_share_their_draws(data):
    """Whoever loses at a severity loses at every higher one, if the draw is all that decides."""
    rights = []

    def watched(x, severity, rng):
        z = lottery(x, severity, rng)
        rights.append((z == x).flatten(1).all(1))
        return z

    shift(Threshold(), *data, [("watched", watched)])
    by_severity = torch.cat(rights).view(5, N)
    assert (by_severity[1:] <= by_severity[:-1]).all()
    assert not torch.equal(by_severity[0][:CHUNK][: N - CHUNK], by_severity[0][CHUNK:][:CHUNK])  # but chunks do not


def test_the_batch_size_changes_nothing_and_the_seed_all_that_is_drawn(data):
    first = shift(Threshold(), *data, TOYS)
    assert shift(Threshold(), *data, TOYS, batch_size=7) == first
    assert shift(Threshold(), *data, TOYS, seed=1)["corruptions"]["lottery"] != first["corruptions"]["lottery"]
    reordered = shift(Threshold(), *data, TOYS[::-1])
    assert reordered["corruptions"] == first["corruptions"]


def test_a_model_is_left_as_found_and_its_mode_does_not_matter(data):
    model = nn.Sequential(nn.Dropout(0.9), Threshold()).train()
    assert shift(model, *data, TOYS) == shift(Threshold(), *data, TOYS)
    assert model.training
    assert model[0].training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_mean_corruption_error_is_a_mean_of_ratios_of_sums(data):
    def result(clean, **accuracies):
        parts = {
            name: {"severities": [{"severity": s, "accuracy": a} for s, a in enumerate(row, 1)]}
            for name, row in accuracies.items()
        }
        return {"clean": {"accuracy": clean}, "corruptions": parts}

    ours = result(0.9, noise=(0.8, 0.7), fog=(0.9, 0.6))
    reference = result(0.6, noise=(0.5, 0.2), fog=(0.5, 0.3))
    found = mean_corruption_error(ours, reference)
    assert found["ce"] == pytest.approx({"noise": 0.5 / 1.3, "fog": 0.5 / 1.2})
    assert found["mce"] == pytest.approx((0.5 / 1.3 + 0.5 / 1.2) / 2)
    assert found["relative_mce"] == pytest.approx((0.3 / 0.5 + 0.3 / 0.4) / 2)
    itself = mean_corruption_error(reference, reference)
    assert (itself["mce"], itself["relative_mce"]) == (pytest.approx(1), pytest.approx(1))
    perfect = result(1.0, noise=(1.0, 1.0), fog=(0.5, 0.5))
    assert mean_corruption_error(ours, perfect) == {
        "mce": None,
        "relative_mce": None,
        "ce": {"noise": None, "fog": 0.5},
    }
    with pytest.raises(ValueError, match=r"'relative_to' .* fog at 1, 2, noise at 1, 2. Got noise at 1, 2 instead"):
        mean_corruption_error(ours, result(0.9, noise=(0.8, 0.7)))
    with pytest.raises(ValueError, match="Got fog at 1, 2, noise at 1, 2, 3 instead"):
        mean_corruption_error(ours, result(0.9, noise=(0.8, 0.7, 0.6), fog=(0.9, 0.6)))


def test_a_reference_is_divided_by(data):
    x, y = data
    toys = (("inverted", inverted), ("lottery", lottery))
    reference = shift(Threshold(), x, y, toys)
    result = shift(Threshold(), x, torch.zeros_like(y), toys, relative_to=reference)
    assert {key: result[key] for key in ("mce", "relative_mce", "ce")} == mean_corruption_error(result, reference)
    assert result["ce"]["inverted"] == pytest.approx((y == 0).double().mean().item())
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_an_answer_that_is_not_finite_is_wrong(data):
    class Broken(Threshold):
        def forward(self, x):
            logits = super().forward(x)
            return torch.where((x.flatten(1)[:, :1] == 0.25), torch.nan, logits)

    x, y = data
    result = shift(Broken(), x, y, [("grey", lambda x, severity, rng: torch.full_like(x, 0.25))], (1,))
    assert result["accuracy"] == 0
    assert json.dumps(result, allow_nan=False)


def test_progress_is_told(data):
    told = []
    shift(Threshold(), *data, TOYS, (2, 4), advance=lambda *step: told.append(step))
    assert told == [(f"{name} {s}", 2 * i + j, 6) for i, (name, _) in enumerate(TOYS) for j, s in enumerate((2, 4))]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, severity, rng: x + 1, r"odd must stay in \[0, 1\]. Got \[1, 2\]"),
        (lambda x, severity, rng: x * torch.nan, r"odd must stay in \[0, 1\]"),
        (
            lambda x, severity, rng: x[:, :, :1],
            r"odd must return floating point \[256, 1, 2, 2\]. Got torch.float32 \[256, 1, 1, 2\]",
        ),
        (lambda x, severity, rng: x.long(), r"Got torch.int64 \[256, 1, 2, 2\]"),
    ],
)
def test_a_corruption_is_not_believed(data, answer, message):
    with pytest.raises(ValueError, match=message):
        shift(Threshold(), *data, [("odd", answer)])


def test_bad_arguments_are_refused_with_what_is_wrong(data):
    x, y = data
    with pytest.raises(ValueError, match=r"'corruptions' .* different names"):
        shift(Threshold(), x, y, [*TOYS, TOYS[0]])
    with pytest.raises(ValueError, match=r"'corruptions' .* Got \[\]"):
        shift(Threshold(), x, y, [])
    with pytest.raises(ValueError, match=r"'severities' .* Got \(1, 1\)"):
        shift(Threshold(), x, y, TOYS, (1, 1))
    with pytest.raises(ValueError, match=r"x must be inside \[0, 1\]"):
        shift(Threshold(), x + 1, y, TOYS)


def test_the_images_corruptions_fit():
    x = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    y = model(x).argmax(1)
    result = shift(model, x, y, CORRUPTIONS, (1, 5))
    assert list(result["corruptions"]) == [name for name, _ in CORRUPTIONS]
    assert 0.25 < result["accuracy"] < result["clean"]["accuracy"] == 1
    rng = torch.Generator()
    clean = calibration(model(x), y, rng)
    assert result["clean"]["ece"]["ece"] == pytest.approx(clean["ece"], abs=1e-6)
