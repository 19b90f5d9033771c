"""What the libraries are told before they are imported."""

import logging
import os
import sys
import warnings
from typing import Any

from medllm.redaction import RedactedRecord

# Nobody is told that they are used: MLflow and the hub's client (gradio's, transformers') read the first, Ray the second.
NO_TELEMETRY = {"DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}
# How many kernels torch's CPU library, and torch around it, keep compiled.
KERNEL_CACHES, KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "64"


def prepare_libraries() -> None:
    """Ends their reports of who uses them and their advice, bounds what they keep, and takes secrets out of what they log.

    What the user's environment says stands.

    Their progress bars stay on a terminal, where loading and downloading take long, and go where a log would fill with
    them.

    oneDNN compiles a kernel for each new length of a conversation, up to a mebibyte each where the CPU multiplies bfloat16
    matrices, and keeps 1,024 of them: runs of the bundled model grew by 20 MiB a step (LOG.md). A step needs a few dozen.

    torch asks for its CPU memory in pages of 2 MiB where Linux gives them: a run has a quarter of the page faults then.
    """
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, KERNELS)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.setLogRecordFactory(RedactedRecord)
    # With this package bitsandbytes and transformers run what they download from the hub; so it is not there for them.
    hide("kernels")
    warnings.filterwarnings("ignore", category=FutureWarning)


def hide(package: str) -> None:
    """From now on libraries find that a package is not installed."""
    modules: dict[str, Any] = sys.modules
    modules[package] = None
