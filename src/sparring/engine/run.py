"""One training run on real hardware: play the game, choose the best checkpoint, survive being killed.

The loop itself is `sparring.core.game.play`; everything here happens between two of its rounds. A run is a function of
its identity (system, config, training, data, model, seed): killed at any instant and started again, it ends with the
same weights, bit for bit, because its state is written atomically and every random draw is a function of position.
"""

import copy
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparring.core.game import Game, Stateful, play
from sparring.core.schedule import SCHEDULES, Progress
from sparring.core.seeds import derive
from sparring.core.standing import DeadStartError
from sparring.core.tools import Tools
from sparring.core.weights import Perturbation
from sparring.engine import checkpoint, cost, fast, record
from sparring.engine.device import resolve
from sparring.engine.job import BEST, LAST, STATE, DivergedError, InterruptedRunError, Job, open_run
from sparring.engine.progress import Display
from sparring.engine.stream import Stream, hold_out
from sparring.engine.validation import validate


def train(job: Job, folder: Path, *, checkpoint_seconds: float = 60.0) -> record.Record:
    """Run the job in a folder, or continue what is there, and return the finished record.

    Raises:
        RecordError: the folder holds another run.
        DivergedError: the loss or a weight is NaN or infinite, or no gradient is left; the last checkpoint is kept.
        InterruptedRunError: SIGINT or SIGTERM came; the state is saved.
        CheckpointError: the disk refused a write; what was there is intact.
    """
    run = open_run(job, folder)
    if run["status"] == "done":
        return run
    return _Run(job, folder, run, checkpoint_seconds).finish()


