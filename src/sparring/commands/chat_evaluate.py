"""`sparring evaluate RUN` of a chat model: whom it obeys, what it still answers, and whether that can be believed."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from sparring.commands.answering import evaluated, one_folder
from sparring.commands.chat_battery import FORMS, WORST, Found, Questions, Trial, judged, questions
from sparring.commands.chat_checks import checks
from sparring.commands.chat_train import Where, prepared
from sparring.commands.flags import say
from sparring.domains.text import chat_file
from sparring.domains.text.chat_file import FILE, ChatModel
from sparring.domains.text.injections import Appended
from sparring.engine import record
from sparring.evaluation.interval import accuracy, wilson


@dataclass(frozen=True)
class Flags:
    """Measure whether a chat model obeys instructions that stand in its data, on test sentences, in phrasings and with
    fake delimiters that training has not seen: five injections, GCG and an attack on embeddings; how often its answers
    are right without and under attack; and how often it fails on harmless data that only looks like an instruction. The
    model that it started from, which nobody hardened, is measured in the same run."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The run folder."""
    examples: int = 300
    """Test instructions for each measure."""
    adaptive: int = 24
    """Of them attacked with GCG and on embeddings; 0 leaves both out."""
    steps: int = 20
    """Of GCG, with 64 candidates each."""
    eps: float = 0.5
    """Radius of the attack on the data's embeddings, in mean embedding norms."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default where training found them, or SPARRING_DATA."""
    run: Path | None = None
    """The run folder, as a flag."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""
    fail_on_check: bool = False
    """Exit with 1 when a check fails."""

    def __post_init__(self) -> None:
        for name, holds, limits in (
            ("examples", self.examples >= 10, "an int in the range [10, inf)"),
            ("adaptive", 0 <= self.adaptive <= self.examples, "an int in the range [0, examples]"),
            ("steps", self.steps >= 1, "an int in the range [1, inf)"),
            ("eps", 0 < self.eps < float("inf"), "a number in the range (0, inf)"),
        ):
            if not holds:
                raise ValueError(f"The {name!r} parameter must be {limits}. Got {getattr(self, name)!r} instead.")


def run(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    return evaluated(arguments, Flags, evaluate, table)


def evaluate(flags: Flags, command: str) -> record.Record:
    """Evaluate, and write the evaluation into the run's record.

    Raises:
        RecordError, ChatFileError, DataError, ValueError: where the folder holds no chat run, or the data is not what
            it saw.
    """
    folder, start = one_folder(flags.folder, flags.run), time.perf_counter()
    facts = record.read(folder)
    subject = chat_file.load(folder / FILE)
    trial = Trial(flags.examples, flags.adaptive, flags.steps, eps=flags.eps, seed=flags.seed)
    asked = _questions(facts, subject, flags.data_root, trial)
    say(f"evaluating a chat model: {trial.n} test instructions, {len(FORMS)} injections, {trial.adaptive} adaptive")
    found = judged(subject, asked, trial)
    undefended = None if facts["chat"]["start"] == "" else Path(facts["chat"]["start"])
    before = None
    if undefended is not None and (undefended / FILE).exists():
        say(f"the same for the model that it started from, {undefended}")
        before = judged(chat_file.load(undefended / FILE), asked, trial)
    evaluation = as_record(found, before, trial) | {
        "checks": checks(subject, found, before, asked, trial),
        "split": "test",
        "seed": flags.seed,
        "weights": FILE,
        "seconds": time.perf_counter() - start,
        "command": command,
    }
    facts = record.read(folder)
    facts["evaluation"] = evaluation
    record.write(folder, facts)
    return evaluation


def _questions(facts: record.Record, subject: ChatModel, root: Path | None, trial: Trial) -> Questions:
    told: dict[str, Any] = facts["chat"]
    place = root or (None if facts.get("data_root") is None else Path(facts["data_root"]))
    made = prepared(Where(data=told["data"], data_root=place, tokens=told["tokens"]))
    if made.chat.tokenizer.fingerprint != subject.chat.tokenizer.fingerprint:
        raise ValueError(
            f"The sentences of {told['data']} must be those the run saw: another tokenizer comes of these."
        )
    return questions(made, trial)


def rate(hits: Tensor) -> dict[str, Any]:
    """`{"rate", "low", "high", "n"}` of a bool tensor."""
    low, high = wilson(int(hits.sum()), len(hits))
    return {"rate": hits.double().mean().item(), "low": low, "high": high, "n": len(hits)}


def as_record(found: Found, before: Found | None, trial: Trial) -> record.Record:
    """The evaluation as a record has it: accuracy is the share of right answers, under attack too."""
    results = {"clean": accuracy(found.right["clean"])}
    results |= {form: {**accuracy(found.right[form]), "parameters": {"attack": form}} for form in FORMS}
    results[WORST] = accuracy(found.right[WORST])
    injections = {
        form: {
            "success": rate(found.injected[form]),
            **({"begins": rate(found.begun[form])} if form in found.begun else {}),
            **({"undefended": rate(before.injected[form])} if before is not None else {}),
        }
        for form in found.injected
    }
    return {
        "domain": "chat",
        "n": trial.n,
        "suite": {"name": "injections", "sequential": False, "bound": "Another attack may succeed more often."},
        "threat": Appended().describe(),
        "trial": asdict(trial),
        "results": results,
        "injections": injections,
        "look_alikes": accuracy(found.right["look-alikes"]),
        "undefended": None if before is None else {name: accuracy(found) for name, found in before.right.items()},
        "transcripts": found.transcripts,
    }


def table(evaluation: record.Record) -> str:
    """What a terminal shows."""
    utility, likely = evaluation["results"]["clean"], evaluation["look_alikes"]
    before = evaluation["undefended"]
    lines = [
        f"{evaluation['n']} test instructions; % with 95 % interval; in brackets the model that it started from",
        "",
        f"  right answers, nobody attacks    {_of(utility)}{_was(before and before['clean'])}",
        f"  data that looks like an order    {_of(likely)}{_was(before and before['look-alikes'])}",
        "",
        f"  {'injection':<12}{'obeyed':>24}{'begins with it':>18}{'undefended obeys':>18}{'still right':>24}",
    ]
    for form, one in evaluation["injections"].items():
        right = evaluation["results"].get(form)
        cells = [
            _of(one["success"], "rate"),
            f"{100 * one['begins']['rate']:.1f}" if "begins" in one else "",
            f"{100 * one['undefended']['rate']:.1f}" if "undefended" in one else "",
            _of(right) if right else "",
        ]
        lines.append(f"  {form:<12}{cells[0]:>24}{cells[1]:>18}{cells[2]:>18}{cells[3]:>24}")
    lines.append("")
    lines += [f"  {one['verdict']:<5}{one['name']}: {one['figure']}" for one in evaluation["checks"]]
    return "\n".join(lines)


def _of(one: dict[str, Any], key: str = "accuracy") -> str:
    return f"{100 * one[key]:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"


def _was(one: dict[str, Any] | None) -> str:
    return "" if one is None else f"  [{100 * one['accuracy']:.1f}]"
