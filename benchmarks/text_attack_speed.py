"""Word substitution beside TextAttack's: examples a second and success, on one small model, in one process.

    SPARRING_DATA=... python benchmarks/text_attack_speed.py [--data sst2] [--model transformer] [--texts 500]

A model of the text domain is trained with plain cross-entropy; both libraries then attack the same test texts that it
gets right, with the same substitutes (PPDB within the vocabulary, the first 8), each word exchanged at most once, no
bound on how many words, and the same gain, one minus the probability of the label. The searches:

- TextFooler-shaped: rank words by deletion, exchange them in that order, stop at a flip.
- PWWS-shaped: rank by softmax(saliency) times the best exchange.

TextAttack's side is its own `Attack`, `GreedyWordSwapWIR`, `UntargetedClassification` and `WordSwap` classes. Its
recipes as they are need downloads (USE, counter-fitted vectors, WordNet, a tagger), so its constraints are off but
`RepeatModification`, which is the search's own. That flatters TextAttack: its maintainers name constraints as where the
time goes. Both sides attack a chunk of the texts in turn, and the order turns with every round; processor time, one
thread. Ours attacks a chunk side by side; `one by one` is ours called with a single text at a time.

TextAttack downloads at import. To import it offline: mark its post-install step as done (`touch
$TA_CACHE_DIR/post_install_check_3`), give nltk a stop word list ($NLTK_DATA/corpora/stopwords/english).
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sparring.attacks.greedy import greedy
from sparring.domains.text import models
from sparring.domains.text.data import Encoded, load
from sparring.domains.text.gain import TextGain
from sparring.domains.text.neighbours import Neighbours, ppdb
from sparring.domains.text.threats import Substitution
from sparring.domains.text.tokens import WordTokenizer
from sparring.domains.text.words import Text

LENGTH, MOST = 48, 8
RECIPES = (("textfooler", "deletion", "delete"), ("pwws", "saliency", "weighted-saliency"))
"""Name, our ranking, TextAttack's."""


@dataclass
class Side:
    """What one library did with a recipe."""

    seconds: list[float] = field(default_factory=list)
    fell: dict[int, bool] = field(default_factory=dict)
    queries: dict[int, int] = field(default_factory=dict)
    changes: dict[int, int] = field(default_factory=dict)


Attack = Callable[[Sequence[int]], list[tuple[str, int]]]
"""Indices of texts to the attacked text and the queries of each."""


def trained(name: str, spec: str, seed: int) -> tuple[nn.Module, WordTokenizer]:
    """The classifier: four epochs of AdamW."""
    torch.manual_seed(seed)
    data = load(name)
    tokenizer = WordTokenizer.fit(data.train.strings)
    model = models.build(spec, tokenizer.vocab_size, len(data.classes), LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    source = Encoded(data.train, tokenizer, LENGTH)
    for _ in range(4):
        for rows in torch.randperm(len(source)).split(64):
            ids, y = source.take(rows)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(ids), y).backward()
            optimizer.step()
    return model.eval(), tokenizer


def missing(logits: Tensor, y: Tensor) -> Tensor:
    """One minus the probability of the label: TextAttack's score."""
    return 1 - logits.softmax(1).gather(1, y[:, None]).squeeze(1)


def ours(
    model: nn.Module, tokenizer: WordTokenizer, words: Neighbours, strings: Sequence[str], y: Tensor, ranking: str
) -> Attack:
    def attack(rows: Sequence[int]) -> list[tuple[str, int]]:
        gain = TextGain(model, tokenizer, y[torch.tensor(rows)], missing, LENGTH)
        x = [Text.of(strings[i]) for i in rows]
        z = greedy(gain, x, Substitution(words, 1.0, MOST), ranking=ranking)  # type: ignore[arg-type]
        return [(str(text), int(n)) for text, n in zip(z, gain.queries, strict=True)]

    return attack


