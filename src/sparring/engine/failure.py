"""What is known of a step at which training broke: the batch is a function of its position, so it is dealt again."""

from pathlib import Path

from sparring.core.payoff import hard
from sparring.engine.job import BEST
from sparring.engine.record import Record
from sparring.engine.stream import Stream


def failure(what: str, step: int, stream: Stream) -> Record:
    """What broke at a step (from 0), and the batch it broke on, for the record."""
    epoch, index = divmod(step, stream.steps)
    x, y = stream.batch(epoch, index)
    return {
        "what": what,
        "step": step + 1,
        "epoch": epoch + 1,
        "batch": {
            "examples": len(y),
            "x_min": x.min().item(),
            "x_max": x.max().item(),
            "x_mean": x.mean().item(),
            "labels": hard(y).bincount().tolist(),
        },
    }


def in_words(broken: Record, folder: Path, best: Record | None) -> str:
    """The same for whoever started the run."""
    batch = broken["batch"]
    kept = "none yet" if best is None else f"{folder / BEST}, epoch {best['epoch']}"
    return (
        f"{broken['what']} at step {broken['step']} (epoch {broken['epoch']}), on {batch['examples']} inputs "
        f"in [{batch['x_min']:.4g}, {batch['x_max']:.4g}], mean {batch['x_mean']:.4g}. "
        f"Last good checkpoint: {kept}. A lower --learning-rate or --clip 1 usually helps."
    )
