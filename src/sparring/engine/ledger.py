"""Finished parts of a long piece of work, one small file each: an interrupted one goes on where it stopped."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sparring.engine import checkpoint


@dataclass(frozen=True)
class Ledger:
    """A folder of safetensors files.

    Args:
        folder: made when the first part is written.
    """

    folder: Path

    def read(self, key: str) -> dict[str, Tensor] | None:
        """The part of that key, None where there is none or it is damaged: then it is done again."""
        try:
            return load(self._file(key).read_bytes())
        except (OSError, SafetensorError):
            return None

    def write(self, key: str, chunk: dict[str, Tensor]) -> None:
        """Keep a part, atomically. Raises CheckpointError where the disk refuses."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in chunk.items()}
        checkpoint.write(self._file(key), save(whole))

    def clear(self) -> None:
        """Forget everything: the work is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '_')}.safetensors"
