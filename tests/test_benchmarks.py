"""The benchmarks of training: what can be told without training."""

import json
from pathlib import Path

import pytest

from benchmarks import cpu_train, data_parallel
from benchmarks.cut_dialogues import DIALOGUES, as_they_are, bundled_lengths, read_lengths, write_dialogues
from benchmarks.gpu_train import ROWS, TARGETS, Row, arguments, flops, missing_keys, peer_rows, table
from benchmarks.train_run import Rate, rate_of, run
from medllm.artifact import resolved_yaml
from medllm.config.compose import load_run_conf
from medllm.config.lora import NoAdapterConf
from medllm.config.rules import cross_field_faults, effective_batching
from medllm.conversation import Renderer
from medllm.data.pipeline import build_datasets
from medllm.models.base import build_tokenizer


def test_dialogues_have_exactly_the_tokens_asked_for(tmp_path: Path) -> None:
    """As a run counts them, after the whole way through preparation."""
    pairs = [(30, 100), (200, 512), (61, 79), (100, 400)]
    path = tmp_path / "dialogues.jsonl"
    assert write_dialogues(pairs, path) == [total for _, total in pairs]
    conf = load_run_conf(
        [
            "model=tiny_random",
            "data=local",
            f"data.path={path}",
            "data.max_length=512",
            "data.eval_fraction=0",
            "trainer.eval_strategy=no",
            *as_they_are(),
        ]
    )
    renderer = Renderer(build_tokenizer(conf.model).tokenizer)
    datasets = build_datasets(conf.data, renderer, effective_batching(conf), conf.seed)
    assert datasets.train.samples.lengths.tolist() == [total for _, total in pairs]
    supervised = [sum(label != -100 for label in row["labels"]) for row in datasets.train.samples.rows]
    assert supervised == [total - prompt - 1 for prompt, total in pairs]  # ChatML ends a turn with a line end


def test_lengths_fill_an_epoch_and_faulty_files_are_refused(tmp_path: Path) -> None:
    """The bundled dialogues' lengths by default; a file is read again from its beginning."""
    assert len(read_lengths(None, tiny=False)) == DIALOGUES
    assert all(0 < prompt < total <= 512 for prompt, total in bundled_lengths())
    path = tmp_path / "lengths.json"
    path.write_text("[[3, 9], [5, 20]]")
    assert read_lengths(path, tiny=False)[:3] == [(3, 9), (5, 20), (3, 9)]
    for text in ("{", "[3]", "[[9, 9]]", "[]"):
        path.write_text(text)
        with pytest.raises(SystemExit, match="--lengths"):
            read_lengths(path, tiny=False)


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_valid_command(row: Row, tiny: bool, tmp_path: Path) -> None:
    """Keys that this version lacks are known before anything is started."""
    given = arguments(row, tmp_path, tmp_path / "run", tiny)
    absent = missing_keys(given)
    kept = [item for item in given if item.partition("=")[0] not in absent and not item.startswith("hydra.")]
    conf = load_run_conf(kept)
    batch = conf.trainer.per_device_train_batch_size * conf.trainer.gradient_accumulation_steps
    kind = row.name.partition("_")[0]
    assert batch == {"pair": 2, "epoch": 2, "preset": 8}.get(kind, 1)
    assert conf.lora.lora_dropout == (0.05 if "dropout" in row.name or kind == "preset" else 0.0)
    assert conf.trainer.gradient_checkpointing is (True if "low" in row.name else None)


def test_useful_flops_of_the_8b_shape(tmp_path: Path) -> None:
    """30.5 GFLOP a token at the reference's lengths: 4 N of the base, 6 N of the adapter, and little attention."""
    import yaml

    config = yaml.safe_load(resolved_yaml(load_run_conf(["model=random_8b"])))
    assert flops(config, 1.0, 0.0) / 1e9 == pytest.approx(30.2, abs=0.4)
    assert flops(config, 1000.0, 300.0) > 1000 * flops(config, 1.0, 0.0)


def test_the_warm_up_is_left_out_of_the_rate() -> None:
    """Also where not every step was logged."""
    history = {"tokens": [(1, 10), (2, 20), (4, 50)], "seconds": [(1, 9.0), (2, 9.5), (4, 10.5)]}
    assert rate_of(history, 2) == rate_of(history, 3) == Rate(30, 1.0, 2)


