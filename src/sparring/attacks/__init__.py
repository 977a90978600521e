"""The attacks, one file per family; each is a pure function `(gain, x, threat, ..., rng) -> z`."""
