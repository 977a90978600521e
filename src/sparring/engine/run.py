"""One training run on real hardware: play the game, choose the best checkpoint, survive being killed.

The loop itself is `sparring.core.game.play`; everything here happens between two of its rounds. A run is a function of
its identity (system, config, training, data, model, seed): killed at any instant and started again, it ends with the
same weights, bit for bit, because its state is written atomically and every random draw is a function of position.
How many processes play it is a circumstance: each runs this file, the first one writes and speaks.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from sparring.core.game import Batch, play
from sparring.core.schedule import SCHEDULES, Progress
from sparring.core.seeds import derive
from sparring.core.standing import DeadStartError
from sparring.core.tools import Tools
from sparring.engine import checkpoint, cost, fast, parallel, record, sharding, tracking
from sparring.engine.device import resolve
from sparring.engine.failure import failure, in_words
from sparring.engine.guard import Guard, consequence, due, restore
from sparring.engine.job import BEST, LAST, STATE, DivergedError, InterruptedRunError, Job, open_run
from sparring.engine.machines import AS_STARTED, Machines, Team, launch, together
from sparring.engine.progress import Display
from sparring.engine.rank import first, torchrun
from sparring.engine.signals import Stop
from sparring.engine.stream import Stream, hold_out
from sparring.engine.totals import Totals
from sparring.engine.validation import validate


def train(
    job: Job,
    folder: Path,
    *,
    checkpoint_seconds: float = 60.0,
    machines: Machines = AS_STARTED,
    log: tracking.Name = "none",
) -> record.Record:
    """Run the job in a folder, or continue what is there, and return the finished record.

    Args:
        job: what the run is a function of.
        folder: on a file system that all machines see.
        checkpoint_seconds: how often the state is saved between two epochs.
        machines: the processes that play it together; where they are not there yet, they are started, and each of them
            runs the calling program from its beginning and returns from here.
        log: the experiment tracker that is told of every epoch.

    Raises:
        RecordError: the folder holds another run.
        ValueError: the machines do not have what is asked for, or a batch does not split.
        DivergedError: the loss or a weight is NaN or infinite, or no gradient is left; the last checkpoint is kept.
        InterruptedRunError: SIGINT or SIGTERM came; the state is saved.
        LostProcessError: another process of the run ended; the last saved state is there.
        CheckpointError: the disk refused a write; what was there is intact.
    """
    accelerator = resolve(job.training.device)
    machines.check(accelerator)
    machines.check_batch(job.training.batch_size)
    tracking.check(log)
    run = open_run(job, folder) if first() else {}
    if run.get("status") == "done" and not torchrun():
        return run  # nobody else has been started
    team = launch(machines, accelerator)
    with together(team, f"continues the run in {folder} from its last saved state"):
        folder, run = team.broadcast((folder, run))
        if run["status"] != "done":
            run = _Run(job, folder, run, team, machines, checkpoint_seconds).finish(log)
    return run


class _Run:
    """The state of a run in progress: what `train` needs between its first and its last step."""

    def __init__(
        self, job: Job, folder: Path, run: record.Record, team: Team, machines: Machines, checkpoint_seconds: float
    ) -> None:
        self.job, self.folder, self.record = job, folder, run
        self.team, self.machines, self.checkpoint_seconds = team, machines, checkpoint_seconds
        training = job.training
        device = team.device
        self.rng = torch.Generator(device)
        train_rows, self.held_out = hold_out(job.source.y, training.validation, job.seed)
        if 0 < training.examples < len(train_rows):
            held_out = max(1, round(len(self.held_out) * training.examples / len(train_rows)))
            chance = torch.Generator().manual_seed(derive(job.seed, "examples"))
            train_rows, self.held_out = (
                rows[torch.randperm(len(rows), generator=chance)[:count]]
                for rows, count in ((train_rows, training.examples), (self.held_out, held_out))
            )
        self.stream = Stream(
            *(job.source, train_rows, training.batch_size, job.seed, self.rng, job.augment, job.blend, job.extra),
            masks=job.system.masks(job.config),
        )
        self.total = training.epochs * self.stream.steps
        self.share = parallel.Share(team, job.seed)

        torch.manual_seed(derive(job.seed, "weights"))
        self.model = job.make_model().to(device)
        if machines.sharded and (training.ema or training.swa or training.guard == "rollback"):
            raise ValueError("With --strategy fsdp 'ema' and 'swa' must be 0, and 'guard' must not be 'rollback'.")
        self.average = training.make_average(self.model, self.stream.steps)
        self.choice = self._choose()
        self.model, together = parallel.spread(self.model, team, machines, self.choice)
        self.optimizer = training.make_optimizer(self.model.parameters())
        self.schedule = dict(SCHEDULES)[training.schedule]
        self.progress = Progress(0.0)
        parameters = list(self.model.parameters())
        played, view = fast.dress(self.model, self.choice, self.sample[0], played=together)
        tools = Tools(
            team.fabric.backward if team.world == 1 else self.share.backward,
            partial(nn.utils.clip_grad_norm_, parameters, training.clip) if training.clip else None,
            self.rng,
            self.progress,
            view=view,
            perturbation=training.make_perturbation(self.progress),
        )
        make = partial(job.game, model=played, optimizer=self.optimizer, tools=tools)
        game = sharding.game(make, job.system.name) if machines.sharded else make()
        self.players = parallel.stateful(game)
        self.share.own, self.share.foreign = frozenset(map(id, parameters)), bool(self.players)
        self.game = parallel.concerted(game, team)

        policy = training.guard if job.validation is None else "off"
        if policy == "rollback" and self.players and team.world > 1:
            raise ValueError(
                f"The 'guard' parameter must not be 'rollback' for {job.system.name} on several processes."
            )
        self.guard = Guard(job.source, self.held_out, job.within(), seed=job.seed, device=device, policy=policy)
        self.halted = False
        self.step, self.seconds = 0, 0.0
        self.totals, self.epoch_seconds = Totals(device), 0.0
        self.stop = Stop()
        self.record.update(record.environment(device))
        self.record["hardware"] |= {"processes": team.world, "sharded": machines.sharded}
        if team.broadcast((folder / STATE).exists()):
            self._restore(checkpoint.load_state(folder / STATE))

    def finish(self, log: tracking.Name) -> record.Record:
        """Play every round that is left, then write the weights, the price and the record."""
        self._write(status="running")
        epochs, told = self.job.training.epochs, log if self.team.first else "none"
        self.tracker = tracking.tracker(told, self.folder, {key: self.record[key] for key in record.IDENTITY})
        try:
            with self.stop.listening(), Display(self.total, self.step, epochs, silent=not self.team.first) as display:
                display.say(str(self.choice))
                try:
                    while self.step < self.total and not self.halted:
                        self._epoch(display)
                except DeadStartError:
                    self._diverged(self.step, "The attack's gradient vanished")
                display.say("timing a step against standard training")
                self._price()
            self._keep(LAST)
            self._write(status="done")
        finally:
            self.tracker.close(done=self.record["status"] == "done")
        if self.team.first:
            (self.folder / STATE).unlink(missing_ok=True)
        finished: record.Record = self.team.broadcast(self.record)
        return finished

    def _write(self, **changes: Any) -> None:
        """The record with these changes, on the disk."""
        self.record.update(changes)
        if self.team.first:
            record.write(self.folder, self.record)

    def _keep(self, name: str) -> None:
        """The weights of now, on the disk."""
        weights = sharding.whole(self._kept().state_dict())
        if self.team.first:
            checkpoint.save_weights(self.folder / name, weights)

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """What this process plays of an epoch, from its batch `start` on."""
        for batch in self.stream.epoch(epoch, start):
            parallel.level(self.model, self.team)
            yield self.share.of(batch, self.step, self.rng)

    def _epoch(self, display: Display) -> None:
        epoch, start = divmod(self.step, self.stream.steps)
        self._tune()
        saved = before = time.monotonic()
        checked = self.step
        recent: list[Tensor] = []
        alone = self.team.world == 1
        every = 1 if self.team.device.type == "cpu" else 32 if alone else 8  # reading a loss waits for the device
        for metrics in play(self.game, self._batches(epoch, start)):
            self.step += 1
            loss = metrics["loss"]
            recent.append(loss)
            self.totals.add(metrics, 1.0 if alone else self.share.weight)
            if self.average is not None:
                self.average.update(self.model, self.step)
            self._tune()
            now = time.monotonic()
            self.epoch_seconds += now - before
            before = now
            display.step(loss)
            checks = self.job.training.guard_checks
            if due(self.step, self.stream.steps, checks) and self._troubled(display):
                return
            last = self.step % self.stream.steps == 0
            if len(recent) == every or last or (alone and self.stop.asked is not None):
                self._check(checked, recent)
                checked, recent = self.step, []
                # Never at the last step of an epoch: a run resumed there would not know that the epoch is still open.
                overdue = self.team.first and now - saved > self.checkpoint_seconds
                if not last and any(self.team.most(self.stop.asked or 0, overdue)):
                    self._save()
                    saved = now
                    self._heed()
        self._close_epoch(epoch, display)
        self._heed()

    def _troubled(self, display: Display) -> bool:
        """Let the guard look; whether the epoch ends here, because the run stops or goes back."""
        guard = self.guard
        if guard.policy == "off":
            return False
        parallel.level(self.model, self.team)
        verdict = guard.check(self.model, self.step, team=self.team, lockstep=self.machines.sharded)
        average = None if self.average is None else self.average.state_dict()
        rest: dict[str, Any] = {"totals": self.totals.copy(), "average": average}
        rest["players"] = [p.state_dict() for p in self.players]
        action = guard.act(verdict, self.model, self.optimizer, **rest)
        if action == "stop" and guard.snapshot is not None:
            self.step, rest = guard.snapshot["step"], restore(self.model, self.optimizer, guard.snapshot, 1.0)
        elif action == "rollback":
            self.step, rest = guard.roll_back(self.model, self.optimizer)
            self.record["history"] = self.record["history"][: self.step // self.stream.steps]
            self.totals.clear()
            if self.step % self.stream.steps:
                self.totals.load(rest["totals"])
            self._reseed()
        if action in ("stop", "rollback"):
            if self.average is not None:
                self.average.load_state_dict(rest["average"])
            for player, kept in zip(self.players, rest["players"], strict=True):
                player.load_state_dict(kept)
        if action in ("warn", "stop", "rollback"):
            message = f"{verdict.message} {consequence(action, guard, self.step)}"
            self.record.setdefault("guard", []).append({"step": verdict.now.step, "action": action, "message": message})
            display.say(message)
        self.halted = action == "stop"
        return action in ("stop", "rollback")

    def _reseed(self) -> None:
        """After a rollback the run draws otherwise than before it, as a function of how often it was rolled back."""
        self.stream = replace(self.stream, seed=self.guard.stream_seed)
        self.share.seed = self.guard.stream_seed

    def _heed(self) -> None:
        """Stop here, right after a save, where a signal asked for it in any process."""
        (asked,) = self.team.most(self.stop.asked or 0)
        if asked:
            self._write(status="interrupted")
            raise InterruptedRunError(self.folder, int(asked))

    def _close_epoch(self, epoch: int, display: Display) -> None:
        if not parallel.all_finite(self.model, self.team):
            self._diverged(self.step - 1, "A weight became NaN or infinite")
        parallel.level(self.model, self.team)
        parallel.level(self._kept(), self.team)
        accuracy = self._validate()
        told = self.totals.means(self.team, self.stream.steps)
        entry = {
            "epoch": epoch + 1,
            "loss": told.pop("loss"),
            "learning_rate": self._rate(self.step - 1),
            "seconds": self.epoch_seconds,
            "validation": accuracy,
            **({"metrics": told} if told else {}),
        }
        self.record["history"].append(entry)
        best = self.record.get("best")
        if best is None or (accuracy["robust"], accuracy["clean"]) > (best["robust"], best["clean"]):
            self.record["best"] = {"epoch": epoch + 1, "clean": accuracy["clean"], "robust": accuracy["robust"]}
            self._keep(BEST)
        self.seconds += self.epoch_seconds
        self.totals.clear()
        self.epoch_seconds = 0.0
        self._save()
        self._write()
        display.epoch(entry)
        self.tracker.log(tracking.flat(entry), epoch + 1)

    def _validate(self) -> dict[str, Any]:
        """Clean and robust accuracy of the model that is kept, on what was held out."""
        job = self.job
        if job.validation is not None:
            self.rng.manual_seed(derive(job.seed, "validation"))
            return job.validation(self._kept(), job.source, self.held_out, self.rng)
        steps, lockstep = job.training.validation_steps, self.machines.sharded
        how = partial(validate, steps=steps, seed=job.seed, rng=self.rng, team=self.team, lockstep=lockstep)
        return how(self._kept(), job.source, self.held_out, job.within())

    def _tune(self) -> None:
        """The learning rate and the progress of the coming step."""
        self.progress.value = self.step / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(self.step)

    def _rate(self, step: int) -> float:
        return self.job.training.learning_rate * self.schedule((step + 0.5) / self.total) * self.guard.rate

    def _choose(self) -> fast.Choice:
        """How to compute: what a clock once chose stands in the record."""
        self.sample = self.share.of(self.stream.batch(0, 0), 0, self.rng)
        training = self.job.training
        if self.machines.sharded:
            return sharding.choice(training.precision)
        if "fast" not in self.record and self.team.first:
            self.record["fast"] = fast.choose(
                self.model, self.sample, precision=training.precision, compiling=training.compile, rounds=self.total
            ).as_record()
        self.record["fast"] = self.team.broadcast(self.record.get("fast"))
        return fast.Choice.from_record(self.record["fast"])

    def _kept(self) -> nn.Module:
        """The model that is validated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def _check(self, first: int, losses: list[Tensor]) -> None:
        finite = torch.stack(losses).isfinite()
        good = len(losses) if finite.all() else int((~finite).nonzero()[0])
        (bad,) = self.team.most(len(losses) - good)
        if bad:
            self._diverged(first + len(losses) - int(bad), "The loss became NaN or infinite")

    def _diverged(self, step: int, what: str) -> NoReturn:
        broken = failure(what, step, self.stream)
        self._write(status="diverged", failure=broken)
        raise DivergedError(in_words(broken, self.folder, self.record.get("best")))

    def _save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            "totals": self.totals.state(self.team),
            "history": self.record["history"],
            "best": self.record.get("best"),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "guard": self.guard.state_dict(),
        }
        state = sharding.whole(state)
        players = [sharding.whole(player.state_dict()) for player in self.players]
        state["players"] = self.team.gather(players) if players else []
        if self.team.first:
            checkpoint.save_state(self.folder / STATE, state)

    def _restore(self, state: dict[str, Any]) -> None:
        checkpoint.check_fit(self.folder / STATE, state["model"], self.model.state_dict())
        if self.players and len(state["players"]) != self.team.world:
            raise ValueError(
                f"The 'devices' parameter must give {len(state['players'])} processes to continue this run, in which "
                f"each carries a state of its own from batch to batch. Got {self.team.world} instead."
            )
        sharding.load(self.model, state["model"])
        sharding.load_optimizer(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.guard.load_state_dict(state["guard"])
        self._reseed()
        if self.players:
            for player, kept in zip(self.players, state["players"][self.team.rank], strict=True):
                player.load_state_dict(kept)
        self.step, self.seconds, self.epoch_seconds = state["step"], state["seconds"], state["epoch_seconds"]
        if self.team.first:  # the sum over all processes: it is one of them who has it from here on
            self.totals.load(state["totals"])
        self.record["history"] = state["history"]
        self.record.pop("failure", None)
        if state["best"] is not None:
            self.record["best"] = state["best"]

    def _price(self) -> None:
        """On the first process alone, with copies that know of no other; a sharded model is not priced."""
        self.record["timing"] = {"seconds": self.seconds}
        if not self.machines.sharded and self.team.first:
            bare = self.model
            if self.team.world > 1:  # again, without SyncBatchNorm and whatever else waits for other processes
                bare = self.job.make_model().to(self.team.device)
                bare.load_state_dict(self.model.state_dict())
            batch = cost.head(self.sample)
            self.record["timing"] |= cost.price(self.job, bare, self.choice, batch, self.rng)
