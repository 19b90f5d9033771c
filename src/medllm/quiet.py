"""Keeps the console for what people need."""

import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Silences the libraries' advice to developers; call it before they are imported.

    Their progress bars stay on a terminal, where loading and downloading take long, and go where a log would fill with
    them.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
