"""Which view of the model (`sparring.core.view`) the evaluation's attacks look at: measured, not assumed.

The best choice differs by model and machine. What is found on a view is verified on the model itself, in float32.
"""

import time

import torch
from torch import nn

from sparring.core.gradient import frozen, value_and_gradient
from sparring.core.payoff import margin
from sparring.core.view import Fast, Speed
from sparring.evaluation.subject import Subject

WORTH = 0.9
"""A view has to take less than this share of the model's own time: less is within what timing can tell."""

BRAIN16 = Speed(channels_last=True, bfloat16=True, folded=True)


def fastest(subject: Subject) -> nn.Module | None:
    """The view whose forward and backward pass is fastest on this machine; None where the model itself is. Of several
    processes the first one measures for all."""
    team = subject.team
    if team is None or team.world == 1:
        return _fastest(subject)
    found = _fastest(subject) if team.rank == 0 else None
    speed = team.broadcast(getattr(found, "speed", None))
    return found if team.rank == 0 or speed is None else _try(subject, speed)


def _fastest(subject: Subject) -> nn.Module | None:
    if not subject.differentiable or subject.x.dtype != torch.float32:
        return None
    best, time_to_beat = None, WORTH * seconds(subject.model, subject)
    for speed in (Speed(channels_last=True, folded=True), BRAIN16):
        view = _try(subject, speed)
        if view is not None and (taken := seconds(view, subject)) < time_to_beat:
            best, time_to_beat = view, WORTH * taken
    return best


def brain16(subject: Subject) -> nn.Module | None:
    """The view in bfloat16, whether it is faster or not; None where the model cannot be copied or run so."""
    return _try(subject, BRAIN16)


def seconds(model: nn.Module, subject: Subject, *, repeats: int = 3) -> float:
    """The least time of a few gradients of the margin on a batch."""
    rows = torch.arange(min(len(subject.y), subject.batch_size, 128), device=subject.y.device)
    x, best = subject.x[rows], float("inf")
    gain = subject.gain(rows)
    with frozen(model):
        for _ in range(repeats + 1):
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            begun = time.perf_counter()
            value_and_gradient(lambda z: margin(model(z), gain.y), x)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            best = min(best, time.perf_counter() - begun)
    return best


def _try(subject: Subject, speed: Speed) -> nn.Module | None:
    """The view, if the model can be copied and answers alike: most clean examples get the same class."""
    try:
        with frozen(subject.model):
            view = Fast(subject.model, subject.x[:2], speed).seen
        with torch.no_grad():
            answer = view(subject.x[:64])
    except Exception:  # a user's model may refuse to be copied or cast in any way it likes: then it is used as it is
        return None
    agree = (answer.argmax(1) == subject.logits[:64].argmax(1)).double().mean().item()
    return view if agree >= 0.9 and bool(answer.isfinite().all()) else None
