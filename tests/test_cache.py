"""The cache of prepared data: used twice, never half, cleared on request."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medllm.cache import ABOUT, SUMS, cache_entries, cached, clear_cache, key_of
from medllm.config.compose import load_run_conf
from medllm.config.data import DataConf, LocalDataConf, MixDataConf, SourceConf
from medllm.config.preparation import (
    Action,
    CleaningConf,
    ContaminationConf,
    DeduplicationConf,
    Deidentification,
    DeidentificationConf,
    DuplicateKey,
)
from medllm.conversation import Conversation, Message, Renderer
from medllm.data.preparation.prepare import preparation_key, prepare
from medllm.data.store import Conversations
from medllm.data.tokenize import tokenize
from medllm.errors import ConfigError, DataError, StorageError
from medllm.models.tiny import build_tiny_tokenizer
from medllm.sweep.rates import Rate, read_rate, write_rate
from tests.data.files import CHECKS, SWITCHES, write_csv, write_jsonl

ROOT = Path(__file__).parents[1]
ROWS = [("I cough all night long", "Drink some warm tea."), ("My knee hurts a lot", "Rest it for two days.")]

# A process that prepares a file and says what it got; `{hook}` is run in the middle of its build.
PREPARES = """
import sys, time
from medllm.config.data import LocalDataConf
from medllm.data.preparation import build, prepare
whole = build._write
def slow(*arguments):
    whole(*arguments)
    print("building", flush=True)
    time.sleep({seconds})
