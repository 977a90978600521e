"""One file per command: its flags as a frozen dataclass, and a `run` that returns the exit code."""
