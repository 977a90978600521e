"""Decision-based attacks beside those of released libraries, on the same images at no more queries."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.boundary import boundary
from sparring.attacks.hop_skip_jump import hop_skip_jump
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.threat import L2, Linf

IMAGES = 24


class Queried(nn.Module):
    """The model, counting the images that a peer asks about, in whatever precision it does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.queries = model, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.queries += len(x)
        return self.model(x.float())


@pytest.fixture(scope="module")
def standing(digits_model: nn.Module, digits_test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, y = digits_test
    right = digits_model(x).argmax(1) == y
    return x[right][:IMAGES], y[right][:IMAGES]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Peers draw from the global generators."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)
        yield
    np.random.set_state(state)


def foolbox(attack: str, x: Tensor, y: Tensor, model: Queried, **parameters: Any) -> Tensor:
    library = pytest.importorskip("foolbox")
    wrapped = library.PyTorchModel(model, bounds=(0, 1), device="cpu")
    run = getattr(library.attacks, attack)(**parameters)
    found: Tensor = run(wrapped, x, library.criteria.Misclassification(y), epsilons=None)[0]
    return found


def art(attack: str, x: Tensor, y: Tensor, model: Queried, **parameters: Any) -> Tensor:
    classification = pytest.importorskip("art.estimators.classification")
    evasion = pytest.importorskip("art.attacks.evasion")
    wrapped = classification.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=x.shape[1:], nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    run = getattr(evasion, attack)(wrapped, targeted=False, batch_size=64, verbose=False, **parameters)
    return torch.tensor(run.generate(x.numpy(), y=y.numpy()))


CASES = [
    (hop_skip_jump, L2(0.5), partial(foolbox, "HopSkipJumpAttack", steps=5, constraint="l2")),
    (hop_skip_jump, Linf(0.1), partial(foolbox, "HopSkipJumpAttack", steps=5, constraint="linf")),
    (hop_skip_jump, L2(0.5), partial(art, "HopSkipJump", norm=2, max_iter=5)),
    (hop_skip_jump, Linf(0.1), partial(art, "HopSkipJump", norm=np.inf, max_iter=5)),
    (boundary, L2(0.5), partial(foolbox, "BoundaryAttack", steps=600)),
    (boundary, L2(0.5), partial(art, "BoundaryAttack", max_iter=20, epsilon=0.01, delta=0.01)),
]


NAMES = [f"{attack.__name__}-{type(threat).__name__}-{peer.func.__name__}" for attack, threat, peer in CASES]


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize(("attack", "threat", "peer"), CASES, ids=NAMES)
def test_the_points_are_no_further_than_a_peers_at_no_more_queries(
    attack: Any, threat: Any, peer: Callable[..., Tensor], digits_model: nn.Module, standing: tuple[Tensor, Tensor]
) -> None:
    """In the median, and within two standard errors in the mean of the paired differences. A peer that finds nothing
    for an example is left out with it; ours finds a point for every one."""
    x, y = standing
    model = Queried(digits_model)
    theirs = peer(x=x, y=y, model=model).to(x.dtype)
    meter = Meter.of(len(x))
    gain = Counted(ClassifierGain(digits_model, y, margin), meter)
    ours = attack(gain, x, threat, queries=model.queries // len(x), rng=torch.Generator().manual_seed(0))
    assert meter.forwards.sum() <= model.queries
    assert gain.judge(ours)[1].all()
    both = gain.judge(theirs)[1]
    assert both.double().mean() >= 0.9
    a, b = (threat.distance(z, x)[both].double() for z in (ours, theirs))
    difference = a - b
    error = difference.std().item() / math.sqrt(len(difference))
    message = f"median {a.median():.4f} against {b.median():.4f} at {model.queries / len(x):.0f} queries an image"
    assert a.median() <= b.median() + 2 * error, message
    assert difference.mean().item() <= 2 * error, message
