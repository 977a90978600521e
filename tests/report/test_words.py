"""Numbers and names in words."""

import pytest

from sparring.report import words
from sparring.report.read import Estimate, letter


def test_share_has_one_decimal_and_an_interval() -> None:
    assert words.share(Estimate(0.9333, 0.9062, 0.9534, 450)) == "93.3 % (90.6 to 95.3)"
    assert words.share(Estimate(1.0, None, None, None)) == "100.0 %"
    assert words.share(None) == "–"


@pytest.mark.parametrize(("eps", "said"), [(0.15, "0.15"), (8 / 255, "8/255"), (0.5, "0.5"), (1.0, "1"), (12.0, "12")])
def test_radius(eps: float, said: str) -> None:
    assert words.radius(eps) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fgsm", "FGSM"),
        ("pgd-20", "PGD-20"),
        ("pgd-100-margin", "PGD-100, margin loss"),
        ("worst", "Worst case"),
        ("my own", "my own"),
    ],
)
def test_attack_names(name: str, said: str) -> None:
    assert words.attack(name) == said


L2 = "the changes to all pixels together may be up to 0.5 long (Euclidean, pixel range 1)"


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        ({"norm": "linf", "eps": 0.3, "low": -1.0, "high": 1.0}, "each pixel may change by up to 0.15 of its range"),
        ({"norm": "l2", "eps": 0.5}, L2),
        ({"norm": "l1", "eps": 12}, "the changes to all pixels may add up to 12 (pixel range 1)"),
        (
            {"norm": "masked", "share": 0.25, "inner": {"norm": "linf", "eps": 0.5}},
            "only a chosen 25.0 % of the pixels may change, and there each pixel may change by up to 0.5 of its range",
        ),
        ({"norm": "union", "members": [{"norm": "l0", "eps": 5}, {"norm": "odd", "eps": 1}]},
         "up to 5 pixels may change freely or the attacker is limited by odd with eps 1"),
        ({}, "the attacker is limited by a threat model that the record does not state"),
    ],
)  # fmt: skip
def test_threats_in_words(threat: dict[str, object], said: str) -> None:
    assert words.threat_clause(threat, "pixel") == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(31.24, "31.2 s"), (59.97, "1 min 0 s"), (312, "5 min 12 s"), (11000, "3 h 3 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_letters_go_on_after_z() -> None:
    assert [letter(i) for i in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
