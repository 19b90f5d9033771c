"""Plain training steps, for tests of models."""

from typing import Any

import torch


def train_steps(model: Any, batch: dict[str, torch.Tensor], steps: int = 2) -> None:
    """Adam on one batch; the model is in eval mode afterwards."""
    model.train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
