"""Runs fused steps, as CUDA graphs where launching kernels one by one would take longer than computing them."""

from dataclasses import dataclass
from typing import Any

import torch

from medllm.models.fused.plan import Plan
from medllm.models.fused.step import FusedStep, Tensor


@dataclass
class Graph:
    """The layers of one length, forward and backward, recorded.

    Attributes:
        input_ids: (T), read by the forward graph; so are the next two.
        position_ids: (T).
        bounds: (S + 1).
        forward: Replays to `x`.
        x: (T, D), the last layer's output.
        backward: Replays from the step's gradient buffer to the adapters' gradients.
    """

    input_ids: Tensor
    position_ids: Tensor
    bounds: Tensor
    forward: torch.cuda.CUDAGraph
    x: Tensor
    backward: torch.cuda.CUDAGraph


class FusedEngine:
    """What a trainer trains with: micro-batches in, gradients of one flat parameter out.

    Args:
        model: peft's.
        plan: What fits.
        max_length: No conversation is longer.

    Attributes:
        parameter: Every adapter weight, float32; peft's are views of it.
    """

    def __init__(self, model: Any, plan: Plan, max_length: int):
        self.plan = plan
        self.step = FusedStep(
            model, keep=plan.keep, kept_layers=plan.kept_layers, max_tokens=plan.max_tokens, max_length=max_length
        )
        self.parameter = self.step.adapters.parameter
        self._has_dropout = any(projection.p for projection in self.step.work.projections)
        self._graphs: dict[int, Graph] = {}
        self._pool: Any = None
        self._stream: Any = None

    @property
    def grad(self) -> Tensor:
        """Of the parameter."""
        return self.step.adapters.grad

    @torch.no_grad()
    def backward(self, batch: dict[str, Tensor], scale: Tensor) -> Tensor:
        """Adds the gradients of scale times the summed loss of a micro-batch; returns that loss (scalar, float32).

        Dropout's seed is drawn from torch's CPU generator, whose state checkpoints keep.

        Args:
            batch: From `medllm.data.collate.FlatCollator`, on the device.
            scale: Scalar, float32, on the device.
        """
        if not len(batch["targets"]):  # a rank that found no rows left in an epoch
            return torch.zeros((), device=scale.device)
        if self._has_dropout:
            self.step.work.seed.fill_(int(torch.randint(2**31, ())))
        if not self.plan.graphs:
            return self.step.backward(batch, scale)
        graph = self._graph(batch)
        for name in ("input_ids", "position_ids", "bounds"):
            getattr(graph, name).copy_(batch[name], non_blocking=True)
        graph.forward.replay()
        loss, _ = self.step.head_backward(graph.x, batch["positions"], batch["targets"], scale)
        graph.backward.replay()
        return loss

    @torch.no_grad()
    def warm_up(self, batch: dict[str, Tensor]) -> None:
        """Runs the longest micro-batch once, so that whatever will not fit does not fit now.

        Args:
            batch: As for `backward`; nothing of it is kept.
        """
        scale = torch.ones((), device=self.step.work.device)
        self.step.backward(batch, scale)
        self.grad.zero_()
        if self.plan.graphs:
            torch.cuda.empty_cache()  # the graphs' memory is their own
            self._graph(batch)  # the longest first: shorter ones live in its memory

    def release(self) -> None:
        """Lets memory go that only training needs; the model is an ordinary one again."""
        self._graphs.clear()
        self._pool = self._stream = None
        self.step.release()

    def _graph(self, batch: dict[str, Tensor]) -> Graph:
        tokens = len(batch["input_ids"])
        if tokens not in self._graphs:
            self._graphs[tokens] = self._record(batch)
        return self._graphs[tokens]

    def _record(self, batch: dict[str, Tensor]) -> Graph:
        """Records the layers for micro-batches as long as this one; nothing is computed meanwhile."""
        inputs = {name: batch[name].clone() for name in ("input_ids", "position_ids", "bounds")}
        if self._pool is None:  # memory is shared within a pool, and within a stream
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            forward.capture_begin(pool=self._pool)
            x, saved = self.step.forward(**inputs)
            forward.capture_end()
            grad = self.step.grad_buffer(tokens=len(x))
            backward.capture_begin(pool=self._pool)
            self.step.layers_backward(grad, saved, inputs["position_ids"], inputs["bounds"])
            backward.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        return Graph(**inputs, forward=forward, x=x, backward=backward)