def of_textattack(
    model: nn.Module, tokenizer: WordTokenizer, words: Neighbours, strings: Sequence[str], y: Tensor, method: str
) -> Attack:
    import textattack
    from textattack.constraints.pre_transformation import RepeatModification
    from textattack.goal_functions import UntargetedClassification
    from textattack.search_methods import GreedyWordSwapWIR
    from textattack.transformations import WordSwap

    class Wrapped(textattack.models.wrappers.ModelWrapper):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model = model

        def __call__(self, texts: list[str]) -> Tensor:
            with torch.no_grad():
                return model(tokenizer.encode(texts, LENGTH)).softmax(1)

    class Listed(WordSwap):  # type: ignore[misc]
        def _get_replacement_words(self, word: str) -> list[str]:
            found = words.of(word)[:MOST]
            return [each[0].upper() + each[1:] if word[0].isupper() else each for each in found]

    goal = UntargetedClassification(Wrapped(), model_batch_size=512)
    search = GreedyWordSwapWIR(wir_method=method)
    attack = textattack.Attack(goal, [RepeatModification()], Listed(), search)

    def run(rows: Sequence[int]) -> list[tuple[str, int]]:
        found = []
        for i in rows:
            result = attack.attack(strings[i], int(y[i]))
            found.append((result.perturbed_text(), result.num_queries))
        return found

    return run


def compared(
    sides: dict[str, Attack],
    model: nn.Module,
    tokenizer: WordTokenizer,
    strings: Sequence[str],
    y: Tensor,
    rounds: int,
    chunk: int,
) -> dict[str, Side]:
    """Every side on every chunk in every round, the order turning."""
    found = {name: Side() for name in sides}
    names = list(sides)
    for turn in range(rounds):
        spent = dict.fromkeys(names, 0.0)
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for start in range(0, len(strings), chunk):
            rows = list(range(start, min(start + chunk, len(strings))))
            for name in order:
                begun = time.process_time()
                answers = sides[name](rows)
                spent[name] += time.process_time() - begun
                with torch.no_grad():
                    said = model(tokenizer.encode([text for text, _ in answers], LENGTH)).argmax(1)
                for i, (text, queries), label in zip(rows, answers, said.tolist(), strict=True):
                    before, after = Text.of(strings[i]).words, Text.of(text).words
                    found[name].fell[i] = label != int(y[i])
                    found[name].queries[i] = queries
                    found[name].changes[i] = sum(a != b for a, b in zip(before, after, strict=False))
        for name in names:
            found[name].seconds.append(spent[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="sst2")
    parser.add_argument("--model", default="transformer")
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = trained(flags.data, flags.model, flags.seed)
    words, test = ppdb().within(tokenizer), load(flags.data).test
    with torch.no_grad():
        right = (model(tokenizer.encode(test.strings, LENGTH)).argmax(1) == test.y).nonzero().squeeze(1).tolist()
    rows = sorted(random.Random(flags.seed).sample(right, min(flags.texts, len(right))))
    strings, y = [test.strings[i] for i in rows], test.y[rows]
    print(
        f"{flags.data}, {flags.model}: {len(right)} of {len(test)} test texts right, {len(rows)} attacked, "
        f"{flags.rounds} rounds"
    )
    print(f"{'':<36}{'texts/s':>9}{'times textattack':>20}{'fell':>10}{'queries':>8}{'changed':>8}")
    answer = {}
    for recipe, ranking, method in RECIPES:
        mine = ours(model, tokenizer, words, strings, y, ranking)
        sides: dict[str, Attack] = {
            "sparring": mine,
            "textattack": of_textattack(model, tokenizer, words, strings, y, method),
            "sparring, one by one": lambda some, mine=mine: [mine([i])[0] for i in some],  # type: ignore[misc]
        }
        found = compared(sides, model, tokenizer, strings, y, flags.rounds, flags.chunk)
        for name, side in found.items():
            ratios = [a / b for a, b in zip(found["textattack"].seconds, side.seconds, strict=True)]
            told = {
                "texts_per_second": len(rows) / statistics.median(side.seconds),
                "times_textattack": statistics.median(ratios),
                "lowest_ratio": min(ratios),
                "highest_ratio": max(ratios),
                "fell": sum(side.fell.values()),
                "of": len(rows),
                "queries": statistics.mean(side.queries.values()),
                "changes": statistics.mean(side.changes[i] for i in side.fell if side.fell[i]),
            }
            answer[f"{recipe}, {name}"] = told
            ratio = f"{told['times_textattack']:.1f} ({told['lowest_ratio']:.1f} to {told['highest_ratio']:.1f})"
            print(
                f"{recipe + ', ' + name:<36}{told['texts_per_second']:>9.1f}{ratio:>20}{told['fell']:>6}/{len(rows):<3}"
                f"{told['queries']:>8.0f}{told['changes']:>8.2f}"
            )
        only = [sum(found[a].fell[i] and not found[b].fell[i] for i in found[a].fell) for a, b in
                (("sparring", "textattack"), ("textattack", "sparring"))]  # fmt: skip
        print(f"  {recipe}: {only[0]} fall to sparring only, {only[1]} to textattack only")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
