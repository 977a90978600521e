"""`sparring reproduce moderation`: filters of harmful texts under attack, at the same rate of false alarms.

Every arm is trained from the same seeds, its threshold fixed on the same benign texts that no weight has seen, and the
same harmful test texts are attacked. The words that the attacker appends are none of those that training appended.
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

ARMS: tuple[tuple[str, Changes], ...] = (
    ("standard", (("adversary", "none"), ("swap", 0.0))),
    ("swap", (("adversary", "none"),)),
    ("embedding", (("adversary", "embedding"),)),
    ("tricks", (("adversary", "tricks"),)),
    ("both", ()),
)
"""Standard training, exchanged terms alone (the control: no adversary), each half of the adversary, and both."""


@dataclass(frozen=True)
class Flags:
    """Train filters of harmful texts, with and without an adversary that paraphrases, misspells and appends harmless
    words, fix each threshold on benign texts held out, attack the harmful test texts, and say whether training against
    the adversary wins detection back at the same rate of false alarms. Kept under runs/reproduce: interrupted, the same
    command goes on where it stopped.

      sparring reproduce moderation --quick
      sparring reproduce moderation --data tweeteval-offensive
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """moderation."""
    quick: bool = False
    """A first answer within minutes: three seeds, few epochs, 1,500 training and 40 test texts."""
    data: str = "davidson"
    """A data set as for train."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    neighbours: str = "ppdb"
    """Substitutes as for train."""
    model: str = "cnn"
    """transformer, bow or cnn."""
    folding: bool = False
    """Undo look-alike letters before every arm's tokenizer reads a text; the attacks see it."""
    false_positives: float = 0.05
    """Share of held-out benign texts that may be flagged."""
    seeds: int | None = None
    """Runs of each arm, from --seed on; 5 by default."""
    epochs: int | None = None
    """Of every arm; 4 by default."""
    examples: int | None = None
    """Training texts; 3,000 by default, 0 uses all."""
    n: int | None = None
    """Harmful test texts to attack, drawn by the seed; 150 by default."""
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
    """Train and attack what is not there yet; the answer, also written to `RUN/moderation/claim-DATA-HASH.json`."""
    sizes = (Sizes(3, 3, 1500, 40) if flags.quick else Sizes(5, 4, 3000, 150)).changed(flags)
    where = Where(
        data=flags.data, data_root=flags.data_root, model=flags.model, neighbours=flags.neighbours,
        folding=flags.folding, false_positives=flags.false_positives,
    )  # fmt: skip
    budget = Budget(words=flags.words, characters=flags.words, most=where.most, append=flags.append, genetic=False)
    made = prepared(where, "moderation")
    contest = Contest("moderation", where, sizes, budget, flags.run, made, command)
    seeds = range(flags.seed, flags.seed + sizes.seeds)
    say(f"{len(ARMS)} arms, {len(seeds)} seeds on {made.data.name}, model {flags.model}")
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name, _ in ARMS}
    for seed in seeds:
        for name, changes in ARMS:
            found[name][seed] = contest.judged(name, changes, seed)
    answer = _answer(found, flags, contest, command)
    asked = digest([asdict(sizes), asdict(budget), flags.model, flags.neighbours, flags.folding, list(seeds)])
    write_claim(flags.run / "moderation" / f"claim-{Path(flags.data).name}-{asked}.json", answer)
    return answer


def _answer(
    found: Mapping[str, Mapping[int, Mapping[str, Any]]], flags: Flags, contest: Contest, command: str
) -> dict[str, Any]:
    arms = {name: arm(name, by_seed) for name, by_seed in found.items()}
    rows: list[dict[str, Any]] = []
    for name, by_seed in found.items():
        row: dict[str, Any] = {"name": name, "figures": figures(by_seed), "doubts": list(arms[name].doubts)}
        if name != "standard":
            one = against(arms, name, "standard")
            row |= {"verdict": one.verdict, "effect": one.effect}
        rows.append(row)
    answer, control = against(arms, "both", "standard"), against(arms, "both", "swap")
    final = answer.verdict if answer.verdict != "supported" else control.verdict
    facts: dict[str, Any] = {"data": flags.data, "model": flags.model, "false positives": flags.false_positives}
    facts |= {"folding": flags.folding, "budget": asdict(contest.budget), **asdict(contest.sizes)}
    effect = {**answer.effect, **facts, "against the control": {"verdict": control.verdict, **control.effect}}
    return {"verdict": final, "effect": effect, "arms": rows, "seeds": sorted(found["standard"]), "command": command}


def against(arms: Mapping[str, Arm], method: str, baseline: str) -> Verdict:
    """Whether a way to train detects more harmful texts under the worst attack than another."""
    question = f"At equal false alarms, does {method} detect more under the worst of the attacks than {baseline}?"
    return verdict(Claim(method, question, arms[method], arms[baseline], WORST))


def text(answer: Mapping[str, Any]) -> str:
    """The answer as a terminal shows it: shares in percent, means over seeds with their standard errors."""
    effect = answer["effect"]
    found = [
        effect["question"],
        f"{effect['data']}, {effect['model']}, thresholds at {effect['false positives']:.0%} false alarms on benign "
        f"texts held out; {effect['n']} harmful test texts, seeds {', '.join(map(str, answer['seeds']))}; detection in "
        "% (standard error over seeds); worst: of the attacks on the text",
        "",
        *lines(answer["arms"]),
        "",
    ]
    for row in answer["arms"][1:]:
        found.append(f"  {row['name']} minus standard, worst: {points(row['effect'])} points, {row['verdict']}")
    found.append(f"  both minus swap, the control: {points(effect['against the control'])} points")
    found += [
        f"  doubtful, checks failed: {row['name']} {', '.join(row['doubts'])}"
        for row in answer["arms"]
        if row["doubts"]
    ]
    return "\n".join([*found, "", f"verdict: {answer['verdict']} (both has to beat standard and swap)"])
