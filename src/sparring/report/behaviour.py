"""The sections on the models themselves: how they trained, and what fools them."""

from collections.abc import Sequence

from sparring.report import facts, images, model_plots, text_diffs, words
from sparring.report.blocks import Block, Figure, Figures, Gallery, Heading, Picture, Text
from sparring.report.read import Run, count, items, mapping, number


def training(runs: Sequence[Run]) -> list[Block]:
    """Loss, validation accuracy and what the learner told per epoch, with the epoch whose weights were kept."""
    blocks: list[Block] = []
    shown = set()
    for run in runs:
        if figures := _training_figures(run):
            blocks += [Heading("", facts.mark(run)), Text(_trained(run)), Figures(figures)]
            shown.add(run.index)
    return blocks + facts.lacking(runs, lambda run: run.index in shown, "no training history")


def _training_figures(run: Run) -> list[Figure]:
    epochs = [(epoch, item) for item in items(run.record, "history") if (epoch := number(item, "epoch")) is not None]

    def series(*keys: str, scale: float = 1.0) -> list[tuple[float, float]]:
        return [(epoch, scale * value) for epoch, item in epochs if (value := number(item, *keys)) is not None]

    best, mark, figures = number(run.record, "best", "epoch"), facts.mark(run), []
    lines = [] if best is None else [(best, f"kept: {best:g}")]
    if loss := series("loss"):
        label = f"Training loss of {run.name} over {len(loss)} epochs, from {loss[0][1]:.3g} to {loss[-1][1]:.3g}."
        svg = model_plots.history(
            f"loss{run.index}", label, [("", loss, mark, False)], axis="Training loss", lines=lines
        )
        figures.append(Figure(svg, f"Training loss of {run.name}."))
    pair = [("clean", series("validation", "clean", scale=100)), ("robust", series("validation", "robust", scale=100))]
    curves = [(title, points, mark, title == "robust") for title, points in pair if points]
    if curves:
        ends = ", ".join(f"{title} {points[-1][1]:.1f} %" for title, points, _, _ in curves)
        label = f"Validation accuracy of {run.name} by epoch; at the end {ends}."
        svg = model_plots.history(
            f"validation{run.index}", label, curves, axis="Validation accuracy, %", lines=lines, whole=True
        )
        kept = "" if best is None else f" The weights of epoch {best:g} were kept."
        figures.append(Figure(svg, f"Validation accuracy of {run.name}; dashed: under attack.{kept}"))
    for k, name in enumerate(dict.fromkeys(name for _, item in epochs for name in mapping(item, "metrics"))):
        told = series("metrics", name)
        if told:
            label = f"“{name}” of {run.name} by epoch, from {told[0][1]:.3g} to {told[-1][1]:.3g}."
            curve = [("", told, mark, False)]
            svg = model_plots.history(f"told{run.index}-{k}", label, curve, axis=words.capital(name), lines=lines)
            figures.append(Figure(svg, f"What the learner of {run.name} told of itself: {name}, the mean of an epoch."))
    return figures


def _trained(run: Run) -> str:
    done, planned = len(items(run.record, "history")), count(run.record, "training", "epochs")
    said = f"{done} epochs" if planned is None or planned == done else f"{done} of {planned} epochs"
    n = next((n for item in items(run.record, "history") if (n := count(item, "validation", "n"))), None)
    if n is not None:
        said += f"; validation on {words.whole(n)} examples"
    clean, robust = number(run.record, "best", "clean"), number(run.record, "best", "robust")
    if clean is not None and robust is not None:
        said += f"; the kept weights got {words.percent(clean)} of them right, {words.percent(robust)} under attack"
    return words.sentence(said)


def gallery(runs: Sequence[Run], seed: int) -> list[Block]:
    """What the attack did to a few inputs, drawn blind."""
    lead = (
        "In each group of three, left: the image as it is, with the model’s answer. Middle: what the attack added, and "
        "the true class. Right: the attacked image, with the model’s answer to it."
    )
    blocks: list[Block] = [Text(lead)] if any(run.examples.tensors is not None for run in runs) else []
    for run in runs:
        if run.examples.tensors is None:
            continue
        grid = images.draw(run.examples.tensors, seed)
        caption = (
            f"{len(grid.examples)} of {grid.stored} stored examples, drawn at random with seed {seed}, not selected. "
            f"The perturbation is shown ×{grid.factor}; mid-grey means no change."
        )
        caption += " Images are shown reduced." if grid.reduced else ""
        caption += " Channels are averaged." if grid.averaged else ""
        rows = [_pictures(run, example, grid.factor) for example in grid.examples]
        head = ("Clean", "Perturbation", "Attacked")
        blocks += [Heading("", facts.mark(run)), Gallery(caption, head, rows)]
    lacking = [run for run in runs if run.examples.tensors is None and not text_diffs.of_texts(run)]
    return blocks + [Text(f"{facts.label(run)}: {run.examples.problem}.", note=True) for run in lacking]


def _pictures(run: Run, example: images.Example, factor: int) -> list[Picture]:
    def judged(what: str, uri: str, prediction: int, confidence: float) -> Picture:
        right, said = prediction == example.label, facts.class_name(run, prediction)
        alt = f"{what} image of class {true}, predicted {said}"
        title = f"“{said}” {'right' if right else 'wrong'}"
        return Picture(uri, alt, title, f"{100 * confidence:.0f} % sure", "good" if right else "bad")

    true = facts.class_name(run, example.label)
    return [
        judged("Clean", example.clean, example.clean_prediction, example.clean_confidence),
        Picture(example.change, f"Perturbation times {factor}", f"change ×{factor}", f"class “{true}”"),
        judged("Attacked", example.attacked, example.attacked_prediction, example.attacked_confidence),
    ]
