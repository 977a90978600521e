"""ROC curves in few points and the interval of the area under them, against definitions written out."""

import pytest
import torch

from sparring.evaluation.detection import auroc
from sparring.evaluation.detection_curve import area, curve


def test_a_point_is_the_most_that_is_detected_at_its_rate_of_false_alarms() -> None:
    rng = torch.Generator().manual_seed(0)
    benign = torch.randn(300, generator=rng, dtype=torch.float64).round(decimals=1)
    malicious = 1 + torch.randn(80, generator=rng, dtype=torch.float64).round(decimals=1)
    points = curve(benign, malicious, 20)
    assert 10 < len(points) <= 21
    thresholds = torch.cat([benign, malicious, torch.tensor([float("inf")])]).unique()
    for point in points:
        reached = [
            float((malicious >= t).double().mean())
            for t in thresholds
            if float((benign >= t).double().mean()) <= point["false positives"] + 1e-12
        ]
        assert point["detection"] == max(reached)
    for name in ("false positives", "detection"):
        values = [point[name] for point in points]
        assert values == sorted(values)
    assert points[-1] == {"false positives": 1.0, "detection": 1.0}


def test_classes_that_are_apart_have_area_one_and_no_doubt() -> None:
    rng = torch.Generator().manual_seed(0)
    low, high = torch.rand(40, dtype=torch.float64), 2 + torch.rand(30, dtype=torch.float64)
    assert area(low, high, rng, resamples=20) == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    assert curve(low, high)[0] == {"false positives": 0.0, "detection": 1.0}


def test_the_area_lies_in_its_interval_which_more_rows_make_narrower() -> None:
    rng = torch.Generator().manual_seed(0)
    widths = []
    for n in (50, 1000):
        benign = torch.randn(n, generator=rng, dtype=torch.float64)
        malicious = 1 + torch.randn(n, generator=rng, dtype=torch.float64)
        found = area(benign, malicious, rng, resamples=50)
        labels = torch.arange(2 * n) >= n
        assert found["value"] == auroc(torch.cat([benign, malicious]), labels)
        assert found["low"] < found["value"] < found["high"]
        widths.append(found["high"] - found["low"])
    assert widths[1] < widths[0] / 2
