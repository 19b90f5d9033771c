"""Prepared conversations of a configuration: what was prepared before comes from the cache."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medllm.cache import cached, code_version, key_of
from medllm.config.data import DataConf, SourceConf, sources_of
from medllm.data.preparation.report import PreparationReport, load_report
from medllm.data.sources.read import source_fingerprint
from medllm.data.store import Conversations


@dataclass(frozen=True)
class Prepared:
    """Conversations ready to be drawn, split and rendered.

    Attributes:
        conversations: All that were kept, in the order of the sources.
        clusters: Which of them belong together, (number of conversations,) int64: near copies of a question, one group.
        report: What was done.
    """

    conversations: Conversations
    clusters: NDArray[np.int64]
    report: PreparationReport


def prepare(conf: DataConf) -> Prepared:
    """Reads, cleans, de-identifies and de-duplicates the sources of a configuration, or takes it from the cache.

    Raises:
        DataError: if a source cannot be read, or nothing is left of it.
    """

    def make(staging: Path) -> None:
        from medllm.data.preparation.build import (
            build,  # imports every step of cleaning: only if there is something to do
        )

        build(conf, staging)

    about = {"source": ", ".join(str(source.path or source.dataset) for source in sources_of(conf).values())}
    folder = cached("prepared", preparation_key(conf), make, about)
    conversations = Conversations.open(folder / "conversations.arrow", np.load(folder / "rows.npy"))
    report = load_report(json.loads((folder / "report.json").read_text()))
    return Prepared(conversations, np.load(folder / "clusters.npy"), report)


def preparation_key(conf: DataConf) -> str:
    """A hash of all that changes the result: content of the sources, how they are read, every step, code and libraries."""
    sources = [
        (name, source_fingerprint(source), source.encoding, asdict(source.columns))
        for name, source in sources_of(conf).items()
    ]
    benchmarks = [source_fingerprint(SourceConf(path=path)) for path in conf.contamination.benchmarks]
    steps = [asdict(step) for step in (conf.cleaning, conf.deidentification, conf.deduplication, conf.contamination)]
    package = Path(__file__).parents[1]
    files = [*package.glob("sources/*.py"), *package.glob("preparation/*.py")]
    files += [package / "messages.py", package / "store.py", package.parent / "conversation.py"]
    return key_of(sources, benchmarks, steps, code_version(files, ("ftfy", "py3langid", "rensa")))
