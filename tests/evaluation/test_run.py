"""Evaluations of an artifact: paired, continued, and without a trace in the model."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout

from medllm.artifact import load_artifact
from medllm.config.compose import load_conf
from medllm.config.evaluation import EvaluateConf, EvaluationConf
from medllm.config.evaluation.knowledge import KnowledgeConf
from medllm.config.evaluation.rubric import RubricConf
from medllm.errors import ArtifactError, ConfigError, DataError, DeviceMemoryError
from medllm.evaluation import run as run_module
from medllm.evaluation.items import IDENTITY, ITEMS, PAGE, RESULTS, Journal
from medllm.evaluation.report import record_report, results, write_report
from medllm.evaluation.run import evaluating, run_suites, subject
from medllm.evaluation.suite import Side
from medllm.inference.load import LoadedArtifact, open_artifact
from medllm.models.adapter import is_adapter, load_adapter
from medllm.models.base import build_base_model, build_tokenizer
from medllm.tracking.record import Record
from tests.evaluation.conftest import train_tiny
from tests.evaluation.made import MadeSuite, evaluate

SMALL = ["evaluation.max_new_tokens=6", "evaluation.use_cpu=true", "evaluation.gate.min_items=2", "tracking=none"]


def conf_of(run: Path, *overrides: str) -> Any:
    """A quick evaluation of it, of its held-out conversations alone."""
    return load_conf(EvaluateConf, [f"artifact={run}", "evaluation.safety.enabled=false", *SMALL, *overrides])


def logits(model: Any) -> torch.Tensor:
    """Of a few ids."""
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=torch.arange(5, 25)[None]).logits)


@pytest.fixture
def asked(run: Path, tmp_path: Path) -> Iterator[Any]:
    """Runs a made suite over the artifact and gives what is known afterwards."""
    loaded = open_artifact(run / "artifact", use_cpu=True)
    conf = conf_of(run).evaluation

    def act(suite: MadeSuite, folder: str = "made", **kept: Any) -> dict[Any, Any]:
        journal = Journal.open(tmp_path / folder, {suite.name: "1"})
        run_suites([suite], {suite.name: suite.items()}, journal, lambda side: subject(loaded, conf, side))
        return journal.known

    act.loaded = loaded  # type: ignore[attr-defined]
    yield act


def test_the_base_is_the_base(run: Path) -> None:
    """With the adapter off the model answers to the last bit as a base that never had one, before and after it was on."""
    conf = load_artifact(run).conf
    plain = build_base_model(conf.model, conf.quantization, build_tokenizer(conf.model)).eval()
    loaded = open_artifact(run / "artifact", use_cpu=True)
    for _ in range(2):
        with loaded.model(tuned=False) as model:
            assert torch.equal(logits(model), logits(plain))
        with loaded.model(tuned=True) as model:
            assert not torch.allclose(logits(model), logits(plain))


def test_a_quantized_base_is_written_out_on_a_cpu(dialogues: Path, tmp_path: Path) -> None:
    """4-bit weights are dequantized once instead of at every forward: the same numbers to the last bit, base and tuned."""
    run = train_tiny(
        dialogues,
        tmp_path / "run",
        "quantization=nf4_double",
        "quantization.bnb_4bit_compute_dtype=float32",
        "model.dtype=float32",
    )
    conf = load_artifact(run).conf
    packed = build_base_model(conf.model, conf.quantization, build_tokenizer(conf.model)).eval()
    loaded = open_artifact(run / "artifact", use_cpu=True)
    with loaded.model(tuned=False) as model:
        assert type(model.get_base_model().model.layers[0].self_attn.q_proj.base_layer) is torch.nn.Linear
        assert torch.equal(logits(model), logits(packed))
    with loaded.model(tuned=True) as model:
        assert torch.equal(logits(model), logits(load_adapter(packed, run / "artifact")))


def test_base_figures_do_not_depend_on_what_was_asked_before(asked: Any) -> None:
    """Base then tuned, or tuned then base: the same outcomes, and the two sides differ."""
    forward = asked(MadeSuite())
    first = MadeSuite(sides=(Side.tuned,))
    asked(first, "reverse")
    then = asked(MadeSuite(), "reverse")
    assert [side for side, _ in first.asked] == ["tuned"] * 5
    assert {key: dict(sorted(value.items())) for key, value in then.items()} == forward
    assert forward[("made", Side.base)] != forward[("made", Side.tuned)]


def test_an_interruption_is_gone_on_with(asked: Any) -> None:
    """No item is asked twice, and the end is that of an evaluation without interruption."""
    straight = asked(MadeSuite(), "straight")
    suite = MadeSuite(stop_after=7)
    with pytest.raises(KeyboardInterrupt):
        asked(suite, "stopped")
    assert asked(suite, "stopped") == straight
    assert len(suite.asked) == len(set(suite.asked)) == 10


def test_the_model_is_left_as_it_was(asked: Any) -> None:
    """In training mode before, evaluated in evaluation mode, in training mode after, the adapter on; also after a failure."""
    with asked.loaded.model(tuned=True) as model:
        model.train()
        expected = [layer.training for layer in model.modules()]
        suite = MadeSuite()
        asked(suite)
        assert not any(suite.modes)
        assert [layer.training for layer in model.modules()] == expected
        with pytest.raises(KeyboardInterrupt):
            asked(MadeSuite(stop_after=1), "stopped")
        assert [layer.training for layer in model.modules()] == expected
        model.eval()
        assert not torch.equal(logits(model), logits(model.get_base_model())) or is_adapter(model)
        with model.disable_adapter():
            off = logits(model)
        assert not torch.allclose(logits(model), off)


def test_an_evaluation_from_start_to_end(run: Path) -> None:
    """Held-out loss is what training measured, base and tuned; files hold what they should; a second run asks nothing again."""
    evaluation, record = evaluate(conf_of(run))
    assert record.id == ""
    page = write_report(evaluation)
    trained = json.loads((run / "artifact" / "metrics.json").read_text())
    loss = next(one for one in evaluation.measured if one.metric.name == "conversation/loss")
    assert loss.n == 6
    assert loss.figures[Side.base].value == pytest.approx(trained["base/loss"], abs=1e-4)
    assert loss.figures[Side.tuned].value == pytest.approx(trained["eval/loss"], abs=1e-4)
    perplexity = next(one for one in evaluation.measured if one.metric.name == "conversation/perplexity")
    assert perplexity.figures[Side.tuned].value == pytest.approx(trained["eval/perplexity"], rel=1e-3)

    said = json.loads((run / "evaluation" / "quick" / "results.json").read_text())
    assert said == results(evaluation)
    assert (said["format"], said["name"], said["limited"], said["sides"]) == (1, "quick", False, ["base", "tuned"])
    named = {metric["name"]: metric for metric in said["metrics"]}
    assert set(named["conversation/loss"]["figures"]["base"]) == {"value", "low", "high"}
    assert set(named["conversation/loss"]["differences"]["tuned"]) == {"value", "low", "high", "p"}
    assert said["gate"]["decision"] in ("ship", "don't ship", "not enough data")
    assert set(said["lexicons"]["empathy"]) == {"version", "precision", "recall", "n"}

    lines = [json.loads(line) for line in (page.parent / ITEMS).read_text().splitlines()]
    assert {(line["suite"], line["side"]) for line in lines} == {("conversation", "base"), ("conversation", "tuned")}
    assert len(lines) == 12
    before = (page.parent / ITEMS).stat().st_mtime_ns, (page.parent / ITEMS).read_bytes()
    again, _ = evaluate(conf_of(run, "evaluation.batch_size=2", "evaluation.gate.rules={}"))
    assert again.measured == evaluation.measured
    assert (page.parent / ITEMS).read_bytes() == before[1]


def test_bits_per_byte_agree_with_likelihoods(run: Path) -> None:
    """Of single answers: the bits are those of the likelihood of the doctor's words, the bytes those of its text."""
    evaluation, _ = evaluate(conf_of(run, "evaluation.limit=2"))
    (suite,) = evaluation.suites
    loaded = open_artifact(run / "artifact", use_cpu=True)
    with subject(loaded, evaluation.conf.evaluation, Side.tuned) as asking:
        for item in suite.items():
            if item.id in evaluation.outcomes[("conversation", Side.tuned)]:
                bits, size = evaluation.outcomes[("conversation", Side.tuned)][item.id].values[
                    "conversation/bits_per_byte"
                ]
                (found,) = asking.likelihoods([(item.conversation, item.fields["reference"])])
                assert bits == pytest.approx(-found.log_likelihood / 0.6931472, rel=1e-4)
                assert size == found.num_bytes


