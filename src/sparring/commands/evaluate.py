"""`sparring evaluate RUN`: measure how robust a model is, on the test set, and write it into its record."""

import importlib
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from safetensors.torch import save

from sparring import systems
from sparring.commands import beyond
from sparring.commands.beyond import Inputs
from sparring.commands.flags import parse, say
from sparring.commands.progress import progress
from sparring.commands.target import Target, from_run, from_weights, threats_of
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.engine import checkpoint, record
from sparring.engine.device import resolve
from sparring.engine.ledger import Ledger
from sparring.engine.machines import Machines, Team, launch, together
from sparring.engine.rank import first
from sparring.evaluation.evaluate import Evaluation, evaluate
from sparring.evaluation.fast import brain16, fastest
from sparring.evaluation.suite import SUITES, Suite
from sparring.evaluation.table import beyond as beyond_table

EXAMPLES = "examples.safetensors"
OUTCOMES = "outcomes.safetensors"
MAPS = "explanations.safetensors"
PRECISIONS = (("auto", fastest), ("32", None), ("bf16", brain16))
PARTIAL = ".evaluation"
"""Where the parts of an unfinished evaluation are, inside the run folder."""


@dataclass(frozen=True)
class Flags:
    """Measure how robust a model is on its test set and write the result into its record: a run folder that Sparring
    trained, or your own model with --model, --weights and --data. Interrupted, it goes on where it stopped when the
    same command is given again."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The run folder."""
    run: Path | None = None
    """The run folder, as a flag; for a model of your own, where to write."""
    suite: Literal["quick", "standard", "plus", "rand", "foundation"] = "quick"
    """quick: a minute on a laptop for small images, an upper bound. standard: AutoAttack's protocol, the field's
    number. plus: more restarts. rand: for models that answer at random. foundation: PGD, each attack on every image."""
    examples: int = 1000
    """Test images to use, drawn by the seed; 0 uses all."""
    threat: tuple[Literal["linf", "l2", "l1"], ...] = ()
    """Norms of the balls; several also give the accuracy under their union. By default the one trained against."""
    eps: tuple[float, ...] = ()
    """A radius in input units for each norm; by default the one trained against, or customary on the data set."""
    weights: str = "best"
    """best or last of a run; or the .safetensors file of --model."""
    model: str | None = None
    """package.module:factory of your own model."""
    data: str | None = None
    """The data set of a model of your own, as for train."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default where training found them, or SPARRING_DATA."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Of the copy that attacks look at: auto measures which is fastest here. What they find is verified in float32."""
    certify: bool = False
    """Also certified accuracy: what no Linf attack can break, proved by bounds on the logits; beside the empirical."""
    shift: bool = False
    """Also fifteen corruptions at five severities."""
    reference: Path | None = None
    """A run evaluated with --shift, for the mean corruption error."""
    unseen: bool = False
    """Also threat models of other kinds: other norms, patch, frame, rotation, flow, colour."""
    outside: str | None = None
    """Also how well confidence tells the images of this other data set apart; auto picks one."""
    explain: bool = False
    """Also saliency, integrated gradients and Grad-CAM, how faithful and how stable (needs the extra 'explain')."""
    surrogate: Path | None = None
    """Another run on the same data: checks that nothing transfers from it."""
    abstain: int | None = None
    """The output by which the model refuses to answer, if it has one."""
    batch_size: int = 256
    """Images at a time; halved where memory is too small."""
    devices: int | None = None
    """Processes that evaluate together, one for each GPU; by default as many as torchrun started, without it one. The
    result is that of one process, example by example."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    seed: int = 0
    """Of every random start."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""
    fail_on_check: bool = False
    """Exit with 1 when a check fails."""


