"""Our `standard` suite beside the official AutoAttack on the same model and images: the same answer, and how fast.

    python benchmarks/autoattack.py RUN --images 1000 --chunk 250 --out agreement.json
    python benchmarks/autoattack.py RUN --images 384 --chunk 128 --view auto --out speed.json

Images are taken in chunks; every chunk is attacked by both, one right after the other and the other way round in the
next, so that each chunk is one paired repeat. The ratio is of processor time, on one thread, because machines are
shared. Results are written after every chunk, and chunks that are there are not done again. Needs the extra `peers`.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparring
from sparring import runs
from sparring.core.threat import Threat, ball
from sparring.engine import record
from sparring.evaluation.ensemble import Outcome, run
from sparring.evaluation.fast import brain16, fastest
from sparring.evaluation.paired import difference
from sparring.evaluation.subject import subject
from sparring.evaluation.suite import standard

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
VIEWS = {"auto": fastest, "bf16": brain16, "32": None}


def official(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, seed: int) -> tuple[Tensor, float]:
    """Which examples the official release leaves standing, and the seconds of processor time it took."""
    from pyautoattack import AutoAttack

    begun = time.process_time()
    attack = AutoAttack(model, norm=NORMS[norm], eps=eps, version="standard", seed=seed, device="cpu")
    z, _ = attack.run_standard_evaluation(x, y, batch_size=250)
    taken = time.process_time() - begun
    with torch.no_grad():
        return model(z).argmax(1) == y, taken


def ours(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, view: str, seed: int) -> tuple[Outcome, float]:
    """The outcome of our suite, and the seconds of processor time it took."""
    begun = time.process_time()
    made = subject(model, (x, y), batch_size=250)
    maker = VIEWS[view]
    faster = None if maker is None else maker(made)
    outcome = run(made, threat, standard(threat, made.classes), seed=seed, watch=lambda _: lambda _: None, view=faster)
    return outcome, time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--threat", choices=sorted(NORMS), default="linf")
    parser.add_argument("--eps", type=float)
    parser.add_argument("--view", choices=sorted(VIEWS), default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)

    facts = record.read(given.run)
    data = runs.load_data(facts, None)
    model = sparring.load(given.run)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    eps = given.eps if given.eps is not None else facts["config"]["eps"]
    threat = ball(given.threat, eps)
    draw = torch.Generator().manual_seed(given.seed)
    rows = torch.randperm(len(data.test), generator=draw)[: given.images]
    done: list[dict[str, Any]] = json.loads(given.out.read_text())["chunks"] if given.out.exists() else []
    for i, chunk in enumerate(rows.split(given.chunk)):
        if i < len(done):
            continue
        x, y = data.test.take(chunk)
        if i % 2:
            right, seconds = official(model, x, y, given.threat, eps, given.seed)
            outcome, own = ours(model, x, y, threat, given.view, given.seed)
        else:
            outcome, own = ours(model, x, y, threat, given.view, given.seed)
            right, seconds = official(model, x, y, given.threat, eps, given.seed)
        results = {name: row["accuracy"] for name, row in outcome.results.items()}
        spent = {name: found.seconds for name, found in outcome.exploits.items()}
        pair = {"rows": chunk.tolist(), "official": right.tolist(), "ours": outcome.right.tolist(), "results": results}
        done.append({**pair, "official_seconds": seconds, "our_seconds": own, "wall": spent})
        given.out.write_text(json.dumps({"eps": eps, "threat": given.threat, "view": given.view, "chunks": done}))
        print(summary(done), flush=True)


def summary(done: list[dict[str, Any]]) -> str:
    """Accuracies, their paired difference, who disagrees, and the ratio of times."""
    official_right = torch.tensor([value for chunk in done for value in chunk["official"]])
    our_right = torch.tensor([value for chunk in done for value in chunk["ours"]])
    pair = difference(our_right, official_right)
    ratios = [chunk["official_seconds"] / chunk["our_seconds"] for chunk in done]
    return (
        f"n {len(our_right)}: AutoAttack {official_right.double().mean():.2%}, ours {our_right.double().mean():.2%}, "
        f"ours - AutoAttack {100 * pair['difference']:+.2f} points ({100 * pair['low']:+.2f} to "
        f"{100 * pair['high']:+.2f}); only AutoAttack broke {int((our_right & ~official_right).sum())}, only we broke "
        f"{int((official_right & ~our_right).sum())}; {statistics.median(ratios):.2f} times as fast, median of "
        f"{len(ratios)} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
