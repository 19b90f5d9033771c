"""The final loss of each held-out conversation: a file of a run's folder by itself, for it alone needs NumPy to be read."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save_file

from medllm.intact import read_file
from medllm.run_folder import FIXES, LOSSES


@dataclass(frozen=True)
class ConversationLosses:
    """Loss of each held-out conversation, so that two runs can be compared conversation by conversation.

    Attributes:
        conversation: What it is, (N,) int64: the first 8 bytes of the digest of its roles and texts, little-endian.
        loss: Summed cross-entropy of its supervised tokens in nats, (N,) float64.
        num_tokens: Its supervised tokens, (N,) int64.
    """

    conversation: NDArray[np.int64]
    loss: NDArray[np.float64]
    num_tokens: NDArray[np.int64]

    def save(self, folder: Path) -> Path:
        """Writes `eval_losses.safetensors`."""
        path = folder / LOSSES
        save_file(asdict(self), path)
        return path

    @classmethod
    def load(cls, folder: Path) -> "ConversationLosses | None":
        """Reads it; None where the run has none."""
        path = folder / LOSSES
        return read_file(path, cls._parse, FIXES[LOSSES]) if path.is_file() else None

    @classmethod
    def _parse(cls, data: bytes) -> "ConversationLosses":
        found = cls(**load(data))
        if not found.conversation.shape == found.loss.shape == found.num_tokens.shape == (found.loss.size,):
            raise ValueError
        return found