EVALUATIONS: tuple[tuple[str, str], ...] = (
    ("flow", "flow_evaluate"),
    ("text", "text_evaluate"),
    ("chat", "chat_evaluate"),
)
"""Domains other than images, and the module of each that evaluates its runs."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    if (domain := _domain(arguments)) in dict(EVALUATIONS):
        code: int = importlib.import_module(f"sparring.commands.{dict(EVALUATIONS)[domain]}").run(arguments)
        return code
    flags = parse(Flags, arguments, prog="sparring evaluate", description=Flags.__doc__ or "")
    command = shlex.join(["sparring", "evaluate", *arguments])
    target = target_of(flags, command) if first() else None
    team = launch(Machines(devices=flags.devices), resolve(flags.device))
    with together(team, "continues the evaluation"):
        folder = team.broadcast(None if target is None else target.folder)
        target = target or _same(folder, flags, command)
        result, extra = evaluate_target(target, flags, command, team)
    if not team.first:
        return 0
    if flags.json:
        print(json.dumps({**result.as_dict(), **extra}, allow_nan=False))
    else:
        print("\n\n".join(part for part in (str(result), beyond_table(extra)) if part))
    each = (result, *result.others)
    failed = [check["name"] for one in each for check in one.checks if check["verdict"] == "fail"]
    return 1 if flags.fail_on_check and failed else 0


def _domain(arguments: Sequence[str]) -> str:
    """The domain of the run among the arguments; of images where there is none, or a bad one, which is told later."""
    for argument in arguments:
        if not argument.startswith("-") and (Path(argument) / record.FILE).exists():
            with suppress(ValueError):
                return systems.find(record.read(Path(argument))["system"]).domain
    return "image"


def _same(folder: Path, flags: Flags, command: str) -> Target:
    """What the first process points at, for the others, which make no folder."""
    if flags.weights in ("best", "last"):
        return target_of(flags, command)
    return from_run(folder, model=flags.model, weights="best", data_root=flags.data_root)


def target_of(flags: Flags, command: str) -> Target:
    """What the flags point at."""
    if flags.weights in ("best", "last"):
        folder = flags.folder or flags.run
        if folder is None or (flags.folder and flags.run and flags.folder != flags.run):
            raise ValueError(
                "evaluate needs one run folder (sparring evaluate RUN, or --run RUN), or a model of your own: "
                "--model package.module:factory --weights file.safetensors --data NAME."
            )
        return from_run(folder, model=flags.model, weights=flags.weights, data_root=flags.data_root)
    if flags.model is None or flags.data is None or flags.folder is not None:
        raise ValueError(
            "A weights file needs its model and its data, and no run folder: --model package.module:factory "
            "--weights file.safetensors --data NAME."
        )
    return from_weights(
        flags.model, flags.weights, flags.data,
        data_root=flags.data_root, folder=flags.run, seed=flags.seed, command=command,
    )  # fmt: skip


def evaluate_target(
    target: Target, flags: Flags, command: str, team: Team | None = None
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a target, write the evaluation into its record, and return it with its parts beyond the ball.

    Every process of a team calls this and returns the same; the first one writes.
    """
    if flags.examples < 0:
        raise ValueError(
            f"The 'examples' parameter must be an int in the range [0, inf). Got {flags.examples} instead."
        )
    threats = threats_of(target, flags.threat, flags.eps)
    device = torch.device(resolve(flags.device)) if team is None else team.device
    shared = team if team is not None and team.world > 1 else None
    writes = team is None or team.first
    rows = _drawn(len(target.data.test), flags.examples, flags.seed)
    x, y = target.data.test.take(rows)
    say(f"evaluating {len(y)} test images of {target.data.name} on {device}, suite {flags.suite}")
    surrogate = None
    if flags.surrogate is not None:
        surrogate = from_run(flags.surrogate, model=None, weights="best", data_root=flags.data_root).model.to(device)
    ledger = Ledger(target.folder / PARTIAL)
    if ledger.folder.exists():
        say("going on with what an interrupted evaluation left, where it was the same one")
    with progress("evaluating", silent=not writes) as advance:
        result = evaluate(
            target.model.to(device),
            (x.to(device), y.to(device)),
            threat=threats,
            suite=dict[str, Callable[[Threat, int], Suite]](SUITES)[flags.suite],
            seed=flags.seed,
            batch_size=flags.batch_size,
            abstain=flags.abstain,
            surrogate=surrogate,
            view=dict(PRECISIONS)[flags.precision],
            ledger=ledger,
            advance=advance,
            certify=flags.certify,
            team=shared,
        )
        attacked = (x.to(device), y.to(device), result.z)
        examples = Inputs(target, *attacked, flags.seed, flags.batch_size, advance, shared, rows)
        extra = _beyond(examples, flags, writes=writes)
    if not writes:
        return result, extra
    checkpoint.write(target.folder / EXAMPLES, save(result.examples))
    checkpoint.write(target.folder / OUTCOMES, save({"rows": rows, **_outcomes(result)}))
    facts = record.read(target.folder)
    facts["evaluation"] = {
        **result.as_dict(),
        **extra,
        "split": "test",
        "seed": flags.seed,
        "weights": flags.weights,
        "command": command,
    }
    record.write(target.folder, facts)
    ledger.clear()
    return result, extra


def _outcomes(result: Evaluation) -> dict[str, torch.Tensor]:
    """Which examples stand, by attack; those of further threat models as `NORM/ATTACK`."""
    further = {f"{e.threat['norm']}/{name}": right for e in result.others for name, right in e.outcomes.items()}
    return {**result.outcomes, **further}


def _beyond(inputs: Inputs, flags: Flags, *, writes: bool) -> dict[str, Any]:
    """The parts beyond the ball that the flags ask for, as the record has them."""
    found: dict[str, Any] = {"temperature": beyond.temperature_scaled(inputs)}
    if flags.unseen:
        trained = inputs.target.trained if inputs.target.adversarial else None
        found["unseen"] = beyond.other_threats(inputs, trained["norm"] if trained else None)
    if flags.shift or flags.reference is not None:
        found["shift"] = beyond.corrupted(inputs, flags.reference)
    if flags.outside is not None:
        found["outside"] = beyond.another_data_set(inputs, flags.outside, flags.data_root)
    if flags.explain:
        explained = beyond.explained(inputs)
        if writes:
            checkpoint.write(inputs.target.folder / MAPS, save(explained.maps))
        found["explanations"] = explained.as_dict()
    return found


def _drawn(total: int, count: int, seed: int) -> torch.Tensor:
    """Rows of the test set in their order: the first ones would be one class in a folder sorted by class."""
    if not 0 < count < total:
        return torch.arange(total)
    chance = torch.Generator().manual_seed(derive(seed, "test images"))
    return torch.randperm(total, generator=chance)[:count].sort().values
