"""A detector's file: it comes back bit for bit, and one that does not fit says what does not."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_flows import rows
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from sparring.domains.flow import models
from sparring.domains.flow.artefact import KEY, ArtefactError, Layer, from_bytes, load, to_bytes
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.scoring import Scorer

TABLE = rows(0, 200)
MADE = Preprocessing.fit(TABLE)
U = MADE.encode(TABLE)


def content(spec: str = "mlp", layers: tuple[Layer, ...] = (), **changed: Any) -> bytes:
    torch.manual_seed(1)
    model = models.build(spec, MADE.width)
    given = {"threshold": 0.625, "false_positives": 0.01, "reference": U.mean(0), "preprocessing": MADE}
    return to_bytes(model, spec=spec, layers=layers, **(given | changed))


def edited(
    facts: Callable[[dict[str, Any]], Any] = lambda _: None,
    tensors: Callable[[dict[str, torch.Tensor]], Any] = lambda _: None,
) -> bytes:
    """A file whose facts and tensors were changed behind our back."""
    whole = content()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    said, held = json.loads(header["__metadata__"][KEY]), load_tensors(whole)
    facts(said)
    tensors(held)
    return save_tensors(held, {KEY: json.dumps(said)})


@pytest.mark.parametrize("spec", models.SPECS)
def test_a_detector_comes_back_bit_for_bit(spec: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = models.build(spec, MADE.width)
    path = tmp_path / "detector.safetensors"
    path.write_bytes(content(spec))
    again = load(path)
    assert torch.equal(again.model(U), model(U))
    assert (again.spec, again.threshold, again.false_positives) == (spec, 0.625, 0.01)
    assert again.preprocessing == MADE
    assert torch.equal(again.reference, U.mean(0))
    assert again.layers == ()
    assert not again.model.training
    assert not any(p.requires_grad for p in again.model.parameters())
    assert again.to_bytes() == content(spec)


def test_a_second_layer_comes_back_too() -> None:
    torch.manual_seed(2)
    behind = models.autoencoder(MADE.width)
    again = from_bytes(content(layers=(Layer("autoencoder", behind, 0.04),)))
    assert [(layer.name, layer.threshold) for layer in again.layers] == [("autoencoder", 0.04)]
    assert torch.equal(again.layers[0].model(U), behind(U))


def test_loading_leaves_the_global_generator_alone() -> None:
    whole = content()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    from_bytes(whole)
    assert torch.equal(torch.rand(3), expected)


class _Opens:
    """What would leave a file behind if a pickle of it were read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    trap, buffer = tmp_path / "trap", io.BytesIO()
    torch.save({"weights": torch.zeros(2)}, buffer)
    for bad in (pickle.dumps(_Opens(trap)), buffer.getvalue()):
        with pytest.raises(ArtefactError, match=r"not a whole safetensors file .* Pickled models are not read"):
            from_bytes(bad)
    assert not trap.exists()


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_file_that_was_cut_off_is_refused(size: int) -> None:
    with pytest.raises(ArtefactError, match=r"m\.st is not a whole safetensors file"):
        from_bytes(content()[:size], "m.st")


def test_a_file_that_is_not_there_or_holds_weights_only(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"nowhere must be a file that holds a detector. No such file"):
        load(tmp_path / "nowhere")
    for metadata in (None, {"other": "1"}):
        with pytest.raises(ArtefactError, match="holds weights but no detector: its metadata"):
            from_bytes(save_tensors({"w": torch.zeros(2)}, metadata))
    with pytest.raises(ArtefactError, match="no JSON"):
        from_bytes(save_tensors({"w": torch.zeros(2)}, {KEY: "{"}))


@pytest.mark.parametrize("format", [2, 0, None, "1"])
def test_another_format_is_refused(format: object) -> None:
    with pytest.raises(ArtefactError, match=r"must be a detector of format 1\. Got format"):
        from_bytes(edited(lambda facts: facts.update(format=format)))