build._write = slow
print(len(prepare.prepare(LocalDataConf(path=sys.argv[1])).conversations), flush=True)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, so that nothing of anybody else's is cleared."""
    monkeypatch.setenv("MEDLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two dialogues."""
    return write_csv(tmp_path / "a.csv", ROWS)


def started(table: Path, seconds: float) -> subprocess.Popen[str]:
    """A process that prepares it, with a pause in the middle."""
    command = [sys.executable, "-c", PREPARES.replace("{seconds}", str(seconds)), str(table)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)


def test_a_second_use_reads_nothing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same conversations, clusters and report, from disk."""
    first = prepare(LocalDataConf(path=str(table)))
    monkeypatch.setattr("medllm.data.preparation.build.build", lambda *_: pytest.fail("built again"))
    again = prepare(LocalDataConf(path=str(table)))
    assert list(again.conversations) == list(first.conversations)
    assert (again.report, again.clusters.tolist()) == (first.report, first.clusters.tolist())


def one(change: Callable[[Any], Any]) -> Callable[[LocalDataConf, Path], Any]:
    """A change of the configuration alone."""
    return lambda conf, _: change(conf)


def set_to(node: str, name: str, value: Any) -> Callable[[LocalDataConf, Path], Any]:
    """One field of one step."""
    return one(lambda conf: setattr(getattr(conf, node), name, value))


CHANGES = {
    **{f"cleaning.{name}": set_to("cleaning", name, False) for name in SWITCHES},
    **{f"cleaning.{name}": set_to("cleaning", name, Action.keep) for name in CHECKS},
    "cleaning.min_words": set_to("cleaning", "min_words", 3),
    "cleaning.max_characters": set_to("cleaning", "max_characters", 999),
    "cleaning.languages": set_to("cleaning", "languages", ["en"]),
    "deidentification.mode": set_to("deidentification", "mode", Deidentification.surrogate),
    "deidentification.seed": set_to("deidentification", "seed", 66),
    "deduplication.exact": set_to("deduplication", "exact", False),
    "deduplication.near": set_to("deduplication", "near", False),
    "deduplication.by": set_to("deduplication", "by", DuplicateKey.conversation),
    "deduplication.threshold": set_to("deduplication", "threshold", 0.7),
    "deduplication.split_threshold": set_to("deduplication", "split_threshold", 0.5),
    "contamination.column": set_to("contamination", "column", "q"),
    "contamination.action": set_to("contamination", "action", Action.drop),
    "contamination.threshold": set_to("contamination", "threshold", 0.6),
    "contamination.benchmarks": set_to("contamination", "benchmarks", []),
    "encoding": one(lambda conf: setattr(conf, "encoding", "utf-8")),
    "columns.patient": set_to("columns", "patient", "Patient"),
    "columns.roles": set_to("columns", "roles", {"nurse": "user"}),
    "content": lambda conf, folder: (folder / "a.csv").write_text("Patient,Doctor\na,b\n"),
    "content of a benchmark": lambda conf, folder: write_jsonl(folder / "b.jsonl", [{"question": "other"}]),
    "name of the file": lambda conf, folder: setattr(conf, "path", shutil.copy(folder / "a.csv", folder / "c.csv")),
}
NO_CHANGES = {
    "folder of the file": lambda conf, folder: setattr(
        conf, "path", shutil.copy(folder / "a.csv", folder / "elsewhere" / "a.csv")
    ),
    "time of the file": lambda conf, folder: os.utime(folder / "a.csv", (1, 1)),
    "num_conversations": one(lambda conf: setattr(conf, "num_conversations", 2)),
    "shuffle_seed": one(lambda conf: setattr(conf, "shuffle_seed", 1)),
    "eval_fraction": one(lambda conf: setattr(conf, "eval_fraction", 0.5)),
    "split_seed": one(lambda conf: setattr(conf, "split_seed", 1)),
    "system_prompt": one(lambda conf: setattr(conf, "system_prompt", "Be kind.")),
    "max_length": one(lambda conf: setattr(conf, "max_length", 99)),
}


@pytest.mark.parametrize("name", [*CHANGES, *NO_CHANGES])
def test_the_key_changes_with_the_result_and_with_nothing_else(name: str, table: Path, tmp_path: Path) -> None:
    """What is drawn later, and where a file lies, is no part of preparation; a file's name is part of each id."""
    (tmp_path / "elsewhere").mkdir()
    benchmark = write_jsonl(tmp_path / "b.jsonl", [{"question": "q"}])
    conf = LocalDataConf(path=str(table), contamination=ContaminationConf([str(benchmark)]))
    before = preparation_key(conf)
    assert before == preparation_key(conf)
    (CHANGES | NO_CHANGES)[name](conf, tmp_path)
    assert (preparation_key(conf) != before) is (name in CHANGES)


def test_every_field_of_preparation_is_tried() -> None:
    """A new switch must be added above; so must a new source file be part of the key."""
    nodes = {
        "cleaning": CleaningConf,
        "deidentification": DeidentificationConf,
        "deduplication": DeduplicationConf,
        "contamination": ContaminationConf,
    }
    fields = {f"{node}.{name}" for node, kind in nodes.items() for name in vars(kind())}
    assert fields <= CHANGES.keys()
    assert set(vars(DataConf())) - nodes.keys() <= {*NO_CHANGES, "over_length", "batching"}


def test_a_change_of_code_changes_the_key(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every module that decides what is read, kept or written."""
    seen: list[Path] = []
    monkeypatch.setattr(
        "medllm.data.preparation.prepare.code_version", lambda files, _: seen.extend(files) or "version"
    )
    preparation_key(LocalDataConf(path=str(table)))
    names = {f"{path.parent.name}/{path.name}" for path in seen}
    for name in ("medllm/conversation", "data/messages", "data/store", "sources/tables", "preparation/deduplication"):
        assert f"{name}.py" in names


def test_a_change_of_rendering_changes_the_key_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Template, encoding and what calls them."""
    seen: list[Path] = []
    monkeypatch.setattr("medllm.data.tokenize.code_version", lambda files, _: seen.extend(files) or "version")
    turns = (Message("user", "I cough"), Message("assistant", "Since when?"))
    tokenize(Conversations.of([Conversation(turns)]), Renderer(build_tiny_tokenizer()), DataConf())
    assert {path.stem for path in seen} >= {"conversation", "encoding", "template", "tokenize"}


def test_a_mix_has_a_key_for_names_and_none_for_weights(table: Path) -> None:
    """Weights are applied when conversations are drawn."""

    def key(**sources: float) -> str:
        return preparation_key(
            MixDataConf(sources={name: SourceConf(path=str(table), weight=w) for name, w in sources.items()})
        )

    assert key(a=1, b=1) == key(a=1, b=2) != key(a=1, c=1)


def test_a_failed_build_leaves_nothing(own_cache: Path) -> None:
    """Neither a folder nor a part of one; the next one starts from nothing."""

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise DataError("no")

    with pytest.raises(DataError, match=r"^no$"):
        cached("prepared", "k", fails, {})
    assert cache_entries() == []
    folder = cached("prepared", "k", lambda f: (f / "whole").write_text("x"), {"source": "a.csv"})
    assert sorted(path.name for path in folder.iterdir()) == [ABOUT, SUMS, "whole"]


def test_a_killed_build_is_not_taken_for_whole(table: Path) -> None:
    """What it left is listed, cleared by the next one, and never read."""
    process = started(table, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = cache_entries("prepared")
    assert left.path.name.startswith(".staging-")
    assert left.size > 0
    assert len(prepare(LocalDataConf(path=str(table))).conversations) == 2
    (entry,) = cache_entries("prepared")
    assert entry.about == {"source": str(table)}
    assert not left.path.exists()


@pytest.mark.parametrize("kind", ["prepared", "samples"])
def test_what_is_damaged_is_made_again(kind: str, own_cache: Path, table: Path) -> None:
    """One flipped bit anywhere, a file cut short, or one missing: what comes of it is what came of it before."""
    renderer = Renderer(build_tiny_tokenizer())

    def take() -> tuple[list[str], list[int], list[list[int]]]:
        conf = LocalDataConf(path=str(table))
        prepared = prepare(conf)
        conversations = prepared.conversations
        rows = tokenize(conversations, renderer, conf).rows
        return list(conversations.column("id")), prepared.clusters.tolist(), [row["input_ids"] for row in rows]

    expected = take()
    (folder,) = (path for path in (own_cache / kind).iterdir() if path.is_dir())
    for name in sorted(path.name for path in folder.iterdir() if path.name != ABOUT):
        whole = (folder / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for damage in (bytes(flipped), whole[: len(whole) // 2], None):
            (folder / name).unlink()
            if damage is not None:
                (folder / name).write_bytes(damage)
            assert take() == expected


def test_two_at_once_both_get_the_whole(table: Path) -> None:
    """One builds, the other waits for it; clearing waits as well."""
    processes = [started(table, 1) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(outputs) == [["2"], ["building", "2"]]


def test_clearing_waits_for_a_build(table: Path) -> None:
    """Nobody's folder is removed under their hands."""
    process = started(table, 1)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    clear_cache("prepared")
    assert process.communicate(timeout=60)[0] == "2\n"


def test_entries_say_what_they_are(table: Path) -> None:
    """Kind, size, age and source; using one makes it young, clearing one kind leaves the others."""
    prepare(LocalDataConf(path=str(table)))
    cached("samples", "k", lambda folder: (folder / "x").write_bytes(b"x" * 1000), {})
    by_kind = {entry.kind: entry for entry in cache_entries()}
    assert by_kind["prepared"].about == {"source": str(table)}
    beside = sum((by_kind["samples"].path / name).stat().st_size for name in (ABOUT, SUMS))
    assert by_kind["samples"].size == 1000 + beside
    os.utime(by_kind["samples"].path, (0, time.time() - 5000))
    assert cache_entries("samples")[0].age_seconds > 4000
    cached("samples", "k", lambda folder: None, {})
    assert cache_entries("samples")[0].age_seconds < 60
    assert [entry.kind for entry in clear_cache("samples")] == ["samples"]
    assert [entry.kind for entry in clear_cache()] == ["prepared"]
    assert cache_entries() == []


def test_keys_tell_parts_apart() -> None:
    """Not only what they are joined to."""
    assert len({key_of("a", "b"), key_of("ab"), key_of("a", None), key_of(["a", "b"]), key_of("b", "a")}) == 5


@pytest.mark.parametrize(
    ("arguments", "code", "expected", "left"),
    [
        ((), 0, "2 entries", 2),
        (("prepared",), 0, "1 entries", 2),
        (("clear", "samples"), 0, "removed 1 entries", 1),
        (("clear",), 0, "removed 2 entries", 0),
        (("clear", "samples", "prepared"), 0, "removed 1 entries", 0),
        (("clear", "modles"), 2, "modles: no such kind\n      allowed: models, prepared, quantized, samples", 2),
        (("claer",), 2, "claer: no such kind", 2),
        (("--help",), 0, "Shows and clears what is kept between runs", 2),
    ],
)
def test_the_script(arguments: tuple[str, ...], code: int, expected: str, left: int) -> None:
    """Lists and clears; what it does not know, it refuses without touching anything."""
    for kind in ("prepared", "samples"):
        cached(kind, "k", lambda folder: None, {"source": "a.csv"})
    command = [sys.executable, str(ROOT / "scripts" / "cache.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"})
    assert done.returncode == code, done.stderr
    assert expected in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr
    assert len(cache_entries()) == left


def test_a_cache_that_is_no_folder_is_told(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable that names it, by whoever uses it or lists it."""
    monkeypatch.setenv("MEDLLM_CACHE", str(table))
    for use in (lambda: prepare(LocalDataConf(path=str(table))), cache_entries):
        with pytest.raises(ConfigError, match=rf"MEDLLM_CACHE={table}: cannot be used: Not a directory"):
            use()


def test_a_cache_whose_disk_is_full_is_told(own_cache: Path) -> None:
    """As such, wherever else there may be room; a measurement that cannot be kept is none."""

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        StorageError, match=rf"^{own_cache}/prepared/k: could not be written: .*\n +fix: .*MEDLLM_CACHE"
    ):
        cached("prepared", "k", full, {})
    conf, rate = load_run_conf(["model=tiny_random", "quantization=none"]), Rate(1000.0, 5.0, "run", 1.0, 4, 10)
    (own_cache / "rates").touch()
    write_rate(conf, rate)
    assert read_rate(conf) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"speed": 1}'])
def test_a_damaged_measurement_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """A plan then knows no time of that kind of run, as before the first one."""
    monkeypatch.setenv("MEDLLM_CACHE", str(tmp_path))
    conf, rate = load_run_conf(["model=tiny_random", "quantization=none"]), Rate(1000.0, 5.0, "run", 1.0, 4, 10)
    assert read_rate(conf) is None
    write_rate(conf, rate)
    assert read_rate(conf) == rate
    (path,) = (tmp_path / "rates").iterdir()
    path.write_text(damage)
    assert read_rate(conf) is None
