"""Detectors of flows: what they take and give, how they start, and what they say to a name that is none."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from sparring.domains.flow.models import ModelError, autoencoder, build, cnn, mlp


@pytest.mark.parametrize("spec", ["mlp", "cnn"])
@pytest.mark.parametrize("width", [4, 7, 118])
def test_vectors_become_two_logits(spec: str, width: int, rng: torch.Generator) -> None:
    u = torch.rand(5, width, generator=rng)
    assert build(spec, width)(u).shape == (5, 2)
    assert build(spec, width)(u[:0]).shape == (0, 2)


def test_the_parameters_are_as_many_as_the_layers_say() -> None:
    assert sum(p.numel() for p in mlp(118).parameters()) == 40_130
    sizes = (118, 128, 128, 64, 2)
    expected = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
    assert sum(p.numel() for p in mlp(118).parameters()) == expected
    expected = (3 + 1) * 32 + (3 * 32 + 1) * 64 + (64 * 29 + 1) * 64 + (64 + 1) * 2
    assert sum(p.numel() for p in cnn(118).parameters()) == expected
    assert sum(p.numel() for p in mlp(9, classes=3, hidden=()).parameters()) == 10 * 3


@pytest.mark.parametrize("make", [mlp, cnn])
def test_logits_start_at_a_tenth_of_kaimings(make: type) -> None:
    """Weights have standard deviation sqrt(2 / fan-in), the head's a tenth of it, and no bias speaks for a class."""
    torch.manual_seed(0)
    layers = [m for m in make(118, 64).modules() if isinstance(m, nn.Linear)]
    for layer in layers[:-1]:
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.05)
    head = layers[-1]
    assert float(head.weight.detach().std()) == pytest.approx(0.1 * math.sqrt(2 / 64), rel=0.05)
    assert not head.bias.any()


def test_the_convolution_knows_which_column_is_high() -> None:
    """Pooling over all coordinates, which LUCID does over the packets of a flow, would answer both alike."""
    torch.manual_seed(0)
    rows = torch.zeros(2, 40)
    rows[0, 12], rows[1, 28] = 1.0, 1.0
    first, second = cnn(40)(rows)
    assert (first - second).abs().max() > 1e-4


def test_a_reconstruction_has_the_shape_of_its_vector_and_lies_between_0_and_1(rng: torch.Generator) -> None:
    again = autoencoder(11)(torch.rand(6, 11, generator=rng))
    assert again.shape == (6, 11)
    assert (again > 0).all()
    assert (again < 1).all()


def test_a_name_that_is_none_gets_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"must be one of mlp, cnn. Got 'mpl' instead. Did you mean 'mlp'\?"):
        build("mpl", 10)
    with pytest.raises(ModelError, match=r"Got 'forest' instead\.$"):
        build("forest", 10)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: mlp(0), "'width'"),
        (lambda: mlp(4, classes=0), "'classes'"),
        (lambda: mlp(4, hidden=(8, 0)), r"'hidden\[1\]'"),
        (lambda: cnn(3), "'width' parameter of cnn"),
        (lambda: cnn(8, channels=(0, 2)), r"'channels\[0\]'"),
        (lambda: autoencoder(True), "'width'"),
    ],
)
def test_sizes_are_positive(make: object, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        make()  # type: ignore[operator]
