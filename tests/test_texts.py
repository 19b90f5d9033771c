"""What patients and models say stays in the run's folder: the record and the logs do not get it unless somebody wants it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from medllm.config.compose import load_conf, load_run_conf
from medllm.config.evaluation import EvaluateConf
from medllm.data.preparation.prepare import prepare
from medllm.errors import DataError
from medllm.evaluation.report import record_report, write_report
from medllm.experiment import run_training
from medllm.inference import samples
from medllm.inference.generate import Answer
from medllm.training.trainer import MedTrainer
from tests.evaluation.made import evaluate

# In pieces: what is not committed goes into the record as it stands.
PATIENT, DOCTOR, MODEL = (f"quixotic-zebra-{name}" for name in ("patient", "doctor", "model"))
CANARIES = (PATIENT, DOCTOR, MODEL)


def said(files: Iterator[Path]) -> dict[str, set[str]]:
    """Which canaries are in the bytes of which files, by their names."""
    found = {path: path.read_bytes() for path in files if path.is_file()}
    hits = {path.name: {canary for canary in CANARIES if canary.encode() in text} for path, text in found.items()}
    return {name: canaries for name, canaries in hits.items() if canaries}


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Dialogues of which every sentence is somebody's."""
    lines = [
        f"I am {PATIENT} {i} and my head aches since day {i},{DOCTOR} {i} says rest for {i} days" for i in range(20)
    ]
    path = tmp_path / "dialogues.csv"
    path.write_text("Patient,Doctor\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("log_texts", [False, True])
def test_texts_of_a_run_and_its_evaluation(
    log_texts: bool,
    spoken: Path,
    tiny_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """By default neither dialogues, items nor answers are in database, artifacts, log or on the terminal; on request they are.

    The files that hold them are in the run's folder either way, and the numbers in the record.
    """
    monkeypatch.setattr(samples, "generate", lambda *rest: [Answer("Hello", MODEL, finished=True)] * 2)
    log = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(log)
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    own = [item for item in tiny_overrides if not item.startswith(("hydra.", "data.path"))]
    stored = f"tracking.log_texts={str(log_texts).lower()}"
    conf = load_run_conf([*own, f"data.path={spoken}", "data.eval_fraction=0.25", "trainer.max_steps=1", stored])
    run_training(conf, tmp_path / "run")
    asked = [
        "evaluation.limit=1",
        "evaluation.max_new_tokens=4",
        "evaluation.safety.enabled=false",
        "guard=none",
        stored,
    ]
    evaluation, record = evaluate(load_conf(EvaluateConf, [f"artifact={tmp_path}/run", *asked]))
    write_report(evaluation)
    record_report(evaluation, record)
    logging.getLogger().removeHandler(log)
    log.close()
    assert set(CANARIES) == set().union(*said((tmp_path / "run").rglob("*")).values())
    kept = said(path for path in (tmp_path / "mlruns").rglob("*"))
    assert not said(iter([*tmp_path.glob("mlflow.db*"), tmp_path / "train.log"]))
    assert not [canary for canary in CANARIES if canary in "".join(capfd.readouterr())]
    texts = {"data_report.html", "samples.json", "items.jsonl", "report.html"}
    assert set(kept) == (texts if log_texts else set())
    names = {path.name for path in (tmp_path / "mlruns").rglob("*")}
    assert {"config.yaml", "data_report.json", "loss.png", "label_proof.json", "results.json"} <= names
    withheld = (tmp_path / "train.log").read_text().count("stays in the run's folder (tracking.log_texts=false)")
    assert bool(withheld) is not log_texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("no_header.csv", f"I am {PATIENT} and my head aches,{DOCTOR} says to rest for a few days\n" * 3),
        ("bad.json", f'[{{"Patient": "{PATIENT}", "Doctor": {DOCTOR}}}]'),
        ("bad.jsonl", f'{{"Patient": "{PATIENT}", "Doctor"}}\n'),
        ("roles.jsonl", f'{{"messages": [{{"role": "{PATIENT}", "content": "{DOCTOR}"}}]}}\n'),
        ("bad.csv", f'Patient,Doctor\n"{PATIENT}" {DOCTOR}"x,\n'),
        ("empty.csv", f"Patient,Doctor\n{PATIENT},\n,{DOCTOR}\n"),
        ("bad.parquet", f"PAR1{PATIENT}"),
        ("bytes.csv", f"Patient,Doctor\n{PATIENT}\udcff\udc81,{DOCTOR}\n"),
    ],
)
def test_no_refusal_quotes_a_row(name: str, content: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be trained on is told by its name, places and counts."""
    path = tmp_path / name
    path.write_bytes(content.encode(errors="surrogateescape"))
    conf = load_run_conf(["model=tiny_random", "quantization=none", "data=local", f"data.path={path}"])
    with pytest.raises(DataError) as caught:
        prepare(conf.data)
    assert not [canary for canary in CANARIES if canary in str(caught.value) + "".join(capfd.readouterr())]


@pytest.mark.parametrize("log_texts", [False, True])
def test_words_of_a_failure_may_be_a_patients(
    log_texts: bool, spoken: Path, tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw quotes one, and its cause another: the record has type and place, on request the words."""

    def failing(trainer: MedTrainer, *rest: object) -> None:
        said = trainer.datasets.train.conversations[0].messages[0].content
        try:
            raise ValueError(said)
        except ValueError as error:
            raise KeyError(said) from error

    monkeypatch.setattr(MedTrainer, "training_step", failing)
    own = [item for item in tiny_overrides if not item.startswith(("hydra.", "data.path"))]
    stored = f"tracking.log_texts={str(log_texts).lower()}"
    with pytest.raises(KeyError, match=PATIENT):
        run_training(load_run_conf([*own, f"data.path={spoken}", "trainer.eval_strategy=no", stored]), tmp_path / "run")
    found = said(
        path for path in tmp_path.rglob("*") if "run" not in path.relative_to(tmp_path).parts and path != spoken
    )
    assert bool(found) == log_texts, found
    (trace,) = (tmp_path / "mlruns").rglob("traceback.txt")
    assert (
        "KeyError" in trace.read_text() and "ValueError" in trace.read_text() and "test_texts.py" in trace.read_text()
    )
