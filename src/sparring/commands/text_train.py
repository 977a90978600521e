"""`sparring train` for systems of the text domain: data, tokenizer, substitutes, and one file with the classifier."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparring.commands.flags import new_folder, say
from sparring.commands.text_material import HARMFUL, Material, Where, prepared
from sparring.commands.train import standard_game
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.core.standing import DeadStartError
from sparring.domains.text import models
from sparring.domains.text.artefact import FILE, Classifier
from sparring.domains.text.ball import TokenBall
from sparring.domains.text.embedded import TextModel, mean_norm
from sparring.engine import checkpoint, record, tracking
from sparring.engine.job import BEST, Job, Validation
from sparring.engine.machines import AS_STARTED, Machines
from sparring.engine.rank import first
from sparring.engine.run import train
from sparring.engine.stream import Source, hold_out
from sparring.engine.system import System
from sparring.engine.training import Training
from sparring.evaluation.detection import threshold_at

__all__ = ["Where", "train_run"]

VALIDATION_EPS = 0.02
"""Radius of the token balls that checkpoints are chosen in, in mean embedding norms, for every method the same. It is
small: where standard training keeps less under attack than a constant answer does, the constant one would be chosen."""

FOUND_AGAIN = ("data", "model", "tokenizer", "length", "neighbours", "most", "folding", "benign")
"""Fields of `where` that an evaluation needs to find the same texts and substitutes."""


def train_run(
    system: System,
    config: Any,
    training: Training,
    where: Where,
    command: str,
    *,
    machines: Machines = AS_STARTED,
    log: tracking.Name = "none",
) -> Path:
    """Train one run and return its folder, with the classifier as one artefact in it."""
    made = prepared(where, system.name)
    folder = where.run or new_folder(f"{system.name}-{made.data.name}")
    classes, vocabulary = len(made.data.classes), made.tokenizer.vocab_size
    build = partial(models.build, where.model, vocabulary, classes, where.length)
    torch.manual_seed(0)
    parameters = sum(p.numel() for p in build().parameters())
    source = made.encoded(made.data.train)
    job = Job(
        system=bound(system, config, made),
        config=config,
        training=training,
        seed=where.seed,
        data=described(made),
        source=source,
        model={"spec": where.model, "parameters": parameters},
        make_model=build,
        baseline=standard_game,
        validation=validation(training.validation_steps),
        command=command,
        circumstance={
            "data_root": None if where.data_root is None else str(where.data_root.resolve()),
            "text": {name: getattr(where, name) for name in FOUND_AGAIN},
        },
    )
    say(
        f"{system.name} on {made.data.name} ({len(source)} texts, {vocabulary} tokens, substitutes for "
        f"{len(made.neighbours)} words), run folder {folder}"
    )
    if aside := made.data.aside:
        first_one = f"row {aside[0].row} of {aside[0].where}, {aside[0].reason}"
        say(f"{len(aside):,} rows cannot be used. The first, {first_one}.")
    if cut := int((made.reader.count(made.data.train.strings) > where.length).sum()):
        say(f"{cut} training texts have more than {where.length} tokens and are cut there")
    finished = train(job, folder, machines=machines, log=log)
    best, timing = finished["best"], finished["timing"]
    say(
        f"best epoch {best['epoch']}: {best['clean']:.1%} of the texts held out are right, {best['robust']:.1%} under "
        f"PGD on embeddings; {timing['seconds']:.0f} s of training"
    )
    if first():
        model = build()
        checkpoint.load_weights(folder / BEST, model)
        _keep(folder, model.eval(), made, where, training)
    return folder


def bound(system: System, config: Any, made: Material) -> System:
    """The system with what its adversary draws from.

    Raises:
        ValueError: where it exchanges words and the tokenizer has none, or no word has a substitute.
    """
    if system.name == "moderation":
        if made.table() is None:
            raise ValueError("The 'tokenizer' parameter must be 'word' for moderation. Got 'byte' instead.")
        return replace(system, game=partial(system.game, vocabulary=made.vocabulary()))
    if config.method not in ("a2t", "ascc", "ibp", "random-substitution"):
        return system
    table = made.table()
    if table is None or not len(made.neighbours):
        raise ValueError(
            f"The method {config.method!r} exchanges words: it needs --tokenizer word, and --neighbours that have some."
        )
    return replace(system, game=partial(system.game, neighbours=table))


def validation(steps: int) -> Validation:
    """Clean accuracy and accuracy under PGD in small balls around the tokens, for every method the same."""

    def measure(model: nn.Module, source: Source, rows: Tensor, rng: torch.Generator) -> dict[str, Any]:
        right = stand = 0
        with frozen(model):
            ball = TokenBall(VALIDATION_EPS, mean_norm(cast(TextModel, model)))
            for chunk in rows.split(256):
                ids, y = (part.to(rng.device) for part in source.take(chunk))
                with torch.no_grad():
                    ids, y = (part[model(ids).argmax(1) == y] for part in (ids, y))
                    x = cast(TextModel, model).embed(ids)
                right += len(y)
                if len(y) == 0:
                    continue
                gain = ClassifierGain(model, y, cross_entropy)
                try:
                    _, lost = gain.judge(pgd(gain, x, ball, steps=steps, early_stop=True, rng=rng))
                except DeadStartError:  # a saturated model: nothing to follow, so nothing found
                    lost = torch.zeros_like(y, dtype=torch.bool)
                stand += int((~lost).sum())
        return {"clean": right / len(rows), "robust": stand / len(rows), "n": len(rows)}

    return measure


def described(made: Material) -> record.Record:
    """Texts, tokenizer and substitutes as a record names them."""
    data = made.data
    return {
        "name": data.name,
        "classes": list(data.classes),
        "shape": [made.length],
        "train": len(data.train),
        "test": len(data.test),
        "fingerprint": data.fingerprint,
        "tokenizer": made.reader.fingerprint,
        "folding": made.folding,
        "neighbours": {**made.neighbours.describe(), "most": made.most},
    }


def _keep(folder: Path, model: nn.Module, made: Material, where: Where, training: Training) -> None:
    threshold = rate = None
    classifier = Classifier(
        where.model, model, made.tokenizer, tuple(made.data.classes), made.length, made.folding,
        neighbours=made.neighbours.describe(),
    )  # fmt: skip
    if tuple(made.data.classes) == HARMFUL:
        strings = held_out_benign(made, training, where.seed)
        rate = where.false_positives
        threshold = threshold_at(classifier.probabilities(strings)[:, 1], rate)
        say(f"threshold {threshold:.4g} for at most {rate:.2%} false alarms on {len(strings)} benign texts held out")
    artefact = replace(classifier, threshold=threshold, false_positives=rate)
    checkpoint.write(folder / FILE, artefact.to_bytes())


def held_out_benign(made: Material, training: Training, seed: int) -> list[str]:
    """Benign texts that no weight has seen: those of the validation split, or of the part of training held out."""
    texts = made.data.validation
    rows = torch.arange(len(texts))
    if len(texts) == 0:
        texts = made.data.train
        _, rows = hold_out(texts.y, training.validation, seed)
    return [texts.strings[i] for i in rows.tolist() if texts.y[i] == 0]
