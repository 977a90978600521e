"""Run folders as the engine leaves them, made from numbers that behave like real ones."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

Record = dict[str, Any]


def wilson(share: float, n: int) -> Record:
    """A share of n examples with its 95 % Wilson interval."""
    k = round(share * n)
    p, z = k / n, 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return {"accuracy": p, "low": (middle - half) / (1 + z * z / n), "high": (middle + half) / (1 + z * z / n), "n": n}


def record(
    system: str = "pgd-at",
    *,
    clean: float = 0.978,
    worst: float = 0.8,
    eps: float = 0.15,
    norm: str = "linf",
    seed: int = 0,
    ratio: float | None = 8.9,
    trained: bool = True,
    n: int = 450,
) -> Record:
    """A finished and evaluated run. `trained=False` is a model that learned no robustness."""

    def under(budget: float) -> float:
        """A fall through `worst` at eps, to nothing far out."""
        half, sharpness = (eps * (worst / (clean - worst)) ** (1 / 3), 3) if trained else (0.2 * eps, 2)
        return clean / (1 + (budget / half) ** sharpness) if budget < 3 * eps else 0.01

    def attack(share: float, seconds: float, **parameters: Any) -> Record:
        return {**wilson(share, n), "parameters": parameters, "refused": 0, "seconds": seconds}

    def pgd(steps: int, loss: str = "cross_entropy") -> Record:
        size = eps if steps == 1 else 2.5 * eps / steps
        return {
            "attack": "fgsm" if steps == 1 else "pgd",
            "loss": loss,
            "steps": steps,
            "step_size": size,
            "random_start": steps > 1,
            "restarts": 1 if steps < 100 else 5,
        }

    gap = (0.06 if trained else 0.25) * (1 - worst)
    results = {
        "clean": wilson(clean, n),
        "fgsm": attack(min(clean, worst + 1.6 * gap), 0.1, **pgd(1)),
        "pgd-20": attack(worst + 0.5 * gap, 1.4, **pgd(20)),
        "pgd-100": attack(worst + 0.25 * gap, 31.9, **pgd(100)),
        "pgd-100-margin": attack(worst + 0.1 * gap, 32.6, **pgd(100, "margin")),
        "worst": wilson(worst, n),
    }
    return {
        "format": 1,
        "status": "done",
        "system": system,
        "config": {"threat": norm, "eps": eps, "steps": 10, "step_size": eps / 4, "random_start": True},
        "training": {"epochs": 30, "batch_size": 128, "learning_rate": 0.05, "schedule": "one-cycle"},
        "data": {
            "name": "digits",
            "classes": [str(i) for i in range(10)],
            "shape": [1, 8, 8],
            "train": 1212,
            "validation": 135,
            "test": 450,
            "fingerprint": "9f2c61d07ab3e85f",
        },
        "model": {"spec": "small-conv", "parameters": 28938},
        "seed": seed,
        "command": f"sparring train {system} --eps {eps} --seed {seed} --out runs/{system}",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "sparring": "0.1.0"},
        "commit": "cc4a2b0d5f7e",
        "hardware": {"processor": "Intel Xeon Platinum 8481C", "cores": 2, "device": "cpu", "memory_gib": 23.4},
        "history": history(clean, worst, trained),
        "best": {"epoch": 24, "clean": clean - 0.004, "robust": worst + 0.02},
        "timing": {"seconds": 4.1 * (ratio or 1)}
        | (
            {}
            if ratio is None
            else {
                "step_ratio": ratio,
                "step_ratio_low": 0.95 * ratio,
                "step_ratio_high": 1.05 * ratio,
                "step_ratio_n": 7,
            }
        ),
        "evaluation": {
            "n": n,
            "split": "test",
            "seed": 0,
            "weights": "best",
            "threat": {"norm": norm, "eps": eps, "low": 0.0, "high": 1.0},
            "results": results,
            "eps_grid": [{"eps": f * eps, **wilson(under(f * eps), n)} for f in (0.25, 0.5, 0.75, 1, 1.5, 2, 3)],
            "steps_grid": [{"steps": s, **wilson(worst + 1.6 * gap * s**-0.7, n)} for s in (1, 2, 5, 10, 20, 50, 100)],
            "calibration": {"clean": bins(clean, 0.02, n), "attacked": bins(worst, 0.05 if trained else 0.6, n)},
            "checks": [
                {
                    "name": "verified",
                    "verdict": "pass",
                    "figure": f"0 of {n} refused",
                    "advice": "Every adversarial example lies inside the threat model.",
                },
                {
                    "name": "stronger with eps",
                    "verdict": "pass",
                    "figure": "0.0 % accuracy at eps 1.0",
                    "advice": "An unbounded attack must win; if it does not, gradients are masked.",
                },
                {
                    "name": "more steps",
                    "verdict": "pass",
                    "figure": "0.4 points from 50 to 100 steps",
                    "advice": "Accuracy has levelled off.",
                },
            ],
            "command": f"sparring evaluate runs/{system}",
            "seconds": 97.3,
        },
    }


def history(clean: float, worst: float, trained: bool, epochs: int = 30) -> list[Record]:
    """Curves that rise, level off, and lose a little robustness at the end."""
    rng = np.random.default_rng(7)
    rows = []
    for epoch in range(1, epochs + 1):
        rise = 1 - math.exp(-epoch / 5)
        wobble = float(rng.normal(0, 0.008))
        robust = worst * (1 - math.exp(-epoch / 7)) * 1.04 - (0.002 * max(0, epoch - 24) if trained else 0)
        rows.append(
            {
                "epoch": epoch,
                "loss": 2.3 * math.exp(-epoch / (9 if trained else 3)) + (0.35 if trained else 0.01) + abs(wobble),
                "learning_rate": 0.05 * (1 - epoch / epochs),
                "seconds": 1.2,
                "validation": {
                    "clean": min(1.0, clean * rise + wobble),
                    "robust": max(0.0, robust + wobble),
                    "n": 135,
                },
            }
        )
    return rows


def bins(accuracy: float, error: float, n: int) -> Record:
    """Ten confidence bins, most examples in the upper ones."""
    share = np.array([0, 0, 0.005, 0.01, 0.02, 0.035, 0.05, 0.08, 0.16, 0.64])
    rows = []
    for i, part in enumerate(share):
        confidence = (i + 0.55) / 10
        low, high = i / 10, (i + 1) / 10
        right = min(1.0, max(0.0, confidence - error * (0.4 + confidence) + 0.02 * ((-1) ** i)))
        rows.append(
            {"low": low, "high": high, "confidence": confidence, "accuracy": right, "count": round(float(part) * n)}
        )
    return {"ece": error, "low": 0.6 * error, "high": 1.5 * error, "n": n, "bins": rows}


def examples(eps: float = 0.15, k: int = 12, wrong: float = 0.3) -> dict[str, np.ndarray[Any, Any]]:
    """Digits with a blocky perturbation of size eps; a share of them is misclassified."""
    digits = load_digits()
    rng = np.random.default_rng(3)
    x = (digits.images[:k, None] / 16).astype(np.float32)
    z = np.clip(x + eps * np.sign(rng.normal(size=x.shape)), 0, 1).astype(np.float32)
    y = digits.target[:k].astype(np.int64)
    fooled = rng.random(k) < wrong
    return {
        "x": x,
        "z": z,
        "y": y,
        "clean_prediction": y.copy(),
        "adversarial_prediction": np.where(fooled, (y + 5) % 10, y),
        "clean_confidence": rng.uniform(0.9, 1.0, k).astype(np.float32),
        "adversarial_confidence": rng.uniform(0.4, 0.8, k).astype(np.float32),
    }


def write_run(folder: Path, content: Record, tensors: dict[str, np.ndarray[Any, Any]] | None = None) -> Path:
    """A run folder holding this record and these examples."""
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content))
    if tensors is not None:
        save_file(tensors, folder / "examples.safetensors")
    return folder


def three(folder: Path) -> list[Path]:
    """Standard training, PGD training and TRADES on the same data under the same threat model."""
    standard = record("standard", clean=0.989, worst=0.04, trained=False, ratio=1.0)
    standard["evaluation"]["checks"][2] |= {
        "verdict": "fail",
        "figure": "4.1 points from 50 to 100 steps",
        "advice": "Accuracy still falls with more steps: use more before quoting a number.",
    }
    return [
        write_run(folder / "standard", standard, examples(wrong=0.95)),
        write_run(folder / "pgd-at", record(), examples()),
        write_run(folder / "trades", record("trades", clean=0.962, worst=0.833, ratio=10.4), examples(wrong=0.2)),
    ]
