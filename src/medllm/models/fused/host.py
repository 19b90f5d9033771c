"""Layer inputs that wait for the backward pass in the host's memory, copied while the GPU computes."""

import torch

from medllm.models.fused.reference import Tensor


class HostInputs:
    """One place per layer in page-locked memory, and a stream of its own for copies.

    The next layer's input is fetched while this one's backward pass runs: a copy takes a fraction of that, and needs
    room for one input more on the device.

    Args:
        shape: (layers, T, D) of the longest micro-batch.
        dtype: Of the inputs.
        device: A GPU; on a CPU copies are plain ones.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.device = device
        self.places = torch.empty(shape, dtype=dtype, pin_memory=self.on_gpu)
        self.stream = torch.cuda.Stream(device) if self.on_gpu else None
        self._coming: dict[int, Tensor] = {}

    def put(self, layer: int, x: Tensor) -> None:
        """Starts the copy of a layer's input (T, D); x may be let go at once."""
        place = self.places[layer, : len(x)]
        if self.stream is None:
            place.copy_(x)
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            place.copy_(x, non_blocking=True)
        x.record_stream(self.stream)

    def take(self, layer: int, tokens: int) -> Tensor:
        """A layer's input, and starts to fetch that of the layer below."""
        if layer not in self._coming:
            self._fetch(layer, tokens)
        x = self._coming.pop(layer)
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
            x.record_stream(torch.cuda.current_stream())
        if layer:
            self._fetch(layer - 1, tokens)
        return x

    def _fetch(self, layer: int, tokens: int) -> None:
        place = self.places[layer, :tokens]
        if self.stream is None:
            self._coming[layer] = place.clone()
            return
        with torch.cuda.stream(self.stream):
            self._coming[layer] = place.to(self.device, non_blocking=True)
