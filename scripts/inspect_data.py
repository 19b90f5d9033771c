"""Shows what a run would train on: `python scripts/inspect_data.py [OVERRIDES] [show=3] [page=data_report.html]`.

Rows in and out per step, identifiers, duplicates, lengths, packing, and samples with what is supervised in colour. Takes the
same overrides as train.py and loads no model weights. `page=` writes all of it, with plots and examples, as one HTML file.
"""

from pathlib import Path

from medllm.command import pop_option, run_script
from medllm.config.compose import load_run_conf
from medllm.console import plain_console, tell


def inspect(overrides: list[str], show: int, page: str) -> None:
    """Prints the report, and writes it as a page if asked to."""
    conf = load_run_conf(overrides)

    from medllm.config.rules import effective_batching
    from medllm.conversation import Renderer
    from medllm.data.pipeline import build_datasets
    from medllm.data_page import html_page, print_view
    from medllm.data_view import data_view
    from medllm.models.base import build_tokenizer
    from medllm.run_folder import require_writable

    if page:
        require_writable(Path(page), "page")
    renderer = Renderer(build_tokenizer(conf.model).tokenizer, conf.data.system_prompt)
    datasets = build_datasets(conf.data, renderer, effective_batching(conf), conf.seed)
    view = data_view(datasets, conf.data, renderer, conf.trainer.per_device_train_batch_size, conf.seed, show)
    print_view(view, plain_console())
    if page:
        Path(page).write_text(html_page(view), encoding="utf-8")
        tell("page", page)


def main(arguments: list[str]) -> None:
    """Takes its own options off, and shows."""
    arguments, show = pop_option(arguments, "show", 3)
    arguments, page = pop_option(arguments, "page", "")
    inspect(arguments, show, page)


if __name__ == "__main__":
    run_script(main, __doc__)
