"""Gathers what there is to see of a run's data, and writes it into the run's folder."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medllm.config.data import Batching, DataConf, sources_of
from medllm.conversation import Renderer
from medllm.data.packing import best_fit
from medllm.data.pipeline import Datasets, Side
from medllm.data_page import DataView, SampleView, SideView, html_page
from medllm.run_folder import DATA, write_whole

SAMPLES = 3


def data_view(
    datasets: Datasets, conf: DataConf, renderer: Renderer, batch_size: int, seed: int, samples: int = SAMPLES
) -> DataView:
    """What a run trains on.

    Args:
        datasets: As training gets them.
        conf: The `data` group.
        renderer: Whose tokenizer wrote the samples.
        batch_size: Rows per micro-batch; decides how much padding costs.
        seed: Of packing and of the order of batches.
        samples: Conversations to show whole.
    """
    sides = {"training": datasets.train} | ({"held out": datasets.eval} if datasets.eval else {})
    rows = datasets.train.samples.rows
    return DataView(
        source=", ".join(str(source.path or source.dataset) for source in sources_of(conf).values()),
        fingerprint=datasets.fingerprint,
        report=datasets.report,
        sides={name: _side(side) for name, side in sides.items()},
        max_length=conf.max_length,
        fates=datasets.counts,
        batching=datasets.batching.name,
        fill=fill_by_layout(datasets.train.samples.lengths, conf.max_length, batch_size, seed),
        samples=[_sample(rows[i], renderer) for i in range(min(samples, len(rows)))],
    )


def _side(side: Side) -> SideView:
    samples = side.samples
    return SideView(
        len(samples.lengths), samples.given_lengths.tolist(), side.num_tokens, int(samples.supervised.sum())
    )


def _sample(row: dict[str, list[int]], renderer: Renderer) -> SampleView:
    """Runs of tokens of one state are decoded together, so that a letter of several tokens stays whole."""
    runs: list[tuple[list[int], bool]] = []
    for token_id, label in zip(row["input_ids"], row["labels"], strict=True):
        supervised = label != -100
        if not runs or runs[-1][1] != supervised:
            runs.append(([], supervised))
        runs[-1][0].append(token_id)
    return SampleView(str(row["conversation_id"]), [(renderer.tokenizer.decode(ids), state) for ids, state in runs])


def fill_by_layout(lengths: NDArray[np.int64], max_length: int, batch_size: int, seed: int) -> dict[str, float]:
    """Share of real tokens among all that are computed, in [0, 1], for every layout of `data.batching`."""
    shuffled = np.random.default_rng(seed).permutation(lengths)
    rows = len(best_fit(lengths.tolist(), max_length, seed))
    positions = {
        Batching.packed: rows * max_length,
        Batching.length_grouped: _padded(np.sort(shuffled), batch_size),
        Batching.padded: _padded(shuffled, batch_size),
        Batching.max_length: len(lengths) * max_length,
    }
    return {layout.name: float(lengths.sum()) / count for layout, count in positions.items()}


def _padded(lengths: NDArray[np.int64], batch_size: int) -> int:
    """Positions of batches padded to their longest."""
    starts = np.arange(0, len(lengths), batch_size)
    sizes = np.diff([*starts, len(lengths)])
    return int((np.maximum.reduceat(lengths, starts) * sizes).sum())


def write_data_report(view: DataView, folder: Path) -> tuple[Path, Path]:
    """Writes `data_report.html`, which shows texts, and `data_report.json`, which holds numbers alone."""
    page, numbers = folder / "data_report.html", folder / DATA
    page.write_text(html_page(view), encoding="utf-8")
    report = asdict(view.report)
    for step in report["steps"]:
        del step["examples"]
    summary = {
        "source": view.source,
        "fingerprint": view.fingerprint,
        "fates": view.fates,
        "batching": view.batching,
        "fill": view.fill,
        "report": report,
    }
    return page, write_whole(numbers, json.dumps(summary, indent=2))
