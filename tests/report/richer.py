"""What an evaluation adds to the records of `factory`: suites, several threat models, the parts beyond the ball."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sparring.report import markdown
from sparring.report.page import assemble
from sparring.report.read import Run, number

from .factory import Record, bins, examples, record, wilson, write_run

Array = np.ndarray[Any, Any]

CHECKS = (
    "eps-monotone", "steps-monotone", "verified", "crosses-the-ball", "loss-rose", "large-eps", "logits",
    "deterministic", "gradient-alive", "finite-differences", "random-noise", "restarts", "losses-agree", "black-box",
)  # fmt: skip
CORRUPTIONS = ("gaussian_noise", "fog", "jpeg")
METHODS = ("gradient", "integrated-gradients", "grad-cam")


def figure(mean: float, width: float = 0.02, n: int = 100) -> Record:
    """A mean with an interval of this half-width."""
    return {"mean": mean, "low": mean - width, "high": mean + width, "n": n}


def value(at: float, width: float = 0.02) -> Record:
    return {"value": at, "low": at - width, "high": at + width}


def attacked(share: float, n: int, attempted: int, broke: int, **parameters: Any) -> Record:
    """What a suite says of one attack."""
    queries = parameters.get("queries")
    return {
        **wilson(share, n),
        "parameters": parameters,
        "refused": 0,
        "attempted": attempted,
        "broke": broke,
        "seconds": 1.5,
        "forwards": attempted * (queries or 20),
        "backwards": 0 if queries else attempted * 20,
        "forwards_median": float(queries or 20),
        "forwards_largest": float(queries or 31),
    }


def suite(clean: float, worst: float, n: int) -> Record:
    """Results of three attacks, one after the other."""
    right, stand = round(clean * n), round(worst * n)
    middle = (right + 3 * stand) // 4
    apgd = {"attack": "apgd", "loss": "cross-entropy", "steps": 30, "step_size": 0.3, "restarts": 1}
    targeted = {**apgd, "attack": "targeted apgd", "loss": "targeted dlr", "targets": 3}
    return {
        "clean": wilson(clean, n),
        "apgd-ce": attacked(middle / n, n, right, right - middle, **apgd),
        "apgd-t": attacked(worst, n, middle, middle - stand, **targeted),
        "square": attacked(worst, n, stand, 0, attack="square", loss="margin", queries=200, restarts=1),
        "worst": wilson(worst, n),
    }


def checks(failed: str = "") -> list[Record]:
    return [
        {"name": name, "verdict": "fail" if name == failed else "pass", "figure": f"of {name}", "advice": f"fix {name}"}
        for name in CHECKS
    ]


def calibration(accuracy: float, ece: float, n: int) -> Record:
    return {**bins(accuracy, ece, n), "adaptive_ece": value(ece), "brier": value(0.2 + ece), "nll": value(0.5 + ece)}


def shift(accuracy: float, n: int, *, width: float = 0.01, mce: float | None = None, reference: str = "") -> Record:
    """Corruptions whose accuracy falls with severity."""

    def mean(share: float) -> Record:
        return {"accuracy": share, "low": share - width, "high": share + width, "n": n}

    rows = [{"severity": s, **wilson(accuracy - 0.03 * (s - 3), n), "ece": {"ece": 0.1}} for s in (1, 2, 3, 4, 5)]
    found = {name: {**mean(accuracy), "ece": 0.11, "severities": rows} for name in CORRUPTIONS}
    ratios = None if mce is None else dict.fromkeys(CORRUPTIONS, mce)
    clean = {**wilson(0.98, n), "ece": {"ece": 0.02, "low": 0.01, "high": 0.03}}
    whole = {"n": n, "seed": 0, "clean": clean, "corruptions": found, **mean(accuracy), "ece": 0.11}
    return {**whole, "mce": mce, "relative_mce": mce, "ce": ratios, "reference": reference or None}


def unseen(rotation: float, n: int) -> Record:
    """Two of the kinds, of which a record marks the ball as the one trained against."""
    ball = {"threat": {"norm": "linf", "eps": 0.15, "low": 0.0, "high": 1.0}, "trained": True, "forwards": 100}
    turned = {"norm": "rotation-translation", "eps": 1.0, "degrees": 30.0, "shift": 0.1, "fill": 0.0}
    grid = {"attack": "grid of 63 and 50 random", "loss": "margin", "queries": 113}
    return {
        "rotation": {**wilson(rotation, n), "threat": turned, "parameters": grid, "trained": False, "forwards": 10},
        "linf": {**wilson(0.7, n), **ball, "parameters": {"attack": "apgd", "loss": "margin", "steps": 50}},
    }


def outside(auroc: float) -> Record:
    score = {"auroc": value(auroc), "fpr95": value(0.3)}
    sides = {"inside": {"mean_confidence": 0.98}, "outside": {"mean_confidence": 0.7}}
    return {"data": "mnist", "n_in": 150, "n_out": 140, "scores": {"softmax": score, "energy": score}, **sides}


def explanations(cosine: float, advantage: float, *, faithful: bool = True) -> Record:
    def measured() -> Record:
        one = {**figure(0.3), "control": figure(0.6), "advantage": figure(advantage), "beats_control": faithful}
        names = ("deletion", "insertion", "sufficiency", "comprehensiveness")
        return {**dict.fromkeys(names, one), "faithful": faithful}

    alike = {**figure(cosine), "control": figure(0.1), "advantage": figure(0.4), "beats_control": True}
    senses = dict.fromkeys(("same_class", "as_shown"), dict.fromkeys(("cosine", "spearman", "top-10%", "ssim"), alike))
    method = {"clean": measured(), "attacked": measured(), "stability": {**senses, "faithful": faithful}}
    method["concentration"] = None
    return {"n": 100, "flipped": figure(0.5), "methods": dict.fromkeys(METHODS, method), "left_out": {}}


def rich(
    system: str, *, clean: float, worst: float, ece: float, shifted: float, cosine: float, n: int = 150, **other: Any
) -> Record:
    """A record with everything in it. Its JSON shares no part with another's."""
    content = record(system, clean=clean, worst=worst, n=n, trained=system != "standard")
    evaluation = content["evaluation"]
    both = {"clean": calibration(clean, ece, n), "attacked": calibration(worst, 2 * ece, n)}
    scaled = {"temperature": 0.7, "bounded": False, "n_fit": 75, "before": both["clean"], "after": both["clean"]}
    evaluation |= {
        "suite": {"name": "quick", "sequential": True, "bound": "A tenth of the budget."},
        "results": suite(clean, worst, n),
        "calibration": both,
        "checks": checks(),
        "temperature": {"clean": scaled, "attacked": scaled | {"bounded": True}},
        "unseen": unseen(0.2, n),
        "shift": shift(shifted, n),
        "outside": outside(0.95),
        "explanations": explanations(cosine, 0.2),
    }
    second = {key: evaluation[key] for key in ("n", "suite", "eps_grid", "steps_grid", "calibration", "checks")}
    second |= {"results": suite(clean, worst / 2, n), "seconds": 3.0}
    second |= {"threat": {"norm": "l2", "eps": 0.5, "low": 0.0, "high": 1.0}, "others": [], "union": None}
    evaluation |= {"others": [second], "union": wilson(worst / 2, n), **other}
    copied: Record = json.loads(json.dumps(content))
    return copied


