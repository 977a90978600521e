"""Files that are whole or absent: atomic writes, safetensors weights, and the state that resumes a run.

A write goes to a temporary file beside its target, is flushed to the disk and then renamed over it, so a kill or a
full disk at any instant leaves the previous file. Nothing here can execute what it reads: weights are safetensors,
the resume state is read with `weights_only=True`.
"""

import io
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A file that cannot be read or written, or does not fit the model."""


def write(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises CheckpointError where the disk refuses, leaving the previous file as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"Cannot write {path} ({len(content)} bytes): {error.strerror}. What was there is intact."
        ) from error


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write a state dict as safetensors, atomically."""
    write(path, save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors weights into the model. Raises CheckpointError naming the tensors that do not fit."""
    try:
        state = load_tensors(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no weights file {path}.") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}). Pickled weights are not read."
        ) from error
    check_fit(path, state, model.state_dict())
    model.load_state_dict(state)


def check_fit(path: Path, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Raises CheckpointError naming the tensors of a file that do not fit a model's own state dict."""
    wrong = [f"{name} is not in the model" for name in state if name not in own]
    wrong += [f"{name} is not in the file" for name in own if name not in state]
    wrong += [
        f"{name} is {list(state[name].shape)} in the file and {list(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise CheckpointError(f"{path} does not fit the model: {shown}.")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a nested state of tensors and plain values, atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote. Raises CheckpointError where the file is damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a resume state ({type(error).__name__}: {error}).") from error
    return state
