"""Detectors from vectors of flows `[B, d]`, scaled to [0, 1], to logits `[B, 2]` of benign and malicious.

Also what reconstructs a flow, for a second layer that knows benign traffic only.
"""

import difflib
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

SPECS = ("mlp", "cnn")
"""The detectors that `build` knows."""

SMALLEST = 4
"""Coordinates that a convolution needs to be halved twice."""


class ModelError(ValueError):
    """A detector that does not exist or cannot be built."""


class Row(nn.Module):
    """Vectors `[B, d]` as signals of one channel, `[B, 1, d]`."""

    def forward(self, u: Tensor) -> Tensor:
        return u.unsqueeze(1)


def mlp(width: int, classes: int = 2, hidden: Sequence[int] = (128, 128, 64)) -> nn.Module:
    """A multilayer perceptron with ReLU: 40,130 parameters on the 118 coordinates of NSL-KDD's 20 % file.

    Args:
        width: d, coordinates of a vector, at least 1.
        classes: K, at least 1.
        hidden: units of each hidden layer; none is a linear model.
    """
    _check(width=width, classes=classes, **{f"hidden[{k}]": size for k, size in enumerate(hidden)})
    return _initialised(nn.Sequential(*_layers((width, *hidden)), nn.Linear((width, *hidden)[-1], classes)))


def cnn(width: int, classes: int = 2, channels: Sequence[int] = (32, 64), hidden: int = 64) -> nn.Module:
    """Two convolutions over the coordinates of one flow, each with ReLU and max-pooling by 2, and a hidden layer.

    Ours, after LUCID (Doriguzzi-Corin et al., "LUCID: a practical, lightweight deep learning solution for DDoS attack
    detection", 2020), which convolves over the packets of a flow. A row of flow features has no packets: the kernel
    meets neighbouring columns instead, in schema order, and there is no pooling over all of them, because which column
    is high says more than that one is.

    Args:
        width: d, coordinates of a vector, at least 4.
        classes: K, at least 1.
        channels: of the first and the second convolution, kernels of 3.
        hidden: units of the hidden layer.
    """
    first, second = channels
    _check(width=width, classes=classes, hidden=hidden, **{"channels[0]": first, "channels[1]": second})
    if width < SMALLEST:
        raise ModelError(f"The 'width' parameter of cnn must be an int in the range [4, inf). Got {width!r} instead.")
    return _initialised(
        nn.Sequential(
            Row(),
            *(nn.Conv1d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Flatten(), nn.Linear(second * (width // 4), hidden), nn.ReLU(), nn.Linear(hidden, classes)),
        )
    )


def autoencoder(width: int, hidden: Sequence[int] = (64, 32, 16, 32, 64)) -> nn.Module:
    """Vectors `[B, d]` to their reconstructions `[B, d]` in (0, 1): ReLU inside, sigmoid at the end.

    Args:
        width: d, at least 1.
        hidden: units of each layer between.
    """
    _check(width=width, **{f"hidden[{k}]": size for k, size in enumerate(hidden)})
    body = nn.Sequential(*_layers((width, *hidden)), nn.Linear((width, *hidden)[-1], width))
    return nn.Sequential(*_initialised(body).children(), nn.Sigmoid())


def build(spec: str, width: int) -> nn.Module:
    """The detector of this name (`SPECS`), initialised from torch's global generator.

    Args:
        spec: mlp or cnn.
        width: d, coordinates of a vector.

    Raises:
        ModelError: for another name, or a width that is none.
    """
    if spec == "mlp":
        return mlp(width)
    if spec == "cnn":
        return cnn(width)
    near = difflib.get_close_matches(str(spec), SPECS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ModelError(f"The 'model' parameter must be one of {', '.join(SPECS)}. Got {spec!r} instead.{hint}")


def _layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers between these sizes, each with ReLU."""
    made: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        made += [nn.Linear(inputs, outputs), nn.ReLU()]
    return made


def _initialised(model: nn.Sequential) -> nn.Sequential:
    """Kaiming's normal initialisation, biases zero, and a head at a tenth of it, for the reason that the image models
    give: logits that start large are confidently wrong under attack, and no gradient leads back."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv1d | nn.Linear)]
    for module in layers:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    layers[-1].weight.data.mul_(0.1)
    return model


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"The {name!r} parameter must be an int in the range [1, inf). Got {value!r} instead.")