def standard(**other: Any) -> Record:
    return rich("standard", clean=0.98, worst=0.04, ece=0.02, shifted=0.7, cosine=0.5, **other)


def trained(**other: Any) -> Record:
    return rich("pgd-at", clean=0.96, worst=0.6, ece=0.021, shifted=0.8, cosine=0.8, **other)


def outcomes(content: Mapping[str, Any], *, first: int = 0) -> dict[str, Array]:
    """Answers that agree with a record: those in front are right. Rows are `first`, `first` + 3, and so on."""
    evaluation = content["evaluation"]
    n = evaluation["n"]
    shares = {name: evaluation["results"][name]["accuracy"] for name in ("clean", "worst")}
    if (union := number(evaluation, "union", "accuracy")) is not None:
        shares["union"] = union
    found: dict[str, Array] = {name: np.arange(n) < round(share * n) for name, share in shares.items()}
    return {"rows": first + 3 * np.arange(n), **found}


def maps(k: int = 8, shape: tuple[int, ...] = (1, 8, 8)) -> dict[str, Array]:
    """Images in no order of the test set, answers of which the last under attack are wrong, and a map of each for every
    method: only that of integrated gradients has a sign."""
    rng = np.random.default_rng(5)
    x = rng.random((k, *shape)).astype(np.float32)
    found = {"x": x, "z": 1 - x, "y": np.arange(k), "rows": 100 - 7 * np.arange(k)}
    found |= {"prediction/clean": np.arange(k), "prediction/attacked": np.minimum(np.arange(k), 2)}
    for state in ("clean", "attacked"):
        signed = rng.normal(size=(k, *shape[1:])).astype(np.float32)
        found |= {f"gradient/{state}": np.abs(signed), f"integrated-gradients/{state}": signed}
        found |= {f"grad-cam/{state}": np.abs(signed) + 1}
    return found


def write(folder: Path, content: Record, *, first: int = 0) -> Path:
    """A run folder with a record and all files beside it."""
    write_run(folder, content, examples())
    save_file(outcomes(content, first=first), folder / "outcomes.safetensors")
    save_file(maps(), folder / "explanations.safetensors")
    return folder


def two(folder: Path) -> list[Path]:
    """Standard training and PGD training, evaluated alike on the same examples."""
    return [write(folder / "standard", standard()), write(folder / "pgd-at", trained())]


def section(runs: Sequence[Run], title: str) -> str:
    """A section of the report in Markdown."""
    page = assemble(runs, seed=0)
    found = [part for part in page.sections if part.title == title]
    assert len(found) == 1, [part.title for part in page.sections]
    return markdown.render(replace(page, cards=(), sections=found))


def row(text: str, start: str) -> str:
    """The one line of a Markdown table that starts with this cell."""
    found = [line for line in text.splitlines() if line.startswith((f"| {start} |", f"| {start},"))]
    assert len(found) == 1, (start, found, text)
    return found[0]
