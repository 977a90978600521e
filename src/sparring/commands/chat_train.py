"""`sparring train` for systems of the chat domain: a model that follows instructions first, then what hardens it."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.commands.flags import new_folder, say
from sparring.core.game import Game
from sparring.core.gradient import frozen
from sparring.core.seeds import derive
from sparring.core.tools import Tools
from sparring.domains.text import chat_file
from sparring.domains.text.chat import LOOSE, Conversations, Rows, make
from sparring.domains.text.chat_file import FILE, SPEC, ChatModel, build
from sparring.domains.text.data import load
from sparring.domains.text.likelihood import says
from sparring.domains.text.prompt import Chat
from sparring.domains.text.tasks import KINDS
from sparring.domains.text.tokens import ByteTokenizer
from sparring.engine import checkpoint, record, tracking
from sparring.engine.job import BEST, Job
from sparring.engine.machines import AS_STARTED, Machines
from sparring.engine.rank import first
from sparring.engine.run import train
from sparring.engine.stream import Source
from sparring.engine.system import System
from sparring.engine.training import Training
from sparring.systems import prompt_injection

SCRATCH = "scratch"
PASSAGES = "passages"
"""The embedded sentences, from books in the public domain; a fifth of them is for the test."""


@dataclass(frozen=True)
class Where:
    """What is trained, on what, and where it goes."""

    data: str = PASSAGES
    """Where the sentences are from that instructions are about: passages (embedded), sst2, agnews, sms-spam, another
    named set of texts, or a path."""
    data_root: Path | None = None
    """Folder that the named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    rows: int = 3000
    """Instructions to train on."""
    tokens: int = 1500
    """Of the tokenizer."""
    model: str = SPEC
    """decoder-WIDTHxLAYERS."""
    start: str = ""
    """The run folder of the model to start from, or scratch; by default a model that follows instructions, and that
    nobody hardened, is trained first, in the folder RUN-start."""
    start_epochs: int = 6
    """Of that model."""
    start_rate: float = 3e-3
    """Its peak learning rate."""
    run: Path | None = None
    """The run folder; by default a new one under runs/."""
    seed: int = 0
    """Of everything random in the run."""
    log: tracking.Name = "none"
    """Also tell an experiment tracker, each with an extra of its name: tensorboard, mlflow, wandb."""

    def __post_init__(self) -> None:
        for name, least in (("rows", 50), ("tokens", 256), ("start_epochs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"The {name!r} parameter must be an int >= {least}. Got {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class Material:
    """Sentences and the tokenizer of their words and of the instructions.

    Args:
        name: of the data.
        train, test: sentences.
        chat: fitted on the training sentences.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    chat: Chat

    @property
    def fingerprint(self) -> str:
        """SHA-256 of sentences and tokenizer."""
        return hashlib.sha256(repr((self.train, self.test, self.chat.tokenizer.fingerprint)).encode()).hexdigest()


def prepared(where: Where) -> Material:
    """The sentences, and a tokenizer fitted on those of training and on the parts of instructions."""
    return _prepared(where.data, where.data_root, where.tokens)


@lru_cache(maxsize=2)
def _prepared(data_name: str, root: Path | None, count: int) -> Material:
    if data_name == PASSAGES:
        lines = resources.files("sparring.domains.text").joinpath("passages.txt").read_text("utf-8").splitlines()
        train, test = tuple(e for i, e in enumerate(lines) if i % 5), tuple(lines[::5])
        name = PASSAGES
    else:
        data = load(data_name, root)
        train, test, name = tuple(data.train.strings), tuple(data.test.strings), data.name
    asked = [said.format("") for kind in KINDS for held_out in (False, True) for said in kind.phrasings(held_out)]
    corpus = [f" {each.lower()}" for each in train] + [f" {each}" for each in asked]
    return Material(name, train, test, Chat(ByteTokenizer.fit(corpus, most=count)))


@lru_cache(maxsize=2)
def training_rows(made: Material, count: int, completing: float, seed: int) -> tuple[Rows, Conversations]:
    """What a run trains and validates on: a function of the seed, whatever the method; only the attacks are its own."""
    rng = torch.Generator().manual_seed(derive(seed, "rows"))
    forms = ("naive",) * round(20 * (1 - completing)) + ("completion",) * round(20 * completing)
    rows = make(made.train, count, rng, forms=forms, draws=prompt_injection.MOST_DRAWS, loose=LOOSE, held_out=False)
    return rows, Conversations.of(rows, made.chat)


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
    """Train one run and return its folder, with the model and its tokenizer as one file in it."""
    for name, only in (("precision", "32"), ("compile", "off"), ("cutmix", 0.0), ("label_smoothing", 0.0)):
        if getattr(training, name) != only:
            raise ValueError(f"The {name!r} parameter must be {only!r} here. Got {getattr(training, name)!r} instead.")
    made = prepared(where)
    folder = where.run or new_folder(f"{system.name}-{made.name}")
    beside = _start(system, training, where, folder, command)
    start = None if beside is None else chat_file.load(beside / FILE)
    rows, source = training_rows(made, where.rows, config.completing, where.seed)
    torch.manual_seed(0)
    parameters = sum(p.numel() for p in build(where.model, made.chat).parameters())
    if start is not None:
        if start.spec != where.model or start.chat.tokenizer.fingerprint != made.chat.tokenizer.fingerprint:
            raise ValueError(f"The model that --start names must be a {where.model} with the tokenizer of this data.")
        system = replace(system, game=partial(system.game, reference=start.model))

    def make_model() -> nn.Module:
        model = build(where.model, made.chat)
        if start is not None:
            model.load_state_dict(start.model.state_dict())
        return model

    job = Job(
        system=system,
        config=config,
        training=training,
        seed=where.seed,
        data=described(made, rows),
        source=source,
        model={"spec": where.model, "parameters": parameters, "start": _digest(start)},
        make_model=make_model,
        baseline=supervised_game,
        validation=validation,
        command=command,
        circumstance={
            "data_root": None if where.data_root is None else str(where.data_root.resolve()),
            "chat": {"data": where.data, "tokens": where.tokens, "start": "" if beside is None else str(beside)},
        },
    )
    say(f"{system.name} ({config.method}) on {made.name} ({len(source)} instructions), run folder {folder}")
    finished = train(job, folder, machines=machines, log=log)
    best, timing = finished["best"], finished["timing"]
    say(
        f"best epoch {best['epoch']}: {best['clean']:.1%} of the answers held out are right, {best['robust']:.1%} "
        f"whichever of the injections is in the data; {timing['seconds']:.0f} s of training"
    )
    if first():
        model = build(where.model, made.chat)
        checkpoint.load_weights(folder / BEST, model)
        checkpoint.write(folder / FILE, chat_file.to_bytes(ChatModel(where.model, model.eval(), made.chat)))
    return folder


def _start(system: System, training: Training, where: Where, folder: Path, command: str) -> Path | None:
    """The run folder of the model to start from, trained first where none is named; None for scratch."""
    if where.start == SCRATCH:
        return None
    if where.start:
        return Path(where.start)
    beside = folder.with_name(f"{folder.name}-start")
    if not ((beside / FILE).exists() and record.read(beside)["status"] == "done"):
        say("training a model first that follows instructions, without an adversary")
        recipe = replace(training, epochs=where.start_epochs, learning_rate=where.start_rate)
        config = system.config(method="none")
        train_run(system, config, recipe, replace(where, start=SCRATCH, run=beside), command)
    return beside


def _digest(start: ChatModel | None) -> str:
    """SHA-256 of the weights to start from; scratch for none."""
    return SCRATCH if start is None else hashlib.sha256(chat_file.to_bytes(start)).hexdigest()


def supervised_game(model: nn.Module, tools: Tools) -> Game:
    """Supervised training without an adversary: what the price of a step is a multiple of."""
    return prompt_injection.game(prompt_injection.Config(method="none"), model=model, tools=tools)


def validation(model: nn.Module, source: Source, rows: Tensor, rng: torch.Generator) -> dict[str, Any]:
    """Answers that are right word for word on data as it came, and whichever of the injections is in it."""
    clean, robust = 0, 0
    with frozen(model) as seen, torch.no_grad():
        for chunk in rows.split(128):
            x = source.take(chunk)[0].to(rng.device)
            right = says(seen, x[:, 0, 0])
            attacked = says(seen, x[:, 1:, 0].flatten(0, 1)).view(len(x), -1).all(1)
            clean, robust = clean + int(right.sum()), robust + int((right & attacked).sum())
    return {"clean": clean / len(rows), "robust": robust / len(rows), "n": len(rows)}


def described(made: Material, rows: Rows) -> record.Record:
    """The instructions as a record names them."""
    return {
        "name": made.name,
        "classes": [kind.name for kind in KINDS],
        "shape": [0],
        "train": len(rows),
        "sentences": {"train": len(made.train), "test": len(made.test)},
        "fingerprint": hashlib.sha256((made.fingerprint + rows.fingerprint()).encode()).hexdigest(),
    }
