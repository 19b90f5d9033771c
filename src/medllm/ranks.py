"""The processes that train one run together, as torchrun and `accelerate launch` start them: one per device, each with a rank.

Every rank walks the same way from configuration to artifact and stays in step with the others; rank 0 alone leaves traces. A run
in one process is rank 0 of one, and nothing here costs it anything.

Small things travel through the hosts, so that no rank waits for its GPU to hear of them; gradients travel between the GPUs.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # torch takes seconds to import, and gates ask for the number of ranks before
    import torch

Thing = TypeVar("Thing")


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def local_rank() -> int:
    """This process's among those of this machine, from 0: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """Whether this process keeps the record, writes the files and speaks to people."""
    return rank() == 0


@contextlib.contextmanager
def connected(device: str) -> Iterator[None]:
    """Connects the ranks of a run until it ends well; a rank that fails leaves, which the others notice.

    Args:
        device: Of this rank: `cpu`, or a GPU of its own.
    """
    if world_size() == 1:
        yield
        return
    import torch
    from torch import distributed

    if device == "cpu":  # accelerate would call it cpu:0, and a move there copies, away from the engine's one parameter
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    else:
        torch.cuda.set_device(device)
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    yield
    wait()
    distributed.destroy_process_group()


def add_up(tensor: "torch.Tensor") -> "torch.Tensor":
    """Sums a tensor over all ranks in its place, on its device and without waiting for it."""
    if world_size() > 1:
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


def spread(tensor: "torch.Tensor") -> None:
    """Writes rank 0's tensor into that of all others."""
    if world_size() > 1:
        from torch import distributed

        distributed.broadcast(tensor, src=0)


def gather(thing: Thing) -> list[Thing]:
    """The thing of each rank, in their order; a rank gets here when all have."""
    if world_size() == 1:
        return [thing]
    from torch import distributed

    things: list[Thing] = [thing] * world_size()
    distributed.all_gather_object(things, thing)
    return things


def of_main(thing: Thing) -> Thing:
    """Rank 0's thing."""
    return gather(thing)[0]


def wait() -> None:
    """Until all ranks are here."""
    gather(None)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """A block that rank 0 goes through before the others: what it leaves on the disk, they find."""
    if not is_main():
        wait()
    try:
        yield
    finally:
        if is_main():
            wait()
