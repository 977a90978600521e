"""Accuracy and calibration under corruptions that nobody chose to do harm: noise, blur, weather, a bad encoder.

Which corruptions there are is the domain's business: `sparring.domains.image.corruptions.CORRUPTIONS` for images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.seeds import derive
from sparring.evaluation.calibration import expected_error
from sparring.evaluation.interval import accuracy, bootstrap
from sparring.evaluation.subject import Subject, subject

CHUNK = 256
"""Examples corrupted at a time. Their draws are one seed's, so another number would be other draws."""

SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]
"""`(x [B, ...], severity, rng) -> [B, ...]`, inside the bounds that x is inside; rng is on x's device."""

Advance = Callable[[str, int, int], None]
"""`advance(stage, done, total)`: called as the evaluation moves on."""


def shift(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    corruptions: Sequence[tuple[str, Corruption]],
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 256,
    advance: Advance | None = None,
    *,
    low: float = 0.0,
    high: float = 1.0,
    relative_to: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure a classifier on corrupted examples.

    Args:
        model: `[B, ...] -> [B, K]` logits; evaluated in eval mode, left as it was found.
        x: clean inputs `[N, ...]` in [low, high].
        y: labels `[N]`.
        corruptions: by name.
        severities: what each corruption is called with.
        seed: of every draw. All severities of a corruption share it: a curve over them is less of chance.
        batch_size: examples the model sees at a time; does not change what is measured.
        advance: told before every corruption and severity.
        low, high: bounds that inputs, corrupted ones too, must be inside.
        relative_to: what this function gave for a reference model with the same corruptions and severities (an AlexNet
            in the paper): `mce` and `relative_mce` are measured in its errors.

    Returns:
        JSON types. `n`, `seed`; `clean` and, by name, `corruptions`; then means over all corruptions:

        - `clean`: `accuracy, low, high, n` (Wilson) and `ece: {"ece", "low", "high"}`.
        - `corruptions`: by name `accuracy, low, high` (mean over severities), `ece` (mean) and `severities`, a list of
          rows like `clean` with their `severity`.
        - `accuracy, low, high, n`: mean corruption accuracy, which is the mean over all corruptions and severities.
          Means have bootstrap intervals over examples, since the same examples are in all of them.
        - `ece`: mean expected calibration error over all corruptions and severities.
        - `mce`, `relative_mce` and `ce`: those of `mean_corruption_error`; None without `relative_to`.

    Raises:
        ValueError: where the data, the model's output or what a corruption returns is not what it has to be, or
            `relative_to` is about other corruptions or severities.
    """
    _check(corruptions, severities)
    asked = subject(model, (x, y), low=low, high=high, batch_size=batch_size)
    found: dict[str, Any] = {}
    rights: list[Tensor] = []
    total = len(corruptions) * len(severities)
    for name, corruption in corruptions:
        rows: list[dict[str, Any]] = []
        each: list[Tensor] = []
        for severity in severities:
            if advance is not None:
                advance(f"{name} {severity}", len(rights) * len(severities) + len(rows), total)
            logits = _corrupted(asked, name, corruption, severity, seed, (low, high))
            rows.append({"severity": severity, **_row(logits, asked.y, seed)})
            each.append(_right(logits, asked.y).double())
        rights.append(torch.stack(each).mean(0).cpu())
        found[name] = {**_mean(rights[-1], seed), "ece": _mean_ece(rows), "severities": rows}
    result = {
        "n": len(asked.y),
        "seed": seed,
        "clean": _row(asked.logits, asked.y, seed),
        "corruptions": found,
        **_mean(torch.stack(rights).mean(0), seed),
        "ece": _mean_ece([row for part in found.values() for row in part["severities"]]),
    }
    none = {"mce": None, "relative_mce": None, "ce": None}
    return {**result, **(none if relative_to is None else mean_corruption_error(result, relative_to))}


def mean_corruption_error(result: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """`{"mce", "relative_mce", "ce"}` of Hendrycks & Dietterich, "Benchmarking neural network robustness to common
    corruptions and perturbations", 2019, section 4.3, as ratios: 1 is as good as the reference, less is better.

    `ce` is, for each corruption, the sum of the model's errors over severities by the sum of the reference's, and `mce`
    their mean. `relative_mce` is the same with each model's clean error taken off its errors. A ratio to a sum that is
    not above 0 means nothing: it and its mean are None.

    Args:
        result, reference: of `shift`, for the same corruptions and severities.

    Raises:
        ValueError: where they are not for the same.
    """
    ours, theirs = _errors(result), _errors(reference)
    if {name: sorted(part) for name, part in ours.items()} != {name: sorted(part) for name, part in theirs.items()}:
        raise ValueError(
            "The 'relative_to' parameter must be a result for the same corruptions and severities, "
            f"{_listed(ours)}. Got {_listed(theirs)} instead."
        )

    def ratios(ours_off: float, theirs_off: float) -> dict[str, float | None]:
        sums = {
            name: (sum(e - ours_off for e in ours[name].values()), sum(e - theirs_off for e in theirs[name].values()))
            for name in ours
        }
        return {name: mine / its if its > 1e-12 else None for name, (mine, its) in sums.items()}

    ce = ratios(0.0, 0.0)
    relative = ratios(1 - result["clean"]["accuracy"], 1 - reference["clean"]["accuracy"])
    return {"mce": _mean_or_none(ce), "relative_mce": _mean_or_none(relative), "ce": ce}


def _corrupted(
    asked: Subject, name: str, corruption: Corruption, severity: int, seed: int, bounds: tuple[float, float]
) -> Tensor:
    """Logits `[N, K]` on corrupted inputs, which are checked: a corruption is believed no more than an attack."""
    low, high = bounds
    logits = []
    for i, chunk in enumerate(asked.x.split(CHUNK)):
        rng = torch.Generator(chunk.device).manual_seed(derive(seed, "shift", name, i))
        z = corruption(chunk, severity, rng)
        if z.shape != chunk.shape or not z.is_floating_point():
            raise ValueError(f"{name} must return floating point {list(chunk.shape)}. Got {z.dtype} {list(z.shape)}.")
        if not ((z >= low) & (z <= high)).all():
            raise ValueError(f"{name} must stay in [{low:g}, {high:g}]. Got [{z.min():.4g}, {z.max():.4g}].")
        logits.append(asked.predict(z.to(chunk.dtype)))
    return torch.cat(logits)


def _row(logits: Tensor, y: Tensor, seed: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(derive(seed, "shift", "bootstrap"))
    sure = torch.where(logits.isfinite().all(1, keepdim=True), logits, 0)
    return {**accuracy(_right(logits, y)), "ece": expected_error(sure, y, rng)}


def _right(logits: Tensor, y: Tensor) -> Tensor:
    """Which answers are right `[N]`; one that is not finite is not."""
    return (logits.argmax(1) == y) & logits.isfinite().all(1)


def _mean(share: Tensor, seed: int) -> dict[str, Any]:
    """`accuracy, low, high, n` of the share of answers that are right for each example `[N]`."""
    rng = torch.Generator().manual_seed(derive(seed, "shift", "bootstrap"))
    low, high = bootstrap(lambda rows: share[rows].mean().item(), len(share), rng)
    return {"accuracy": share.mean().item(), "low": low, "high": high, "n": len(share)}


def _mean_ece(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["ece"]["ece"] for row in rows) / len(rows))


def _errors(result: dict[str, Any]) -> dict[str, dict[int, float]]:
    """By corruption and severity."""
    parts = result["corruptions"].items()
    return {name: {row["severity"]: 1 - row["accuracy"] for row in part["severities"]} for name, part in parts}


def _listed(errors: dict[str, dict[int, float]]) -> str:
    return ", ".join(f"{name} at {', '.join(map(str, sorted(part)))}" for name, part in sorted(errors.items()))


def _mean_or_none(ratios: dict[str, float | None]) -> float | None:
    known = [ratio for ratio in ratios.values() if ratio is not None]
    return sum(known) / len(known) if len(known) == len(ratios) else None


def _check(corruptions: Sequence[tuple[str, Corruption]], severities: Sequence[int]) -> None:
    names = [name for name, _ in corruptions]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"The 'corruptions' parameter must be pairs of different names and functions. Got {names!r}.")
    if not severities or len(set(severities)) != len(severities):
        raise ValueError(f"The 'severities' parameter must be one or more different numbers. Got {severities!r}.")
