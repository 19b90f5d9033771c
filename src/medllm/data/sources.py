"""Reads rows: a local file in one of the usual table formats, or a data set on the hub."""

from pathlib import Path
from typing import Any

from medllm.config.data import DataConf, HubDataConf, LocalDataConf
from medllm.config.store import project_root
from medllm.errors import DataError

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}


def local_path(conf: LocalDataConf) -> Path:
    """The file's place; a relative path starts at the project's root, wherever the command was typed."""
    path = Path(conf.path).expanduser()
    return path if path.is_absolute() else project_root() / path


def read_rows(conf: DataConf) -> list[dict[str, Any]]:
    """All rows of a source, as dictionaries.

    Raises:
        DataError: if the source does not exist, has an unknown format or cannot be parsed.
    """
    import datasets

    datasets.disable_progress_bars()
    if isinstance(conf, HubDataConf):
        try:
            return datasets.load_dataset(conf.dataset, revision=conf.revision, split=conf.split).to_list()
        except Exception as error:  # the hub's client raises many kinds; the reason is in each one's first line
            reason = str(error).strip().split("\n")[0]
            raise DataError(
                f"data.dataset={conf.dataset} cannot be loaded from the hub: {reason}\n"
                "    fix: check name and connection, or use a local copy: data=local data.path=FILE"
            ) from None
    if not isinstance(conf, LocalDataConf):
        raise DataError(f"data: no reader for {type(conf).__name__}")
    path = local_path(conf)
    if not path.is_file():
        raise DataError(f"data.path={conf.path}: no such file ({path})\n    fix: give the path of an existing file")
    if path.suffix.lower() not in READERS:
        raise DataError(f"data.path={conf.path}: unknown format\n    allowed: {', '.join(sorted(READERS))}")
    if not path.stat().st_size:
        raise DataError(f"data.path={conf.path}: the file is empty")
    return _read_file(path, conf.path)


def _read_file(path: Path, given: str) -> list[dict[str, Any]]:
    import pandas as pd

    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix == ".csv" or suffix == ".tsv":
            separator = "\t" if suffix == ".tsv" else ","
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_json(path, lines=suffix == ".jsonl", dtype=False, convert_dates=False)
    except (ValueError, TypeError, AttributeError, OSError, pd.errors.ParserError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"data.path={given}: cannot be read as {suffix[1:]}: {reason}") from None
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
