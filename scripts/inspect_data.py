"""Shows what a run would train on: `python scripts/inspect_data.py [OVERRIDES] [show=3]`.

Samples in colour (green is supervised, dim is not), lengths, what was dropped, how the rows pack. Takes the same overrides
as train.py and loads no model weights.
"""

import sys
from typing import Any

from medllm.cli import guarded, pop_option
from medllm.config.compose import load_run_conf


def inspect(overrides: list[str], show: int) -> None:
    """Prints the report."""
    conf = load_run_conf(overrides)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from medllm.config.data import Batching
    from medllm.config.validate import effective_batching
    from medllm.conversation import Renderer
    from medllm.data.pipeline import build_datasets
    from medllm.models.base import build_tokenizer

    console = Console(highlight=False)
    renderer = Renderer(build_tokenizer(conf.model).tokenizer, conf.data.system_prompt)
    batching = effective_batching(conf)
    datasets = build_datasets(conf.data, renderer, batching, conf.seed)
    rows = datasets.train.samples.rows
    for sample in rows.select(range(min(show, len(rows)))).to_list():
        console.rule(f"{sample['conversation_id']}, {sample['length']} tokens")
        console.print(coloured(sample, renderer.tokenizer, Text()))
    table = Table(
        "", "conversations", "tokens", "supervised", "mean", "p50", "p90", "longest", title="lengths in tokens"
    )
    for name, side in (("training", datasets.train), ("held out", datasets.eval)):
        if side is not None:
            table.add_row(name, *length_row(side.samples.rows))
    console.print(table)
    fates = {**datasets.counts, **{f"rejected, {reason}": count for reason, count in datasets.rejected.items()}}
    console.print("fate      " + ", ".join(f"{count} {fate}" for fate, count in fates.items()))
    if batching is Batching.packed:
        packed = len(datasets.train.dataset)
        full = 100 * datasets.train.num_tokens / (packed * conf.data.max_length)
        console.print(f"packing   {packed} rows of up to {conf.data.max_length} tokens, {full:.1f} % full, none split")
    else:
        console.print(f"batching  {batching.name}")
    console.print(f"data      fingerprint {datasets.fingerprint[:16]}")


def coloured(sample: dict[str, Any], tokenizer: Any, text: Any) -> Any:
    """The sample's tokens: supervised ones green, all others dim; special tokens stay visible."""
    for token_id, label in zip(sample["input_ids"], sample["labels"], strict=True):
        text.append(tokenizer.decode([token_id]), style="bold green" if label != -100 else "dim")
    return text


def length_row(rows: Any) -> list[str]:
    """Counts and quantiles of one side."""
    lengths = sorted(rows["length"])
    supervised = sum(sum(label != -100 for label in labels) for labels in rows["labels"])
    total = sum(lengths)

    def quantile(share: float) -> str:
        return str(lengths[min(len(lengths) - 1, int(share * len(lengths)))])

    share = f"{100 * supervised / total:.0f} %"
    mean = f"{total / len(lengths):.0f}"
    return [str(len(lengths)), f"{total:,}", share, mean, quantile(0.5), quantile(0.9), str(lengths[-1])]


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit(0)
    arguments, show = pop_option(sys.argv[1:], "show", 3)
    sys.exit(guarded(lambda: inspect(arguments, show)))