def test_limits_are_stamped(run: Path) -> None:
    """In the results and on the page; and nothing ships on them."""
    evaluation, _ = evaluate(conf_of(run, "evaluation.limit=3"))
    page = write_report(evaluation).read_text()
    assert results(evaluation)["limited"] is True
    assert "LIMITED by limit=3" in page
    assert evaluation.decision.verdict.value != "ship"


def test_the_page_escapes_everything(run: Path, tmp_path: Path) -> None:
    """Answers and questions are anybody's text: none of it becomes markup, and the page neither runs nor loads anything."""
    rows = [
        {"Patient": f"<script>alert({i})</script> I cough & <b>hurt</b>", "Doctor": "Rest <img src=x> well."}
        for i in range(3)
    ]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with_path = f"evaluation.conversation.path={path}"
    evaluation, _ = evaluate(conf_of(run, with_path))
    for outcomes in evaluation.outcomes.values():
        for outcome in outcomes.values():
            outcome.details["answer"] = "</p><script>alert(1)</script>"
    page = write_report(evaluation).read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_figures_go_to_the_record(run: Path) -> None:
    """By name, side and metric, with the decision and the files."""
    evaluation, _ = evaluate(conf_of(run))
    write_report(evaluation)
    kept: dict[str, Any] = {}

    class Kept(Record):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            kept.update(metrics)

        def set_tags(self, tags: dict[str, str]) -> None:
            kept.update(tags)

        def log_artifact(self, path: Path, folder: str = "") -> None:
            kept[path.name] = folder

        def log_texts(self, path: Path, folder: str = "") -> None:
            kept[f"texts {path.name}"] = folder

    record_report(evaluation, Kept())
    loss = next(one for one in evaluation.measured if one.metric.name == "conversation/loss")
    assert kept["evaluate/quick/tuned/conversation/loss"] == loss.figures[Side.tuned].value
    assert kept["evaluate.quick.gate"] == evaluation.decision.verdict.value
    folders = {kept.get(name) for name in ("results.json", "texts report.html", "texts items.jsonl")}
    assert folders == {"evaluation/quick"}


