"""What `sparring reproduce` is asked to compare: its flags, made into arms before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sparring import systems
from sparring.commands.arms import PROBES, Entrant, Trial
from sparring.commands.changes import changed, known_only, replaced
from sparring.commands.flags import RUNS, say
from sparring.commands.recipes import starting_point
from sparring.commands.train import Where
from sparring.core.threat import ball
from sparring.engine.system import Changes, Control, Promise, Settings, System
from sparring.evaluation.suite import SUITES
from sparring.report.words import duration

ARMS = ("equal-epochs", "equal-time")
CONTROL = "control "
"""What the role of a control begins with; its label follows."""
MODELS = (("cifar10", "preact-resnet18"), ("cifar100", "preact-resnet18"))
"""The model of a data set, where it is not `small-conv`."""
INNER: tuple[tuple[str, Changes], ...] = (("mnist", (("steps", 5), ("eps_warmup", 0.3))),)
"""What the recipe of a data set changes in the inner problem of every arm that has the field: at Linf 0.3 a warm-up
keeps the first epochs from dying (docs/results.md)."""
ALIKE: Changes = (("precision", "32"), ("compile", "off"))
"""Both arms compute in the same way, whatever a stop-watch would have chosen for each."""


@dataclass(frozen=True)
class Flags:
    """Put the promise of a method to the test: train it and its baseline from the same seeds, with equal epochs and
    with equal wall-clock (the method's epochs are scaled by what its step costs), judge every run on the same test
    images, best and last checkpoint, and print the paired difference with its interval and one verdict: supported, not
    supported or inconclusive. Every part is kept under runs/reproduce: interrupted, the same command goes on where it
    stopped, and the runs of the baseline are shared between methods.

      sparring reproduce mixed-at --quick
      sparring reproduce pgd-at --with perturb=awp --arms equal-time
      sparring reproduce mixed-at --data cifar10 --seeds 3 --n 1000 --device cuda
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The method: a system of `sparring list`."""
    quick: bool = False
    """A first answer within minutes: few epochs on the digits, three seeds, the quick suite. An upper bound."""
    data: str | None = None
    """digits, mnist, cifar10, or anything else that train takes."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    size: int | None = None
    """Height and width that the images of a folder are brought to."""
    model: str | None = None
    """As for train; by default small-conv, and preact-resnet18 on CIFAR."""
    arms: tuple[str, ...] | None = None
    """equal-epochs, equal-time, or both: how long the method trains. The promise says which of them decides."""
    controls: tuple[str, ...] | None = None
    """Further arms of the promise to train, by label; none leaves them out. By default all, with --quick the few that
    the verdict needs."""
    seeds: int | None = None
    """Runs of each arm, from --seed on. One seed is always inconclusive."""
    epochs: int | None = None
    """Of the baseline; by default the recipe of the data set."""
    examples: int | None = None
    """Training images; 0 uses all."""
    suite: Literal["quick", "standard", "plus", "rand", "foundation"] | None = None
    """Attacks of the evaluation."""
    n: int | None = None
    """Test images; 0 uses all."""
    threat: Literal["linf", "l2", "l1"] | None = None
    """Norm of the ball that every arm is trained against and judged in; a method that trains against several norms is
    judged, as its baseline is, in their union."""
    eps: float | None = None
    """Radius of the ball in input units; by default customary on the data set."""
    method: tuple[str, ...] = ()
    """Fields of the method's own configuration, as key=value: steps=5 attack=fgsm."""
    method_training: Annotated[tuple[str, ...], tyro.conf.arg(aliases=("--with",))] = ()
    """Fields of how the method is trained, as key=value: perturb=awp ema=0.999."""
    config: tuple[str, ...] = ()
    """Fields of the configuration of every arm that has them, as key=value."""
    training: tuple[str, ...] = ()
    """Fields of how every arm is trained, as key=value: batch_size=128 precision=bf16."""
    baseline: str | None = None
    """The system it is held against; by default the one that the method names."""
    metric: Literal["robust accuracy", "clean accuracy", "overfitting gap"] | None = None
    """What decides; higher is better, but for the overfitting gap (robust accuracy of the best checkpoint minus that of
    the last)."""
    least_effect: float | None = None
    """By how much at least the method has to be better, as a share: 0.01 is a point; -0.01 allows a point of loss."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Of the copy that the evaluation's attacks look at. What they find is verified in float32."""
    run: Path = RUNS / "reproduce"
    """The folder that holds the runs and the answers."""
    seed: int = 0
    """The first seed."""
    json: bool = False
    """Print one JSON object on stdout: verdict, effect, arms, seeds, command."""


@dataclass(frozen=True)
class Plan:
    """What is compared, before anything is trained."""

    label: str
    promise: Promise
    settings: Settings
    method: Entrant
    baseline: Entrant
    controls: dict[str, Entrant]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    trial: Trial
    command: str

    @property
    def held_against(self) -> str:
        """The baseline, as a reader calls it."""
        return self.promise.baseline_label or self.baseline.system.name


def planned(flags: Flags, command: str) -> Plan:
    """Everything that can be wrong with a command line is found here, before anything runs."""
    system = systems.find(flags.name)
    promise = system.claim
    wanted = {name: getattr(flags, name) for name in ("data", "epochs", "seeds", "suite", "examples", "n")}
    chosen = promise.quick if flags.quick else promise.full
    settings = replace(chosen, **{name: value for name, value in wanted.items() if value is not None})
    for name, low in (("seeds", 1), ("n", 0), ("examples", 0)):
        if getattr(settings, name) < low:
            raise ValueError(f"The {name!r} parameter must be an int >= {low}. Got {getattr(settings, name)} instead.")
    if flags.least_effect is not None and not -1 < flags.least_effect < 1:
        raise ValueError(
            f"The 'least_effect' parameter must be a number in the range (-1, 1). Got {flags.least_effect!r} instead."
        )
    arms = tuple(part for words in flags.arms or settings.arms for part in words.split(",") if part)
    for arm in arms or ("",):
        if arm not in ARMS:
            raise ValueError(f"The 'arms' parameter must be equal-epochs, equal-time or both. Got {arm!r} instead.")
    arms = tuple(arm for arm in ARMS if arm in arms)
    method = _entrant(system, flags, settings, promise.config, promise.training, flags.method, flags.method_training)
    if flags.baseline not in (None, promise.baseline):
        # what the promise says of its own baseline is not about this one
        promise = replace(promise, baseline_config=(), baseline_training=(), baseline_label="")
    before = (promise.baseline_config, promise.baseline_training)
    baseline = _entrant(systems.find(flags.baseline or promise.baseline), flags, settings, *before, (), ())
    if method.digest() == baseline.digest() and flags.baseline is None:
        baseline = _entrant(systems.find("standard"), flags, settings, *before, (), ())
        promise = replace(promise, arm="equal-epochs")
    if method.digest() == baseline.digest():
        raise ValueError(
            f"The 'baseline' parameter must differ from the method. Got {flags.name!r} twice; change one of them with "
            "--baseline NAME, --method key=value or --with key=value."
        )
    promise = _asked(promise, flags, arms, baseline.system.name)
    controls = {
        control.label: _entrant(systems.find(control.system), flags, settings, control.config, control.training, (), ())
        for control in _controls(promise, flags, settings)
    }
    known_only(flags.config, (method.config, baseline.config, *(each.config for each in controls.values())), "config")
    norms, radii = _balls(method, baseline)
    n = settings.n // len(norms) if flags.quick and flags.n is None else settings.n  # quick stays quick in a union
    trial = Trial(settings.suite, n, norms, radii, flags.device, flags.precision, promise.measures)
    for norm, eps in zip(trial.norms, trial.eps, strict=True):
        dict(SUITES)[settings.suite](ball(norm, eps), 10)  # raises where the suite is not for this threat
    label = " ".join([flags.name, *flags.method, *flags.method_training])
    seeds = tuple(range(flags.seed, flags.seed + settings.seeds))
    return Plan(label, promise, settings, method, baseline, controls, arms, seeds, trial, command)


def _controls(promise: Promise, flags: Flags, settings: Settings) -> list[Control]:
    """The further arms to train. Raises ValueError for a label that the promise does not have."""
    known = [control.label for control in promise.controls]
    asked = settings.controls if flags.controls is None else flags.controls
    if asked is None:
        return list(promise.controls)
    for label in asked:
        if label not in known and asked != ("none",):
            raise ValueError(f"The 'controls' must be none, or of {', '.join(known) or 'none'}. Got {label!r} instead.")
    return [control for control in promise.controls if control.label in asked]


def _balls(method: Entrant, baseline: Entrant) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The norms and radii that both are judged in: the baseline's ball, or all of a method that trains against more."""
    ours, theirs = (e.system.threat(e.config).describe() for e in (method, baseline))
    members = ours.get("members") or [theirs]
    return tuple(one["norm"] for one in members), tuple(one["eps"] for one in members)


def _asked(promise: Promise, flags: Flags, arms: Sequence[str], baseline: str) -> Promise:
    """The promise with what the flags decide otherwise, and a question that says so."""
    asked = replace(promise, baseline=baseline)
    if flags.metric is not None:
        lower = flags.metric == "overfitting gap"
        asked = replace(asked, metric=flags.metric, direction="lower" if lower else "higher")
    if asked.arm not in arms:
        asked = replace(asked, arm="equal-time" if "equal-time" in arms else "equal-epochs")
    if asked != promise:
        spent = "wall-clock" if asked.arm == "equal-time" else "epochs"
        other = asked.baseline_label or baseline
        asked = replace(asked, question=f"At equal {spent}, is its {asked.metric} {asked.direction} than {other}'s?")
    return asked if flags.least_effect is None else replace(asked, least_effect=flags.least_effect)


def _entrant(
    system: System,
    flags: Flags,
    settings: Settings,
    config_changes: Changes,
    training_changes: Changes,
    config_words: Sequence[str],
    training_words: Sequence[str],
) -> Entrant:
    """A way to train, from the recipe of the data set, what the promise changes, what flags change for all arms, and
    what they change for this one."""
    default = system.config()
    threat = default.threat if default.threat == "union" or flags.threat is None else flags.threat
    config, training = starting_point(default, system.training, ["--data", settings.data, "--threat", threat])
    config = replaced(config, (*dict(INNER).get(settings.data, ()), *config_changes))
    if flags.eps is not None:
        config = replace(config, eps=flags.eps)
    config = changed(config, [word for word in flags.config if hasattr(config, word.partition("=")[0])], "config")
    config = changed(config, config_words, "method")
    device: Changes = (("device", flags.device), ("examples", settings.examples))
    epochs: Changes = () if settings.epochs is None else (("epochs", settings.epochs),)
    training = replaced(training, (*ALIKE, *device, *epochs, *training_changes))
    training = changed(changed(training, flags.training, "training"), training_words, "method-training")
    model = flags.model or dict(MODELS).get(settings.data, "small-conv")
    where = Where(data=settings.data, data_root=flags.data_root, size=flags.size, model=model)
    return Entrant(system, config, training, where, flags.run)


def entrants_of(plan: Plan) -> dict[str, Entrant]:
    """The baseline and the method's arms, by name. Equal time is the baseline's epochs times its step's cost over that
    of the method's step, each measured against standard training."""
    found = {"baseline": plan.baseline}
    epochs = plan.baseline.training.epochs
    for arm in plan.arms:
        scaled = epochs
        if arm == "equal-time":
            ours, theirs = (e.price(plan.command)["step_ratio"] for e in (plan.method, plan.baseline))
            scaled = max(1, round(epochs * theirs / ours))
        found[arm] = replace(plan.method, training=replace(plan.method.training, epochs=scaled))
    return found | {f"{CONTROL}{label}": entrant for label, entrant in plan.controls.items()}


def announce(plan: Plan, entrants: dict[str, Entrant]) -> None:
    """What is about to be done, and how long it will take here."""
    folders = {e.folder(seed): e for seed in plan.seeds for e in entrants.values()}
    left = [(f, e) for f, e in folders.items() if not (f / "best.safetensors").exists() or not list(f.glob("judged-*"))]
    say(f"{plan.promise.question} {plan.label} against {plan.held_against} on {plan.settings.data}")
    if not left:
        return
    training = testing = 0.0
    suites = [
        dict(SUITES)[plan.trial.suite](ball(*one), 10) for one in zip(plan.trial.norms, plan.trial.eps, strict=True)
    ]
    passes = sum(challenge.forwards for suite in suites for challenge in suite.challenges)  # of what stands to the end
    for _, entrant in left:
        outer, price = entrant.training, entrant.price(plan.command, PROBES if "equal-time" in plan.arms else 1)
        kept = outer.examples or price["rows"] * (1 - outer.validation)
        one = price["seconds"] / outer.batch_size / price["step_ratio"]  # seconds of a gradient on one image
        validation = kept * outer.validation * (outer.validation_steps + 1) * one
        training += outer.epochs * (kept / outer.batch_size * price["seconds"] + validation)
        testing += one * (plan.trial.n or 10_000) * passes  # two checkpoints, of which about half stands
    say(
        f"{len(left)} runs to do, expected here: about {duration(training)} of training and {duration(testing)} of "
        "attacks on the test images"
    )
