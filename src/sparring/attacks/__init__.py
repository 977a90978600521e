"""The attacks, one file per family; each is a pure function `(gain, x, threat, ..., rng) -> z`.

`ATTACKS` names them all with where they live: import an attack from its file, `from sparring.attacks.apgd import apgd`.
"""

ATTACKS = (
    ("fgsm", "sparring.core.pgd", "one steepest step; Goodfellow et al. 2015"),
    ("pgd", "sparring.core.pgd", "projected steepest ascent in any threat model; Madry et al. 2018"),
    ("mi_fgsm", "sparring.attacks.momentum", "PGD with momentum; Dong et al. 2018"),
    ("apgd", "sparring.attacks.apgd", "Auto-PGD in Linf, L2, L1; Croce & Hein 2020"),
    ("targeted", "sparring.attacks.targeted", "any attack towards each strong rival; Croce & Hein 2020"),
    ("deepfool", "sparring.attacks.deepfool", "nearest linear boundary; Moosavi-Dezfooli et al. 2016"),
    ("carlini_wagner", "sparring.attacks.carlini_wagner", "minimal L2; Carlini & Wagner 2017"),
    ("ddn", "sparring.attacks.ddn", "minimal L2, direction and norm apart; Rony et al. 2019"),
    ("fmn", "sparring.attacks.fmn", "minimal L0, L1, L2, Linf; Pintor et al. 2021"),
    ("fab", "sparring.attacks.fab", "minimal Linf, L2, L1; Croce & Hein 2020"),
    ("fab_targeted", "sparring.attacks.fab", "the same towards each strong rival"),
    ("ead", "sparring.attacks.ead", "minimal elastic net; Chen et al. 2018"),
    ("square", "sparring.attacks.square", "black box, scores: random squares; Andriushchenko et al. 2020"),
    ("nes", "sparring.attacks.natural_evolution", "black box, scores: estimated gradient; Ilyas et al. 2018"),
    ("spsa", "sparring.attacks.natural_evolution", "black box, scores: estimated gradient; Uesato et al. 2018"),
    ("sparse_rs", "sparring.attacks.sparse_rs", "black box, scores: a few pixels; Croce et al. 2022"),
    ("boundary", "sparring.attacks.boundary", "black box, decisions: a walk along the boundary; Brendel et al. 2018"),
    ("hop_skip_jump", "sparring.attacks.hop_skip_jump", "black box, decisions; Chen et al. 2020"),
    ("transfer", "sparring.attacks.transfer", "any attack, on a surrogate"),
    ("patch", "sparring.attacks.patch", "anything in a square; Brown et al. 2017"),
    ("grid", "sparring.attacks.grid", "exhaustive search of few parameters; Engstrom et al. 2019"),
    ("universal", "sparring.attacks.universal", "one perturbation for all; Moosavi-Dezfooli et al. 2017"),
    ("greedy", "sparring.attacks.greedy", "discrete: ranked sites, best edits; Jin et al. 2020, Ren et al. 2019"),
    ("genetic", "sparring.attacks.genetic", "discrete: a population of texts; Alzantot et al. 2018"),
    ("hotflip", "sparring.attacks.hotflip", "discrete: edits by gradient, a beam; Ebrahimi et al. 2018"),
    ("random_edits", "sparring.attacks.random_edits", "discrete: a control with as many queries"),
    ("paraphrase", "sparring.attacks.paraphrase", "discrete: the best that a callable proposes"),
    ("trigger", "sparring.attacks.trigger", "discrete: a few words for all texts; Wallace et al. 2019"),
    ("gcg", "sparring.attacks.gcg", "discrete: a suffix of tokens for many prompts; Zou et al. 2023"),
)
"""Name, module, and what it is in a few words."""