class _Run:
    """The state of a run in progress: what `train` needs between its first and its last step."""

    def __init__(self, job: Job, folder: Path, run: record.Record, checkpoint_seconds: float) -> None:
        self.job, self.folder, self.record = job, folder, run
        self.checkpoint_seconds = checkpoint_seconds
        training = job.training
        self.fabric = Fabric(accelerator=resolve(training.device), devices=1)
        device = self.fabric.device
        self.rng = torch.Generator(device)
        train_rows, self.held_out = hold_out(job.source.y, training.validation, job.seed)
        if 0 < training.examples < len(train_rows):
            held_out = max(1, round(len(self.held_out) * training.examples / len(train_rows)))
            chance = torch.Generator().manual_seed(derive(job.seed, "examples"))
            train_rows, self.held_out = (
                rows[torch.randperm(len(rows), generator=chance)[:count]]
                for rows, count in ((train_rows, training.examples), (self.held_out, held_out))
            )
        self.stream = Stream(job.source, train_rows, training.batch_size, job.seed, self.rng, job.augment)
        self.total = training.epochs * self.stream.steps

        torch.manual_seed(derive(job.seed, "weights"))
        self.model = job.make_model().to(device)
        self.ema = None
        if training.ema:
            average = get_ema_multi_avg_fn(training.ema)
            self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.optimizer = training.make_optimizer(self.model.parameters())
        self.schedule = dict(SCHEDULES)[training.schedule]
        self.progress = Progress(0.0)
        parameters = list(self.model.parameters())
        clip = partial(nn.utils.clip_grad_norm_, parameters, training.clip) if training.clip else None
        self.choice = self._choose()
        played, view = fast.dress(self.model, self.choice, self.sample[0])
        tools = Tools(
            self.fabric.backward,
            clip,
            self.rng,
            self.progress,
            view=view,
            perturbation=self._perturbation(self.progress),
        )
        self.game = job.system.game(job.config, model=played, optimizer=self.optimizer, tools=tools)

        self.step, self.seconds = 0, 0.0
        self.epoch_loss, self.epoch_seconds = torch.zeros((), device=device), 0.0
        self.stop: int | None = None
        self.record.update(record.environment(device))
        if (folder / STATE).exists():
            self._restore(checkpoint.load_state(folder / STATE))

    def finish(self) -> record.Record:
        """Play every round that is left, then write the weights, the price and the record."""
        self.record["status"] = "running"
        record.write(self.folder, self.record)
        with self._signals(), Display(self.total, self.step, self.job.training.epochs) as display:
            try:
                while self.step < self.total:
                    self._epoch(display)
            except DeadStartError:
                self._diverged(self.step, "The attack's gradient vanished")
            display.say("timing a step against standard training")
            self._price()
        checkpoint.save_weights(self.folder / LAST, self._kept().state_dict())
        self.record["status"] = "done"
        record.write(self.folder, self.record)
        (self.folder / STATE).unlink(missing_ok=True)
        return self.record

    def _epoch(self, display: Display) -> None:
        epoch, start = divmod(self.step, self.stream.steps)
        self._tune()
        saved = before = time.monotonic()
        checked = self.step
        recent: list[Tensor] = []
        every = 1 if self.fabric.device.type == "cpu" else 32  # reading a loss waits for the device
        for metrics in play(self.game, self.stream.epoch(epoch, start)):
            self.step += 1
            loss = metrics["loss"]
            recent.append(loss)
            self.epoch_loss += loss
            if self.ema is not None:
                self.ema.update_parameters(self.model)
            self._tune()
            now = time.monotonic()
            self.epoch_seconds += now - before
            before = now
            display.step(loss)
            last = self.step % self.stream.steps == 0
            if len(recent) == every or last or self.stop is not None:
                self._check(checked, recent)
                checked, recent = self.step, []
                # Never at the last step of an epoch: a run resumed there would not know that the epoch is still open.
                if not last and (self.stop is not None or now - saved > self.checkpoint_seconds):
                    self._save()
                    saved = now
                    self._heed()
        self._close_epoch(epoch, display)
        self._heed()

    def _heed(self) -> None:
        """Stop here, right after a save, where a signal asked for it."""
        if self.stop is not None:
            self.record["status"] = "interrupted"
            record.write(self.folder, self.record)
            raise InterruptedRunError(self.folder, self.stop)

    def _close_epoch(self, epoch: int, display: Display) -> None:
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            self._diverged(self.step - 1, "A weight became NaN or infinite")
        training = self.job.training
        accuracy = validate(
            self._kept(),
            self.job.source,
            self.held_out,
            self.job.system.threat(self.job.config),
            steps=training.validation_steps,
            seed=self.job.seed,
            rng=self.rng,
        )
        entry = {
            "epoch": epoch + 1,
            "loss": self.epoch_loss.item() / self.stream.steps,
            "learning_rate": self._rate(self.step - 1),
            "seconds": self.epoch_seconds,
            "validation": accuracy,
        }
        self.record["history"].append(entry)
        best = self.record.get("best")
        if best is None or (accuracy["robust"], accuracy["clean"]) > (best["robust"], best["clean"]):
            self.record["best"] = {"epoch": epoch + 1, "clean": accuracy["clean"], "robust": accuracy["robust"]}
            checkpoint.save_weights(self.folder / BEST, self._kept().state_dict())
        self.seconds += self.epoch_seconds
        self.epoch_loss, self.epoch_seconds = torch.zeros_like(self.epoch_loss), 0.0
        self._save()
        record.write(self.folder, self.record)
        display.epoch(entry)

    def _tune(self) -> None:
        """The learning rate and the progress of the coming step."""
        self.progress.value = self.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)

    def _rate(self, step: int) -> float:
        return self.job.training.learning_rate * self.schedule((step + 0.5) / self.total)

    def _choose(self) -> fast.Choice:
        """How to compute: what a clock once chose stands in the record."""
        self.sample = self.stream.batch(0, 0)
        if "fast" in self.record:
            return fast.Choice.from_record(self.record["fast"])
        training = self.job.training
        choice = fast.choose(
            self.model, self.sample, precision=training.precision, compiling=training.compile, rounds=self.total
        )
        self.record["fast"] = choice.as_record()
        return choice

    def _perturbation(self, progress: Progress) -> Perturbation | None:
        training = self.job.training
        if training.perturb == "none":
            return None
        return Perturbation(
            training.perturb, training.perturb_size, start=lambda: progress() >= training.perturb_warmup
        )

    def _kept(self) -> nn.Module:
        """The model that is validated and kept: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def _check(self, first: int, losses: list[Tensor]) -> None:
        finite = torch.stack(losses).isfinite()
        if not finite.all():
            self._diverged(first + int((~finite).nonzero()[0]), "The loss became NaN or infinite")

    def _diverged(self, step: int, what: str) -> NoReturn:
        epoch, index = divmod(step, self.stream.steps)
        x, y = self.stream.batch(epoch, index)
        failure = {
            "what": what,
            "step": step + 1,
            "epoch": epoch + 1,
            "batch": {
                "examples": len(y),
                "x_min": x.min().item(),
                "x_max": x.max().item(),
                "x_mean": x.mean().item(),
                "labels": y.bincount().tolist(),
            },
        }
        self.record.update(status="diverged", failure=failure)
        record.write(self.folder, self.record)
        best = self.record.get("best")
        kept = "none yet" if best is None else f"{self.folder / BEST}, epoch {best['epoch']}"
        raise DivergedError(
            f"{what} at step {step + 1} (epoch {epoch + 1}), on {len(y)} inputs "
            f"in [{x.min().item():.4g}, {x.max().item():.4g}], mean {x.mean().item():.4g}. "
            f"Last good checkpoint: {kept}. A lower --learning-rate or --clip 1 usually helps."
        )

    def _save(self) -> None:
        checkpoint.save_state(
            self.folder / STATE,
            {
                "step": self.step,
                "seconds": self.seconds,
                "epoch_seconds": self.epoch_seconds,
                "epoch_loss": self.epoch_loss,
                "history": self.record["history"],
                "best": self.record.get("best"),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "players": [player.state_dict() for player in self._stateful()],
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        for player, kept in zip(self._stateful(), state["players"], strict=True):
            player.load_state_dict(kept)
        self.step, self.seconds, self.epoch_seconds = state["step"], state["seconds"], state["epoch_seconds"]
        self.epoch_loss = state["epoch_loss"].to(self.fabric.device)
        self.record["history"] = state["history"]
        self.record.pop("failure", None)
        if state["best"] is not None:
            self.record["best"] = state["best"]

    def _stateful(self) -> list[Stateful]:
        """The players that carry more from round to round than the model and its optimiser."""
        return [player for player in (self.game.learner, self.game.adversary) if isinstance(player, Stateful)]

    def _price(self) -> None:
        batch = cost.head(self.sample)

        def scratch() -> tuple[nn.Module, Tools]:
            played, view = fast.dress(copy.deepcopy(self.model), self.choice, batch[0])
            return played, Tools(rng=self.rng, view=view, perturbation=self._perturbation(Progress()))

        def ours() -> Game:
            model, tools = scratch()
            return self.job.system.game(self.job.config, model=model, tools=tools)

        ratio = cost.step_ratio(ours, lambda: self.job.baseline(*scratch()), batch)
        self.record["timing"] = {"seconds": self.seconds, **ratio}

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a request to stop after this step; a second one acts at once."""

        def request(number: int, _: object) -> None:
            self.stop = number
            signal.signal(number, previous[number])

        asked: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
        previous: dict[int, Any] = {}
        try:
            for number in asked:
                previous[number] = signal.signal(number, request)
        except ValueError:  # not the main thread: whoever owns it owns the signals
            yield
            return
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