def test_data_that_changed_are_not_held_out(run: Path, dialogues: Path, tmp_path: Path) -> None:
    """What was held out cannot be told any more: said, with the way out."""
    conf = load_artifact(run).conf
    text = dialogues.read_text()
    other = tmp_path / "other.csv"
    other.write_text(text)
    config = run / "artifact" / "config.yaml"
    manifest = run / "artifact" / "manifest.json"
    from medllm.artifact import sha256

    config.write_text(config.read_text().replace(str(conf.data.path), str(other)))  # type: ignore[attr-defined]
    said = json.loads(manifest.read_text())
    said["files"]["config.yaml"] = sha256(config)
    manifest.write_text(json.dumps(said))
    evaluate(conf_of(run, "evaluation.limit=1"))
    other.write_text(text + '"My knee is swollen, what now?","Cool it and see a doctor."\n')
    with pytest.raises(DataError, match=r"have changed since it was trained(.|\n)*evaluation.conversation.path=FILE"):
        evaluate(conf_of(run, "evaluation.limit=1"))
    other.unlink()
    with pytest.raises(DataError, match=r"cannot be read again(.|\n)*evaluation.conversation.path=FILE"):
        evaluate(conf_of(run, "evaluation.limit=1"))


def test_a_damaged_artifact_is_refused(run: Path) -> None:
    """By name, before anything is asked."""
    weights = run / "artifact" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"is damaged: adapter_model\.safetensors"):
        evaluate(conf_of(run))


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora=none"],
        pytest.param(["lora.bias=all"], marks=pytest.mark.slow),
        pytest.param(["lora=prefix"], marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_switched_off_is_loaded_in_turn(dialogues: Path, tmp_path: Path, overrides: list[str]) -> None:
    """Full fine-tuning and trained biases leave no base to switch back to; a prefix does. Losses are those of training."""
    run = train_tiny(dialogues, tmp_path / "run", *overrides)
    loaded = open_artifact(run / "artifact", use_cpu=True)
    assert loaded.is_switched == ("lora=prefix" in overrides)
    evaluation, _ = evaluate(conf_of(run))
    trained = json.loads((run / "artifact" / "metrics.json").read_text())
    loss = next(one for one in evaluation.measured if one.metric.name == "conversation/loss")
    assert loss.figures[Side.base].value == pytest.approx(trained["base/loss"], abs=1e-4)
    assert loss.figures[Side.tuned].value == pytest.approx(trained["eval/loss"], abs=1e-4)


def test_a_base_in_turn_is_loaded_once(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Side by side, not suite by suite: an 8B model is loaded twice at most."""
    loads = []
    real = LoadedArtifact._load_base
    monkeypatch.setattr(LoadedArtifact, "is_switched", property(lambda self: False))
    monkeypatch.setattr(LoadedArtifact, "_load_base", lambda self: loads.append(1) or real(self))
    loaded = open_artifact(run / "artifact", use_cpu=True)
    conf = conf_of(run).evaluation
    suites = [MadeSuite(2), MadeSuite(2, name="more")]
    journal = Journal.open(tmp_path / "made", {"made": "1", "more": "1"})
    run_suites(suites, {s.name: s.items() for s in suites}, journal, lambda side: subject(loaded, conf, side))
    assert len(loads) == 2  # the base, and the base below the adapter


def test_a_suite_that_answers_nothing_is_a_defect(run: Path, tmp_path: Path) -> None:
    """It must not pass for an evaluation of fewer items."""

    class Silent(MadeSuite):
        def outcomes(self, subject: Any, items: Any) -> Any:
            return iter(())

    loaded = open_artifact(run / "artifact", use_cpu=True)
    suite = Silent(1)
    with contextlib.suppress(FileExistsError), pytest.raises(AssertionError, match="has no outcome of"):
        journal = Journal.open(tmp_path / "made", {"made": "1"})
        run_suites(
            [suite], {"made": suite.items()}, journal, lambda side: subject(loaded, conf_of(run).evaluation, side)
        )


def test_another_limit_asks_nothing_twice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look before or after a whole evaluation: what is known stays, and only what is new is asked."""
    asked: list[int] = []
    ask = run_module._ask

    def counted(suite: Any, asking: Any, items: Any, *rest: Any) -> None:
        asked.append(len(items))
        ask(suite, asking, items, *rest)

    monkeypatch.setattr(run_module, "_ask", counted)
    evaluate(conf_of(run, "evaluation.limit=2"))
    assert asked == [2, 2]
    whole, _ = evaluate(conf_of(run))
    assert asked == [2, 2, 4, 4]
    lines = (run / "evaluation" / "quick" / ITEMS).read_bytes()
    look, _ = evaluate(conf_of(run, "evaluation.limit=3"))
    assert asked == [2, 2, 4, 4]
    assert (run / "evaluation" / "quick" / ITEMS).read_bytes() == lines
    assert (len(whole.prompts["conversation"]), len(look.prompts["conversation"])) == (6, 3)


@pytest.mark.parametrize("name", [ITEMS, IDENTITY, RESULTS, PAGE])
def test_what_cannot_be_written_is_told_before_anything_is_asked(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in the place of each file, and a file in the place of their folder."""
    monkeypatch.setattr(LoadedArtifact, "model", lambda *a, **k: pytest.fail("was loaded"))
    (run / "evaluation" / "quick" / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"{name}: is a folder(.|\n)*fix: move what is there elsewhere"):
        evaluate(conf_of(run))
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").touch()
    with pytest.raises(ConfigError, match=r"evaluation/quick: cannot be written to: Not a directory"):
        evaluate(conf_of(run))


def test_one_process_evaluates_into_a_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other one gets in until what it came to is written; and one that finds another there asks nothing."""
    with evaluating(conf_of(run, "evaluation.limit=1")) as (evaluation, _):
        others = FileLock(evaluation.folder / ".lock", blocking=False)
        with pytest.raises(Timeout):
            others.acquire()
        write_report(evaluation)
    monkeypatch.setattr(LoadedArtifact, "model", lambda *a, **k: pytest.fail("was loaded"))
    refused = rf"artifact={run}: is being evaluated by another process\n.*fix: wait for its end"
    with others, pytest.raises(ConfigError, match=refused):
        evaluate(conf_of(run, "evaluation.limit=2"))
    assert len((evaluation.folder / ITEMS).read_text().splitlines()) == 2


def test_a_full_gpu_says_what_would_fit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes so far stay, so the remedy costs what was under way."""

    def overflow(*arguments: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 59.84 GiB. GPU 0 has")

    monkeypatch.setattr(run_module, "_ask", overflow)
    said = r"CUDA out of memory\n.*evaluation\.batch_size below 8; the same line goes on"
    with pytest.raises(DeviceMemoryError, match=said):
        evaluate(conf_of(run, "evaluation.batch_size=8"))


def test_limits_of_single_suites_count_where_they_are_asked() -> None:
    """What leaves items out is named as it is typed."""
    rubric = RubricConf(enabled=True, limit=2)
    assert EvaluationConf(name="quick", limit=3, rubric=rubric).limits() == ["limit=3", "rubric.limit=2"]
    assert EvaluationConf(name="quick", knowledge=KnowledgeConf(enabled=False, limit=5)).limits() == []