@pytest.mark.parametrize("name", ["spec", "preprocessing", "threshold", "false_positives", "layers"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(ArtefactError, match=f"lacks '{name}'"):
        from_bytes(edited(lambda facts: facts.pop(name)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("classifier.2.bias"), "classifier.2.bias is missing"),
        (lambda t: t.update({"classifier.9.bias": torch.zeros(2)}), "classifier.9.bias is not in the model"),
        (
            lambda t: t.update({"classifier.0.weight": torch.zeros(128, 5)}),
            r"classifier.0.weight is float32 \[128, 5\]",
        ),
        (lambda t: t.update({"classifier.6.bias": torch.zeros(2).double()}), "classifier.6.bias is float64"),
        (lambda t: t.pop("reference"), "reference is missing"),
        (lambda t: t["classifier.0.bias"].fill_(float("nan")), "finite numbers. classifier.0.bias do not"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(ArtefactError, match=named):
        from_bytes(edited(tensors=change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: f["preprocessing"]["categories"][0].pop(), "classifier.0.weight is float32"),
        (lambda f: f["preprocessing"]["schema"]["fields"].pop(0), "'low', 'high' and 'categories' must be"),
        (lambda f: f["preprocessing"]["low"].pop(), "'low', 'high' and 'categories' must be"),
        (lambda f: f["preprocessing"]["low"].__setitem__(0, None), "'low' and 'high' must be finite"),
        (lambda f: f["preprocessing"]["schema"].pop("relations"), "lacks 'relations'"),
        (lambda f: f["preprocessing"]["schema"]["fields"][0].update(kind="word"), "'kind' of 'duration'"),
        (lambda f: f.update(preprocessing=[]), "preprocessing or layers that cannot be read"),
        (lambda f: f.update(spec="forest"), "must be one of mlp, cnn, stack. Got 'forest'"),
        (lambda f: f.update(spec="autoencoder"), "must be one of mlp, cnn, stack. Got 'autoencoder'"),
        (lambda f: f.update(spec="cnn"), "weights that do not fit"),
        (lambda f: f.update(threshold=None), "'threshold' parameter must be a finite number. Got None"),
        (lambda f: f.update(threshold=float("nan")), "'threshold' parameter must be a finite number. Got nan"),
        (lambda f: f.update(false_positives=1), r"'false_positives' parameter must be a number in \(0, 1\). Got 1"),
        (lambda f: f.update(layers=[{"name": "forest", "threshold": 1.0}]), "must be one of autoencoder. Got 'forest'"),
        (lambda f: f.update(layers=[{"name": "autoencoder", "threshold": 1.0}]), "layers.0.0.weight is missing"),
    ],
)
def test_facts_that_do_not_fit_are_named(change: Callable[[Any], Any], named: str) -> None:
    with pytest.raises(ArtefactError, match=named):
        from_bytes(edited(change))


def test_what_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(ArtefactError, match=r"The model has weights that do not fit: 0.weight is float32 \[128, 3\]"):
        to_bytes(
            models.mlp(3), spec="mlp", preprocessing=MADE, threshold=0.5, false_positives=0.01, reference=U.mean(0)
        )
    with pytest.raises(ArtefactError, match="'reference' must have shape"):
        content(reference=U)
    with pytest.raises(ArtefactError, match="'threshold'"):
        content(threshold=float("inf"))


def linear(weight: torch.Tensor) -> Scorer:
    """A detector whose margin is weight . u, by which half of the rows are attacks."""
    head = torch.nn.Linear(MADE.width, 2, bias=False)
    head.weight = torch.nn.Parameter(torch.stack([torch.zeros(MADE.width), weight]), requires_grad=False)
    at = float((U @ weight).double().sigmoid().quantile(0.5))
    return Scorer(replace(from_bytes(content()), model=head, threshold=at))


def test_contributions_of_a_linear_model_are_exact_and_a_category_counts_as_one_column(rng: torch.Generator) -> None:
    """w_i (u_i - r_i), summed over the words of a category; of all columns they add up to the margin's difference."""
    weight = torch.randn(MADE.width, generator=rng)
    scorer = linear(weight)
    answer, reference, n = scorer(U), U.mean(0), len(MADE.numeric)
    parts = weight * (U - reference)
    columns = [parts[:, k] for k in range(n)] + [parts[:, block].sum(1) for block in MADE.blocks.values()]
    by_column = torch.stack(columns, 1)
    assert torch.allclose(by_column.sum(1), (U - reference) @ weight, atol=1e-4)
    best = by_column.abs().sort(dim=1, descending=True).indices[:, :3]
    assert torch.allclose(by_column.gather(1, best), answer.contributions, atol=1e-5)
    assert scorer.columns == (*(f.name for f in MADE.numeric), "protocol", "flag")
    assert torch.allclose(answer.score, (U @ weight).double().sigmoid(), atol=1e-6)
    assert torch.equal(answer.attack, answer.score > scorer.detector.threshold)
    assert int(answer.attack.sum()) == len(U) // 2


def test_the_second_layer_is_asked_only_about_what_the_first_lets_pass(rng: torch.Generator) -> None:
    scorer = linear(torch.randn(MADE.width, generator=rng))
    plain = scorer(U)
    torch.manual_seed(3)
    behind = models.autoencoder(MADE.width)
    error = (behind(U) - U).square().mean(1).detach()
    at = float(error.quantile(0.5))
    scorer = Scorer(replace(scorer.detector, layers=(Layer("autoencoder", behind, at),)))
    both = scorer(U)
    assert scorer.layers == ("classifier", "autoencoder")
    assert torch.equal(both.score, plain.score)
    assert torch.equal(both.attack, plain.attack | (error > at))
    assert torch.equal(both.layer, (~plain.attack & (error > at)).long())
    assert 0 < int(both.layer.sum()) < int((~plain.attack).sum())
    assert (both.contributions[both.layer == 1] >= 0).all()
    assert torch.equal(both.contributions[both.layer == 0], plain.contributions[both.layer == 0])
