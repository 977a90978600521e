"""`sparring reproduce text-at`: ten ways to train a classifier of texts, under the worst of several attacks on them.

Every arm is the same model from the same seeds, trained for the same epochs, attacked on the same test texts. The
verdict is about PGD on embeddings: it has to beat standard training, and NEFTune's noise, which is no adversary, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparring.commands.answering import reproduced, write_claim
from sparring.commands.arms import digest
from sparring.commands.flags import RUNS, say
from sparring.commands.text_arms import WORST, Contest, Sizes, arm, figures, lines
from sparring.commands.text_battery import Budget
from sparring.commands.text_material import Where, prepared
from sparring.engine.system import Changes
from sparring.evaluation.claim import Arm, Claim, Verdict, verdict
from sparring.evaluation.claim_table import points

ARMS: tuple[tuple[str, Changes, str], ...] = (
    ("standard", (("method", "none"),), ""),
    ("neftune", (("method", "neftune"),), ""),
    ("fgm", (("method", "fgm"),), "neftune"),
    ("pgd", (("method", "pgd"),), "neftune"),
    ("freelb", (("method", "freelb"),), "neftune"),
    ("smart", (("method", "smart"),), "neftune"),
    ("random-sub", (("method", "random-substitution"),), ""),
    ("a2t", (("method", "a2t"),), "random-sub"),
    ("ascc", (("method", "ascc"),), "random-sub"),
    ("ibp", (("method", "ibp"),), "random-sub"),
)
"""The arms: a name, what differs from the default configuration, and the control that it is held against beside
standard training."""
QUICK = ("standard", "neftune", "pgd", "random-sub", "a2t", "ibp")
"""Those of `--quick`."""


@dataclass(frozen=True)
class Flags:
    """Train a small classifier of texts in ten ways, with and without an adversary, attack the same test texts by
    exchanged words, misspellings and appended words, and say whether training against moved embeddings keeps more of
    them under the worst of these than standard training and than noise. Kept under runs/reproduce: interrupted, the
    same command goes on where it stopped.

      sparring reproduce text-at --quick
      sparring reproduce text-at --seeds 5 --model cnn
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """text-at."""
    quick: bool = False
    """A first answer within minutes: three seeds, six of the arms, four epochs, 1,500 training and 40 test texts."""
    data: str = "sst2"
    """A data set as for train."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    neighbours: str = "ppdb"
    """Substitutes as for train."""
    model: str = "cnn"
    """cnn or bow; transformer leaves out ibp, for which it has no bounds."""
    arms: tuple[str, ...] = ()
    """Only these arms; standard, neftune and pgd, which the verdict is about, are always among them."""
    seeds: int | None = None
    """Runs of each arm, from --seed on; 5 by default."""
    epochs: int | None = None
    """Of every arm; 5 by default."""
    examples: int | None = None
    """Training texts; 1,500 by default, 0 uses all."""
    n: int | None = None
    """Test texts to attack, drawn by the seed; 100 by default."""
    words: float = 0.2
    """Share of a text's words that may be exchanged, and misspelt."""
    append: int = 9
    """Harmless words behind it, at most."""
    run: Path = RUNS / "reproduce"
    """The folder that holds the runs and the answers."""
    seed: int = 0
    """The first seed."""
    json: bool = False
    """Print one JSON object on stdout: verdict, effect, arms, seeds, command."""


def run(arguments: Sequence[str]) -> int:
    """Reproduce, print, and return the exit code, 0 whatever the verdict."""
    return reproduced(arguments, Flags, reproduce, text)