def test_table_says_what_was_reached() -> None:
    """More tokens per second, less memory and less time are better; failed rows say why."""
    row = {"tok_s": 9000.0, "ms_step": 58.0, "tok_step": 520.0, "peak_gib": 11.0, "mfu": None, "adapter_s": 60.0}
    peer = {"tok_s": 2000.0, "ms_step": 250.0, "tok_step": 500.0, "peak_gib": 8.0, "mfu": 0.1, "adapter_s": 120.0}
    rows = {"pair_fused": row, "epoch_fused": row, "8k_fused": {"failed": "longer than 9 s"}}
    text = table(rows, {"unsloth_pair_nogc": peer})
    lines = {line[:52].strip(): " ".join(line[52:].split()) for line in text.splitlines()}
    assert lines["pair_fused to unsloth_pair_nogc, tok_s"] == "4.50 x, target 3.9 x: reached"
    assert lines["epoch_fused to unsloth_pair_nogc, adapter_s"] == "2.00 x, target 2.5 x: MISSED"
    assert lines["pair_fused, peak_gib"] == "11.00, bound 10: MISSED"
    assert "8k_fused                longer than 9 s" in text


def test_targets_name_rows() -> None:
    """None is forgotten when a row is renamed."""
    assert {target.row for target in TARGETS} <= {row.name for row in ROWS}


def test_peers_results_are_read_and_their_times_added(tmp_path: Path) -> None:
    """Import, loading, first step and epoch make the time to the adapter."""
    path = tmp_path / "results.jsonl"
    peer = {"kind": "result", "name": "notebook", "import_s": 15, "load_s": 2, "first_step_s": 2, "epoch900_s": 270}
    path.write_text("\n".join(map(json.dumps, [{"kind": "job", "name": "notebook"}, peer])))
    assert peer_rows(path)["notebook"]["adapter_s"] == 289
    assert peer_rows(tmp_path / "none.jsonl") == {}


def test_a_process_is_ended_at_its_limit(tmp_path: Path) -> None:
    """With those that it started; what it printed stays."""
    why, _ = run(["bash", "-c", "echo begun; sleep 60 & wait"], tmp_path / "log", 1)
    assert why == "longer than 1 s"
    assert (tmp_path / "log").read_text() == "begun\n"
    assert run(["bash", "-c", "exit 3"], tmp_path / "log", 9)[0] == "exit status 3"


def test_the_lowest_round_decides_and_an_uneven_machine_is_said() -> None:
    """A side that was slowed by something else makes no ratio."""
    loads, peaks = {"guide": [0.1, 0.1], "fused": [0.1, 4.0]}, {"guide": 3.0, "fused": 2.0}
    even = cpu_train.table({"guide": [30.0, 31.0], "fused": [90.0, 92.0]}, loads, peaks, 2.5)
    assert "lowest round: 2.97 x, target 2.5 x: reached" in even and "NOT A MEASUREMENT" not in even
    uneven = cpu_train.table({"guide": [30.0, 9.0], "fused": [60.0, 90.0]}, loads, peaks, 2.5)
    assert "lowest round: 2.00 x, target 2.5 x: MISSED" in uneven
    assert "NOT A MEASUREMENT of a quiet machine: rates of guide, fused differ between rounds" in uneven
    once = cpu_train.table({"guide": [30.0], "fused": [90.0]}, {"guide": [0.1], "fused": [0.1]}, peaks, 2.5)
    assert "one round cannot show it" in once


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("row", data_parallel.ROWS, ids=lambda row: row.name)
def test_every_row_of_two_gpus_is_a_valid_command(
    row: Row, tiny: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`two` and `one_twice` have the same optimizer batches; only what is sharded trains in full."""
    monkeypatch.setenv("WORLD_SIZE", str(data_parallel.PROCESSES[row.name]))
    line = data_parallel.command(row, tmp_path, tmp_path / "run", tiny)
    conf = load_run_conf([item for item in line if "=" in item and not item.startswith(("-", "hydra."))])
    assert not [fault for fault in cross_field_faults(conf) if fault.key != "data.path"]
    rows = conf.trainer.per_device_train_batch_size * conf.trainer.gradient_accumulation_steps
    assert rows * data_parallel.PROCESSES[row.name] == (1 if row.name == "one" else 2)
    assert conf.trainer.fsdp == isinstance(conf.lora, NoAdapterConf) == (row.name == "sharded")


def test_the_table_of_two_gpus_says_what_was_reached() -> None:
    """Losses step by step, the ratio, and why a row failed."""
    row = {
        "processes": 1,
        "tok_s": 100.0,
        "ms_step": 1.0,
        "tok_step": 9.0,
        "peak_gib": 1.0,
        "start_s": 1.0,
        "loss": 1.0,
    }
    rows = {
        "two": {**row, "tok_s": 195.0, "losses": [2.0, 1.0]},
        "one": row,
        "one_twice": {**row, "losses": [2.0, 1.1]},
    }
    text = data_parallel.table({**rows, "sharded": {"failed": "exit status 1"}})
    assert "two to one, tok_s: 1.95 x, target 1.9 x: reached" in text
    assert "9.1e-02 apart at most, bound 0.001: NOT THE SAME" in text
    assert "sharded       exit status 1" in text
