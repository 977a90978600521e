"""Where to compute: the name on a command line as a device that is there."""

import torch


def resolve(name: str) -> str:
    """`auto` as "cuda" where torch finds one and "cpu" elsewhere; a device that is asked for has to be there.

    Apple's GPUs are left out: they have no float64, in which threat models are verified.
    """
    there = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if there else "cpu"
    if name == "cuda" and not there:
        raise ValueError("The 'device' parameter must be a device that is there. Got 'cuda', and torch finds no CUDA.")
    return name
