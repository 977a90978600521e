"""One file, one method, one game: `ls systems` is the table of contents, `NAMES` the same list for a command line."""

import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from sparring.engine.system import System

NAMES = (
    ("standard", "no adversary: the baseline of every comparison"),
    ("pgd-at", "train on the worst input PGD (or FGSM) finds in a ball (Madry et al. 2018)"),
    ("mixed-at", "train on clean and adversarial inputs together, by sum or by share (Goodfellow et al. 2015)"),
    ("fgsm-rs", "train on one FGSM step from a random start (Wong et al. 2020)"),
    ("n-fgsm", "train on one FGSM step from strong noise, not clipped to the ball (de Jorge et al. 2022)"),
    ("gradalign", "train on FGSM and align the input gradients in the ball (Andriushchenko & Flammarion 2020)"),
    ("free-at", "replay each batch, one backward pass for weights and attack (Shafahi et al. 2019)"),
    ("trades", "fit the clean inputs, and let no input near them get another answer (Zhang et al. 2019)"),
    ("mart", "adversarial training with more weight on what is wrong when clean (Wang et al. 2020)"),
    ("hat", "TRADES with helper examples labelled by a standard network (Rade & Moosavi-Dezfooli 2022)"),
    ("multi-norm", "train against Linf, L2 and L1 balls at once (Tramer & Boneh 2019; Maini et al. 2020)"),
    ("interval", "train on a bound of the worst loss: robustness that can be certified (Gowal et al. 2018)"),
    ("saliency-guided", "mask the least salient input, keep the answer (Ismail et al. 2021; Guesmi et al. 2024)"),
    ("s2o", "adversarial training that keeps second-order statistics of the weights small (Jin et al. 2022, 2025)"),
    ("egat", "adversarial training whose explanations have to stand as well (Chen et al. 2026, reconstructed)"),
    ("ddos", "detectors of denial of service against attackers who send only feasible flows (survey 2025, CAPGD 2024)"),
    ("nids-ensemble", "a stack of classifiers, then an autoencoder for what it lets pass (Soltani et al. 2025)"),
    ("text-at", "texts: FGM, PGD, FreeLB, VAT, SMART on embeddings, A2T and ASCC on words, IBP with certificates"),
    ("moderation", "filters of harmful texts that paraphrase, misspelling and benign append do not talk out of it"),
    ("prompt-injection", "chat models that treat instructions in their data as data (StruQ, SecAlign 2024)"),
)


class UnknownNameError(ValueError):
    """A name that is in no list, with the nearest one that is."""


def find(name: str) -> "System":
    """The system of this name. Raises UnknownNameError, suggesting the nearest name."""
    names = [known for known, _ in NAMES]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"The system must be one of {', '.join(names)}. Got {name!r} instead.{hint}")
    system: System = importlib.import_module(f"sparring.systems.{name.replace('-', '_')}").SYSTEM
    return system


def __getattr__(name: str) -> "ModuleType":
    """`sparring.systems.pgd_at` without importing every other method first."""
    if name.replace("_", "-") in dict(NAMES):
        return importlib.import_module(f"sparring.systems.{name}")
    raise AttributeError(f"module 'sparring.systems' has no attribute {name!r}")
