"""Which process this is, from the environment alone: known before anything heavy is imported or any process joined."""

import os


def torchrun() -> bool:
    """Whether torchrun (or what sets its variables) started this process."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))


def first() -> bool:
    """Whether this is the process that writes and speaks; true where there is only one."""
    if torchrun():
        return os.environ["RANK"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"
