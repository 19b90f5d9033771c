"""Where prepared bases and tokenized samples are kept between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$MEDLLM_CACHE`, or `~/.cache/medllm`. Everything in it can be made again."""
    return Path(os.environ.get("MEDLLM_CACHE") or Path.home() / ".cache" / "medllm")
