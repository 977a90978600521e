"""Transfer: attack a surrogate, and hope that what fools it fools the model."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.core.attack import Attack
from sparring.core.gain import Gain
from sparring.core.standing import judging, per_example
from sparring.core.threat import Threat


def transfer(attack: Attack, replaced: Callable[[Gain], Gain], *, judge: bool = False) -> Attack:
    """The attack run on a surrogate's gain, at no query of the gain itself.

    Papernot et al., "Transferability in machine learning: from phenomena to black-box attacks using adversarial
    samples", 2016. An attack sees no model, so it is told how to put the surrogate in the model's place; with a
    classifier's gain, whose labels and loss stay as they are:

        transfer(partial(pgd, steps=40), lambda gain: dataclasses.replace(gain, model=surrogate))

    The surrogate is the caller's to freeze and put in eval mode. What is bound should climb as far as its budget goes
    (`early_stop=False`): an example that the surrogate loses at once still stands before the model, and a z that only
    just crosses the surrogate's boundary rarely crosses another's.

    Args:
        attack: any attack.
        replaced: given the gain, for whichever examples it was narrowed to, the surrogate's gain for the same examples.
        judge: ask the gain about the outcome, one query each, and return x where it is not lost; needs a gain that can
            judge.

    Returns:
        An attack whose z `[B, ...]` is the one found on the surrogate.
    """

    def attack_surrogate(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        z = attack(replaced(gain), x, threat, rng=rng)
        if not judge or len(x) == 0:
            return z
        with torch.no_grad():
            _, lost = judging(gain).judge(z)
        return torch.where(per_example(lost, z), z, x)

    return attack_surrogate
