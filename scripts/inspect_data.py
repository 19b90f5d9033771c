"""Shows what a run would train on: `python scripts/inspect_data.py [OVERRIDES] [show=3] [page=data_report.html]`.

Rows in and out per step, identifiers, duplicates, lengths, packing, and samples with what is supervised in colour. Takes the
same overrides as train.py and loads no model weights. `page=` writes all of it, with plots and examples, as one HTML file.
"""

import sys
from pathlib import Path

from medllm.cli import guarded, pop_option
from medllm.config.compose import load_run_conf


def inspect(overrides: list[str], show: int, page: str) -> None:
    """Prints the report, and writes it as a page if asked to."""
    conf = load_run_conf(overrides)
    from rich.console import Console

    from medllm.config.rules import effective_batching
    from medllm.conversation import Renderer
    from medllm.data.pipeline import build_datasets
    from medllm.data_page import html_page, print_view
    from medllm.data_view import data_view
    from medllm.models.base import build_tokenizer

    renderer = Renderer(build_tokenizer(conf.model).tokenizer, conf.data.system_prompt)
    datasets = build_datasets(conf.data, renderer, effective_batching(conf), conf.seed)
    view = data_view(datasets, conf.data, renderer, conf.trainer.per_device_train_batch_size, conf.seed, show)
    print_view(view, Console(highlight=False))
    if page:
        Path(page).write_text(html_page(view), encoding="utf-8")
        print(f"page      {page}")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0)
    arguments, show = pop_option(sys.argv[1:], "show", 3)
    arguments, page = pop_option(arguments, "page", "")
    sys.exit(guarded(lambda: inspect(arguments, show, page)))