def reproduce(flags: Flags, command: str) -> dict[str, Any]:
    """Train and attack what is not there yet; the answer, also written to `RUN/text-at/claim-DATA-HASH.json`."""
    sizes = (Sizes(3, 4, 1500, 40) if flags.quick else Sizes(5, 5, 1500, 100)).changed(flags)
    where = Where(data=flags.data, data_root=flags.data_root, model=flags.model, neighbours=flags.neighbours)
    budget = Budget(words=flags.words, characters=flags.words, most=where.most, append=flags.append, genetic=False)
    made = prepared(where, "text-at")
    contest = Contest("text-at", where, sizes, budget, flags.run, made, command)
    arms = chosen(flags)
    seeds = range(flags.seed, flags.seed + sizes.seeds)
    say(f"{len(arms)} arms, {len(seeds)} seeds on {made.data.name}, model {flags.model}")
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name, _, _ in arms}
    for seed in seeds:
        for name, changes, _ in arms:
            found[name][seed] = contest.judged(name, changes, seed)
    answer = _answer(found, flags, contest, command)
    asked = digest(
        [asdict(sizes), asdict(budget), flags.model, flags.neighbours, list(seeds), [each[0] for each in arms]]
    )
    write_claim(flags.run / "text-at" / f"claim-{Path(flags.data).name}-{asked}.json", answer)
    return answer


def chosen(flags: Flags) -> list[tuple[str, Changes, str]]:
    """The arms that the flags ask for. Raises ValueError for one that does not exist."""
    known = [name for name, _, _ in ARMS]
    if unknown := [name for name in flags.arms if name not in known]:
        raise ValueError(f"The 'arms' parameter must be some of {', '.join(known)}. Got {unknown[0]!r} instead.")
    wanted = {"standard", "neftune", "pgd", *flags.arms} if flags.arms else set(QUICK if flags.quick else known)
    if flags.model == "transformer":
        wanted -= {"ibp"}
    return [each for each in ARMS if each[0] in wanted]


def _answer(
    found: Mapping[str, Mapping[int, Mapping[str, Any]]], flags: Flags, contest: Contest, command: str
) -> dict[str, Any]:
    arms = {name: arm(name, by_seed) for name, by_seed in found.items()}
    controls = {name: control for name, _, control in ARMS}
    rows: list[dict[str, Any]] = []
    for name, by_seed in found.items():
        row: dict[str, Any] = {"name": name, "figures": figures(by_seed), "doubts": list(arms[name].doubts)}
        if name != "standard":
            one = against(arms, name, "standard")
            row |= {"verdict": one.verdict, "effect": one.effect}
        if controls[name] in arms:
            row["control"] = {"name": controls[name], **_told(against(arms, name, controls[name]))}
        rows.append(row)
    answer, control = against(arms, "pgd", "standard"), against(arms, "pgd", "neftune")
    final = answer.verdict if answer.verdict != "supported" else control.verdict
    facts = {"data": flags.data, "model": flags.model, "budget": asdict(contest.budget), **asdict(contest.sizes)}
    effect = {**answer.effect, **facts, "against the control": _told(control)}
    return {"verdict": final, "effect": effect, "arms": rows, "seeds": sorted(found["standard"]), "command": command}


def against(arms: Mapping[str, Arm], method: str, baseline: str) -> Verdict:
    """Whether a method keeps more texts under the worst attack than another way to train."""
    question = f"Does {method} keep more texts under the worst of the attacks than {baseline}?"
    return verdict(Claim(method, question, arms[method], arms[baseline], WORST))


def _told(one: Verdict) -> dict[str, Any]:
    return {"verdict": one.verdict, **{key: one.effect[key] for key in ("difference", "low", "high")}}


def text(answer: Mapping[str, Any]) -> str:
    """The answer as a terminal shows it: shares in percent, means over seeds with their standard errors."""
    effect = answer["effect"]
    found = [
        effect["question"],
        f"{effect['data']}, {effect['model']}; {effect['n']} test texts, seeds {', '.join(map(str, answer['seeds']))}; "
        "accuracy in % (standard error over seeds); worst: of the attacks on the text",
        "",
        *lines(answer["arms"]),
        "",
    ]
    for row in answer["arms"][1:]:
        control = row.get("control")
        beside = "" if control is None else f"; minus {control['name']} {points(control)}, {control['verdict']}"
        found.append(f"  {row['name']} minus standard, worst: {points(row['effect'])} points, {row['verdict']}{beside}")
    found += [
        f"  doubtful, checks failed: {row['name']} {', '.join(row['doubts'])}"
        for row in answer["arms"]
        if row["doubts"]
    ]
    return "\n".join([*found, "", f"verdict: {answer['verdict']} (pgd has to beat standard and neftune)"])
