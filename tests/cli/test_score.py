"""`sparring score`: every flow gets its verdict, every malformed row its reason, and memory grows with neither."""

import csv
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparring.cli import main
from sparring.commands.ahead import ahead
from sparring.domains.flow import models
from sparring.domains.flow.artefact import Layer, load, to_bytes
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.scoring import Scorer
from sparring.domains.flow.table import Table

SCHEMA = Schema(
    "office",
    (
        Field("bytes", "integer", "up", log=True, unit="bytes"),
        Field("protocol", "category"),
        Field("share", "rate", high=1.0, step=0.01),
        Field("a, quoted", "real"),
        Field("count", "integer", high=500.0),
    ),
    label="label",
    benign=("normal",),
)
HEADER = 'bytes,protocol,share,"a, quoted",count'


def table(n: int, seed: int = 0) -> Table:
    chance = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "bytes": np.round(np.exp(chance.uniform(0, 12, n))),
        "protocol": chance.choice(np.array(["icmp", "tcp", "udp"], object), n),
        "share": chance.integers(0, 101, n) / 100,
        "a, quoted": chance.uniform(0, 9, n).round(3),
        "count": chance.integers(0, 501, n).astype(np.float64),
    }
    return Table(SCHEMA, columns, np.empty(0, object))


def text(rows: Table) -> list[str]:
    return [f"{b:.0f},{p},{s:.2f},{q:.3f},{c:.0f}" for b, p, s, q, c in zip(*rows.columns.values(), strict=True)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a detector that calls half of the flows attacks."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    made = Preprocessing.fit(table(300))
    u, model = made.encode(table(300)), models.mlp(made.width)
    margin = torch.tensor([-1.0, 1.0]) @ model(u).detach().double().float().T
    given = {"preprocessing": made, "threshold": float(margin.double().sigmoid().quantile(0.5)), "reference": u.mean(0)}
    Path("run").mkdir()
    Path("run/detector.safetensors").write_bytes(to_bytes(model, spec="mlp", false_positives=0.01, **given))
    Path("flows.csv").write_text("\n".join([HEADER, *text(table(300))]) + "\n")
    return tmp_path


def read(path: str = "scored.csv") -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def sparring(*arguments: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "sparring", *arguments], capture_output=True, **more)


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("chunk", ["7", "50000"])
def test_every_flow_gets_the_answer_that_the_detector_gives(
    place: Path, threads: str, chunk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", "run", "flows.csv", "--threads", threads, "--chunk", chunk]) == 0
    detector = load("run/detector.safetensors")
    scorer = Scorer(detector)
    answer, found = scorer(detector.preprocessing.encode(table(300))), read()
    assert [int(row["line"]) for row in found] == list(range(2, 302))
    assert [row["verdict"] == "attack" for row in found] == answer.attack.tolist()
    assert 100 < answer.attack.sum() < 200
    assert {row["layer"] for row in found} == {"classifier"}
    for k, row in enumerate(found):
        assert float(row["score"]) == pytest.approx(float(answer.score[k]), rel=1e-5)
        for j in range(3):
            assert row[f"feature_{j + 1}"] == scorer.columns[int(answer.columns[k, j])]
            assert float(row[f"contribution_{j + 1}"]) == pytest.approx(float(answer.contributions[k, j]), rel=6e-3)
            assert row[f"contribution_{j + 1}"][0] in "+-"
    said = capsys.readouterr()
    assert said.out == "scored.csv\n"
    assert f"300 flows in {'0'}" in said.err
    assert f"{int(answer.attack.sum())} alarms" in said.err
    assert read("refused.csv") == []


def test_malformed_rows_are_written_aside_and_the_others_keep_their_lines(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = text(table(6))
    bad = {3: "1,tcp,0.50", 5: "x,tcp,0.50,1,2", 8: '1,"tcp,0.50,1,2', 9: "1,tcp,1.50,1,2"}
    lines = [HEADER, good[0], bad[3], good[1], bad[5], "", good[2], bad[8], bad[9], good[3], "   ", good[4], good[5]]
    Path("flows.csv").write_text("\n".join(lines))
    assert main(["score", "run", "flows.csv", "--json", "--chunk", "4"]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert (summary["rows"], summary["refused"]) == (6, 4)
    assert [int(row["line"]) for row in read()] == [2, 4, 7, 10, 12, 13]
    aside = read("refused.csv")
    assert {int(row["line"]): row["text"] for row in aside} == bad
    assert aside[1]["reason"].startswith("'bytes' must be an integer")
    assert "4 malformed rows are in refused.csv. The first, line 3: the row must have 5 cells. Got 3." in said.err


def test_json_is_one_object(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "run/detector.safetensors", "flows.csv", "--json", "--out", "to/a.csv", "--run", "to"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary) == {
        *("rows", "alarms", "alarms_by_layer", "refused", "seconds", "rows_per_second"),
        *("model", "flows", "out", "refused_out", "threshold"),
    }
    assert summary["alarms"] == sum(row["verdict"] == "attack" for row in read("to/a.csv"))
    assert summary["alarms_by_layer"] == {"classifier": summary["alarms"]}
    assert Path("to/refused.csv").read_text() == "line,reason,text\n"


def test_columns_are_found_by_name_and_labels_are_not_read(place: Path) -> None:
    main(["score", "run", "flows.csv"])
    expected = [{**row} for row in read()]
    rows = [row.split(",") for row in text(table(300))]
    turned = [",".join([q, "ignored", "", c, b, s, p]) for b, p, s, q, c in rows]
    Path("flows.csv").write_text("\n".join(['"a, quoted",note,label,count,bytes,share,protocol', *turned]) + "\n")
    assert main(["score", "run", "flows.csv"]) == 0
    assert read() == expected


def test_a_second_layer_signs_its_alarms(place: Path) -> None:
    detector = load("run/detector.safetensors")
    torch.manual_seed(4)
    behind = models.autoencoder(detector.preprocessing.width)
    u = detector.preprocessing.encode(table(300))
    at = float((behind(u) - u).square().mean(1).detach().quantile(0.5))
    whole = to_bytes(
        detector.model,
        spec="mlp",
        preprocessing=detector.preprocessing,
        threshold=detector.threshold,
        false_positives=0.01,
        reference=detector.reference,
        layers=(Layer("autoencoder", behind, at),),
    )
    Path("two.safetensors").write_bytes(whole)
    main(["score", "run", "flows.csv", "--out", "one.csv"])
    assert main(["score", "two.safetensors", "flows.csv"]) == 0
    for one, two in zip(read("one.csv"), read(), strict=True):
        assert two["score"] == one["score"]
        assert two["layer"] == "classifier" or (one["verdict"], two["verdict"]) == ("benign", "attack")
    assert {(row["verdict"], row["layer"]) for row in read()} == {
        *(("attack", "classifier"), ("attack", "autoencoder"), ("benign", "classifier"))
    }


def test_a_pipe_is_read_and_answered(place: Path) -> None:
    main(["score", "run", "flows.csv"])
    content = b"\xef\xbb\xbf" + Path("flows.csv").read_bytes()
    done = sparring("score", "run", "-", "--out", "-", input=gzip.compress(content))
    assert done.returncode == 0, done.stderr
    assert done.stdout == Path("scored.csv").read_bytes()


def test_a_pipe_is_answered_before_it_ends(place: Path) -> None:
    """Whoever watches live traffic sees each full chunk at once, and Ctrl-C ends the wait for the next."""
    command = [sys.executable, "-m", "sparring", "score", "run", "-", "--out", "-", "--chunk", "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join([HEADER, *text(table(5))]).encode() + b"\n")
        process.stdin.flush()
        found = [process.stdout.readline() for _ in range(6)]
        assert found[-1].startswith(b"6,")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGINT  # 130 in a shell
        assert not list(place.glob(".*.tmp"))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_what_was_there(place: Path, stop: signal.Signals) -> None:
    Path("scored.csv").write_text("earlier\n")
    command = [sys.executable, "-m", "sparring", "score", "run", "-", "--chunk", "5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write("\n".join([HEADER, *text(table(23))]).encode() + b"\n")
        process.stdin.flush()
        for _ in range(600):
            if list(place.glob(".scored.csv.*.tmp")):
                break
            time.sleep(0.05)
        process.send_signal(stop)
        assert process.wait(timeout=30) == -stop
    assert Path("scored.csv").read_text() == "earlier\n"
    assert not Path("refused.csv").exists()
    assert stop == signal.SIGKILL or not list(place.glob(".*.tmp"))


def test_a_full_disk_is_told_and_leaves_what_was_there(place: Path) -> None:
    """As a disk that takes 9,000 bytes a file: the 300 verdicts have more."""
    Path("scored.csv").write_text("earlier\n")
    limited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # noqa: E731
    done = sparring("score", "run", "flows.csv", "--chunk", "50", preexec_fn=limited)
    assert done.returncode == 2
    assert done.stderr.decode() == "error: Cannot write scored.csv: File too large. What was there is intact.\n"
    assert Path("scored.csv").read_text() == "earlier\n"
    assert not list(place.glob(".*.tmp"))


def test_memory_does_not_grow_with_the_file(place: Path) -> None:
    """200,000 rows more, whose verdicts alone are 20 MB."""
    block = "\n".join(text(table(10_000))).encode() + b"\n"

    def peak(blocks: int) -> float:
        command = [sys.executable, "-m", "sparring", "score", "run", "-", "--chunk", "5000"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            process.stdin.write(HEADER.encode() + b"\n")
            for _ in range(blocks):
                process.stdin.write(block)
            process.stdin.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_maxrss / 1024

    small, large = peak(4), peak(24)
    assert large - small < 8, f"{small:.0f} MiB for 40,000 rows, {large:.0f} MiB for 240,000"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "flows.csv"], "nothing must be a file that holds a detector"),
        (["flows.csv", "flows.csv"], "flows.csv is not a whole safetensors file"),
        ([".", "flows.csv"], "must hold detector.safetensors"),
        (["run", "nothing.csv"], "nothing.csv must be a file of flows"),
        (["run", "short.csv"], "It lacks a, quoted, count"),
        (["run", "flows.csv", "--chunk", "0"], "'chunk' parameter must be an int in the range [1, inf). Got 0"),
        (["run", "flows.csv", "--threads", "0"], "'threads' parameter must be an int in the range [1, inf). Got 0"),
        (["run", "flows.csv", "--json", "--out", "-"], "cannot both have standard output"),
        (["run", "flows.csv", "--out", "./flows.csv"], "--out and FLOWS must be different files"),
        (["run", "flows.csv", "--out", "a", "--refused", "a"], "--out and --refused must be different files"),
    ],
)
def test_bad_input_is_named(place: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("short.csv").write_text("bytes,protocol,share\n1,tcp,0.5\n")
    before = sorted(place.iterdir())
    try:
        code: object = main(["score", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in error
    assert "Traceback" not in error
    assert sorted(place.iterdir()) == before


def test_a_bar_appears_for_those_who_wait(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from sparring.commands import scored

    monkeypatch.setattr(scored, "PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    drawn: list[dict[str, Any]] = []
    bar = scored._bar()
    update = bar.update
    monkeypatch.setattr(bar, "update", lambda task, **said: (drawn.append(said), update(task, **said)))
    monkeypatch.setattr(scored, "_bar", lambda: bar)
    assert main(["score", "run", "flows.csv", "--chunk", "50", "--threads", "1"]) == 0
    assert len(drawn) == 6
    assert drawn[-1]["completed"] == Path("flows.csv").stat().st_size == bar.tasks[0].total
    assert drawn[-1]["rows"].startswith("300 flows, ")


def test_what_is_ahead_keeps_its_order_its_errors_and_its_distance() -> None:
    made = []

    def counting() -> Any:
        for k in range(5):
            made.append(k)
            yield k
        raise OSError("damaged")

    with ahead(counting()) as elements:
        for k in range(5):
            assert next(elements) == k
            time.sleep(0.02)
            assert len(made) <= k + 3  # one that is used, one that waits, one that is being made
        with pytest.raises(OSError, match="damaged"):
            next(elements)
