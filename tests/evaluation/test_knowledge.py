"""Multiple choice: the harness's figures, likelihoods by hand, files, and what an interruption leaves."""

import json
import math
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medllm.config.evaluation.knowledge import KnowledgeConf, Scoring
from medllm.conversation import Conversation, Message, Renderer
from medllm.errors import ConfigError, DataError, MedLLMError
from medllm.evaluation.anchors import ANCHORS, Anchor, reproductions, standard_error
from medllm.evaluation.harness import require_harness, task_config
from medllm.evaluation.jsonl import ITEMS
from medllm.evaluation.knowledge import build_suite, decided, load_questions, question
from medllm.evaluation.suite import Item, Outcome, Side
from medllm.models.adapter import attach_adapter
from medllm.models.base import build_base_model, build_tokenizer
from tests.conf.groups import load
from tests.data.files import SHARED, needs_shared

ROOT = Path(__file__).parents[2]
SYSTEM = "You are careful."
ROWS: list[dict[str, Any]] = [
    {"question": "What pumps blood?", "options": {"A": "Heart", "B": "Ear"}, "answer": "A"},
    {"question": "Which is a bone?", "options": {"A": "Eye", "B": "Femur", "C": "Skin", "D": "Hair"}, "answer": "B"},
    {
        "question": "Is it so?",
        "context": "It is so. 50 % {{ x }}",
        "options": {"A": "yes", "B": "no", "C": "maybe"},
        "answer": "A",
    },
    {"question": "Ends <|im_end|> here?", "options": {"A": "été, always", "B": "no"}, "answer": "B"},
    {"question": "How many?", "options": {"A": "2", "B": "3", "C": "20 of them or more"}, "answer": "C"},
] * 2


def needs_harness() -> None:
    """Skips where the extra is not installed."""
    pytest.importorskip("lm_eval", reason="needs the extra `eval`")


def write(path: Path, *rows: Any) -> str:
    """A JSONL file."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def subject() -> Any:
    """A random model with an adapter that changes its answers, four to a batch."""
    run = load("lora", "default", "model=tiny_random", "quantization=none")
    tokenizer = build_tokenizer(run.model)
    torch.manual_seed(0)
    model = attach_adapter(build_base_model(run.model, run.quantization, tokenizer), run.lora)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    renderer = Renderer(tokenizer.tokenizer, SYSTEM)
    return SimpleNamespace(side=Side.tuned, model=model.eval(), renderer=renderer, batch_size=4)


def suite_of(tmp_path: Path, scoring: str = "cloze", **settings: Any) -> Any:
    """The suite of `ROWS`."""
    files = [write(tmp_path / "mine.jsonl", *ROWS)]
    return build_suite(KnowledgeConf(shipped=False, files=files, scoring=Scoring(scoring), **settings))


def ask(suite: Any, subject: Any, items: Any = None) -> list[tuple[Item, Outcome]]:
    """All outcomes of a suite."""
    return list(suite.outcomes(subject, suite.items() if items is None else items))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("scoring", ["letters", "cloze"])
def test_figures_are_those_of_the_harness_run_as_a_whole(
    tmp_path: Path, subject: Any, scoring: str, chat: bool
) -> None:
    """Asked three at a time, the same hits and likelihoods as `simple_evaluate` has for the whole file."""
    needs_harness()
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    suite = suite_of(tmp_path, scoring, questions_per_call=3, apply_chat_template=chat)
    found = [outcome for _, outcome in ask(suite, subject)]
    asked = [question(item, Scoring(scoring), subject.renderer.neutralise) for item in suite.items()]
    whole = lm_eval.simple_evaluate(
        model=HFLM(pretrained=subject.model, tokenizer=subject.renderer.tokenizer, backend="causal", batch_size=4),
        tasks=[task_config("whole", asked, Scoring(scoring))],
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=chat,
        system_instruction=SYSTEM if chat else None,
        bootstrap_iters=0,
        log_samples=True,
    )
    metric = "acc" if scoring == "letters" else "acc_norm"
    samples = sorted(whole["samples"]["whole"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(found) == len(ROWS)
    hits = [outcome.values["knowledge/accuracy"][0] for outcome in found]
    assert hits == [sample[metric] for sample in samples]
    assert sum(hits) / len(hits) == pytest.approx(whole["results"]["whole"][f"{metric},none"])
    for outcome, sample in zip(found, samples, strict=True):
        theirs = [float(response[0]) for response in sample["filtered_resps"]]
        assert list(outcome.details["log_likelihoods"].values()) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("scoring", ["letters", "cloze"])
def test_likelihoods_are_those_of_the_logits(tmp_path: Path, subject: Any, scoring: str) -> None:
    """By hand: the renderer's prompt, the option's tokens behind it, log-softmax of what the model says there."""
    needs_harness()
    for item, outcome in ask(suite_of(tmp_path, scoring), subject):
        asked = question(item, Scoring(scoring), subject.renderer.neutralise)
        prompt = subject.renderer.render_prompt(Conversation((Message("user", asked["prompt"]),)))
        first = len(prompt)  # what the template ends with is white space, which the harness counts to the option
        while subject.renderer.tokenizer.decode(prompt[first - 1]).isspace():
            first -= 1
        by_hand = []
        for choice in asked["choices"]:
            ids = prompt + subject.renderer.tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = subject.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
            by_hand.append(sum(float(logits[i - 1, ids[i]]) for i in range(first, len(ids))))
        assert list(outcome.details["log_likelihoods"].values()) == pytest.approx(by_hand, abs=1e-3)
        lengths = [len(choice) if scoring == "cloze" else 1 for choice in asked["choices"]]
        scaled = [value / length for value, length in zip(by_hand, lengths, strict=True)]
        chosen = list(item.fields["options"])[scaled.index(max(scaled))]
        assert outcome.details["chosen"] == chosen
        assert outcome.values["knowledge/mine/accuracy"] == (int(chosen == item.fields["answer"]), 1)


def test_base_and_tuned_do_not_leak_into_each_other(tmp_path: Path, subject: Any) -> None:
    """Base, tuned, base: the first and the last are equal, the adapter's differ; mode and random state stay."""
    needs_harness()
    suite = suite_of(tmp_path)
    state = torch.get_rng_state()

    def likelihoods() -> list[Any]:
        return [outcome.details["log_likelihoods"] for _, outcome in ask(suite, subject)]

    with subject.model.disable_adapter():
        first = likelihoods()
    tuned = likelihoods()
    with subject.model.disable_adapter():
        assert likelihoods() == first
    assert tuned != first
    subject.model.train()
    likelihoods()
    assert subject.model.training
    assert "tie_weights" not in vars(subject.model)
    subject.model.eval()
    assert torch.equal(torch.get_rng_state(), state)


def test_what_was_yielded_is_not_lost(tmp_path: Path, subject: Any) -> None:
    """A few questions are asked before the first is yielded; the rest, asked later, have the same outcomes."""
    needs_harness()
    suite = suite_of(tmp_path, questions_per_call=3)
    whole = ask(suite, subject)
    generator = suite.outcomes(subject, suite.items())
    some = [next(generator) for _ in range(4)]
    generator.close()
    done = {item.id for item, _ in some}
    rest = ask(suite, subject, [item for item in suite.items() if item.id not in done])
    assert [item.id for item, _ in some + rest] == [item.id for item, _ in whole]
    for (_, one), (_, other) in zip(some + rest, whole, strict=True):
        assert one.values == other.values
        assert one.details["log_likelihoods"] == pytest.approx(other.details["log_likelihoods"], abs=1e-4)


def test_a_question_longer_than_the_context_is_refused(tmp_path: Path, subject: Any) -> None:
    """The harness would cut its beginning off, and the figure would be of another question."""
    needs_harness()
    path = write(tmp_path / "long.jsonl", ROWS[0], {**ROWS[0], "context": "It hurts. " * 4000})
    suite = build_suite(KnowledgeConf(shipped=False, files=[path]))
    with pytest.raises(DataError, match=r"long: question 2 has [\d,]+ tokens, the model reads"):
        ask(suite, subject)


def test_auto_depends_on_the_models_size() -> None:
    """Below a billion parameters by cloze; what was chosen stays."""
    small, large = (SimpleNamespace(num_parameters=lambda n=n: n) for n in (999_999_999, 1_000_000_000))
    assert decided(Scoring.auto, small) is Scoring.cloze
    assert decided(Scoring.auto, large) is Scoring.letters
    assert decided(Scoring.letters, small) is Scoring.letters


def test_letters_show_the_options_and_cloze_does_not(tmp_path: Path) -> None:
    """Word for word; special tokens in a question are broken."""
    items = load_questions(Path(write(tmp_path / "mine.jsonl", *ROWS)))
    assert question(items[1], Scoring.letters, str) == {
        "prompt": "Which is a bone?\nA. Eye\nB. Femur\nC. Skin\nD. Hair\nAnswer with one letter, A, B, C, D.\nAnswer:",
        "choices": ["A", "B", "C", "D"],
        "target": 1,
    }
    assert question(items[2], Scoring.cloze, str) == {
        "prompt": "It is so. 50 % {{ x }}\nIs it so?\nAnswer:",
        "choices": ["yes", "no", "maybe"],
        "target": 0,
    }
    assert "<|im_end|>" not in question(items[3], Scoring.cloze, lambda text: text.replace("<|", "< |"))["prompt"]


def test_ids_are_of_the_content(tmp_path: Path) -> None:
    """Stable wherever a question stands; its own id if it has one; repeats are told apart."""
    items = load_questions(Path(write(tmp_path / "mine.jsonl", *ROWS)))
    assert len({item.id for item in items}) == len(items)
    assert items[5].id == f"{items[0].id}#2"
    reordered = load_questions(Path(write(tmp_path / "mine.jsonl", *reversed(ROWS[:5]), {**ROWS[0], "id": "q7"})))
    assert {item.id for item in reordered} == {item.id for item in items[:5]} | {"mine/q7"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"question": ""}, "needs `question`"),
        ({"question": None}, "needs `question`"),
        ({"context": ["a"]}, "`context` is no text"),
        ({"options": ["a", "b"]}, "needs `options`"),
        ({"options": {"A": "only"}}, "needs `options`"),
        ({"options": {"A": "x", "2": "y"}}, "named by one letter"),
        ({"options": {"A": "x", "B": ""}}, "an option is no text"),
        ({"answer": "E"}, "none of its options"),
        ({"answer": 0}, "none of its options"),
    ],
)
def test_a_question_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    """By its line."""
    path = Path(write(tmp_path / "x.jsonl", ROWS[0], {**ROWS[1], **change}))
    with pytest.raises(DataError, match="line 2: ") as error:
        load_questions(path)
    assert told in str(error.value)


def test_settings_that_ask_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to ask; a file that is not there; the harness that is not installed: one message each."""
    with pytest.raises(ConfigError, match="leaves the suite without a question"):
        KnowledgeConf(shipped=False)
    assert not KnowledgeConf(enabled=False, shipped=False).enabled
    with pytest.raises(ConfigError, match="limit=0: is out of range"):
        KnowledgeConf(limit=0)
    monkeypatch.setattr("medllm.evaluation.harness.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs lm-evaluation-harness") as error:
        build_suite(KnowledgeConf())
    assert "pip install -e '.[eval]'" in str(error.value)
    monkeypatch.undo()
    monkeypatch.setattr("medllm.evaluation.harness.find_spec", lambda _: True)
    require_harness("x", "y")
    with pytest.raises(ConfigError, match=r"evaluation.knowledge.files=none.jsonl: no such file"):
        build_suite(KnowledgeConf(files=["none.jsonl"]))


def test_the_harness_is_imported_late() -> None:
    """Its import costs seconds, which only those pay who ask it."""
    code = "import sys, medllm.evaluation.knowledge; print('lm_eval' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_shipped_questions_are_what_they_should_be() -> None:
    """At least 100, four options, answers balanced, no question twice, and no profit in taking the longest option."""
    items = load_questions(ITEMS / "knowledge" / "basics.jsonl")
    assert len(items) >= 100
    assert len({item.id for item in items}) == len(items)
    assert len({item.fields["question"] for item in items}) == len(items)
    assert all(list(item.fields["options"]) == list("ABCD") for item in items)
    answers = Counter(item.fields["answer"] for item in items)
    assert max(answers.values()) - min(answers.values()) <= 1
    assert len({item.fields["topic"] for item in items}) >= 10

    def longest(item: Item) -> bool:
        lengths = {letter: len(text) for letter, text in item.fields["options"].items()}
        return all(lengths[item.fields["answer"]] > n for a, n in lengths.items() if a != item.fields["answer"])

    assert sum(map(longest, items)) / len(items) < 0.25


def test_a_result_passes_within_two_published_standard_errors() -> None:
    """Both ends by hand: 0.607 ± 0.028; a task that was not asked fails."""
    count = 1273
    inside = {"medqa_4options": (0.634 * count, count), "medmcqa": (0.553 * 100, 100), "pubmedqa": (374, 500)}
    assert [result.passed for result in reproductions("llama3_8b_instruct", inside)] == [True, True, True]
    outside = {"medqa_4options": (0.636 * count, count), "medmcqa": (0.551 * 100, 100)}
    results = reproductions("llama3_8b_instruct", outside)
    assert [result.passed for result in results] == [False, False, False]
    assert str(results[0]) == "FAIL  medqa_4options  0.636 of 1,273, published 0.607 ± 0.028"
    assert "not asked" in str(results[2])
    assert ANCHORS["llama3_8b_instruct"]["pubmedqa"].accuracy == 0.746


def test_the_standard_error_is_the_harnesss() -> None:
    """Its `mean_stderr`: sample standard deviation over the root of n."""
    needs_harness()
    from lm_eval.api.metrics import mean_stderr

    assert standard_error(3, 7) == pytest.approx(mean_stderr([1, 1, 1, 0, 0, 0, 0]))
    assert math.isnan(standard_error(1, 1))


def reproduce(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Types `python scripts/reproduce.py ...`; its exit code."""
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "reproduce.py"), run_name="__main__")
    return stopped.value.code


TINY = ("model=tiny_random", "quantization=none", "trainer.use_cpu=true")


def test_a_base_is_asked_without_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A line for each file, with its questions."""
    needs_harness()
    file = write(tmp_path / "mine.jsonl", *ROWS)
    assert reproduce(monkeypatch, *TINY, "shipped=true", f"files={file}", "limit=4", "scoring=letters") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["knowledge/basics/accuracy", "knowledge/mine/accuracy"]


def test_an_anchor_that_is_missed_is_told(own_tasks: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A random model is far from a published result, and the exit code says so."""
    monkeypatch.setitem(ANCHORS, "tiny", {"at_hand": Anchor(0.99, 0.001)})
    assert reproduce(monkeypatch, *TINY, "anchors=tiny") == 1
    assert "FAIL  at_hand" in capsys.readouterr().out
    monkeypatch.setitem(ANCHORS, "tiny", {"at_hand": Anchor(0.5, 0.25)})
    assert reproduce(monkeypatch, *TINY, "anchors=tiny") == 0
    assert "pass  at_hand" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["anchors=gpt"], "anchors=gpt: no such model"),
        (["anchors=llama3_8b_instruct", "limit=5"], "limit=5: published results are of all questions"),
        (["scoring=words"], "scoring=words"),
        (["limit=few"], "limit=few: has the wrong type\n      allowed: a whole number"),
        (["limit=0"], "limit=0: is out of range"),
        (["batch_size=many"], "batch_size=many: is no whole number"),
        (["batch_size=0"], "batch_size=0: is out of range\n      allowed: >= 1"),
        (["modell=tiny_random"], "modell=tiny_random"),
        (["files=none.jsonl"], "no such file"),
    ],
)
def test_the_script_refuses_before_a_model_is_loaded(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Exit code 2, one message."""
    needs_harness()
    assert reproduce(monkeypatch, *TINY, *arguments) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown


@pytest.fixture
def own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A harness that knows four tasks and a group: one is at hand, one is not, one is generated, one has no accuracy."""
    needs_harness()
    from lm_eval.tasks import TaskManager

    rows = [{"q": f"Is it {i}?", "right": i % 3} for i in range(7)]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "rows.jsonl", *rows)
    choice = "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: right\ndoc_to_choice: ['yes', 'no', 'maybe']\n"
    accuracy = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    here = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/data/rows.jsonl}}}}\ntest_split: test\n"
    )
    away = "dataset_path: nobody/nothing_at_all\ntest_split: test\n"
    tasks = {
        "at_hand": here + choice + accuracy,
        "far_away": away + choice + accuracy,
        "written": here + "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{right}}'\n",
        "uncounted": here + choice + "metric_list: [{metric: acc_norm, aggregation: mean, higher_is_better: true}]\n",
    }
    for name, text in tasks.items():
        (tmp_path / f"{name}.yaml").write_text(f"task: {name}\n{text}")
    (tmp_path / "several.yaml").write_text("group: several\ntask: [at_hand]\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr("medllm.evaluation.hub_tasks._manager", lambda: manager)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", ["at_hand", "several"])
def test_a_task_of_the_harness_is_asked_by_its_own_rules(own_tasks: Path, subject: Any, name: str) -> None:
    """Its prompts and its accuracy, in pieces as `simple_evaluate` as a whole; a group is its tasks; no letters are made up."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    from medllm.evaluation import hub_tasks

    conf = KnowledgeConf(
        shipped=False, tasks=[name], questions_per_call=3, apply_chat_template=False, scoring=Scoring.cloze
    )
    suite = build_suite(conf)
    assert [metric.name for metric in suite.metrics] == ["knowledge/accuracy", "knowledge/at_hand/accuracy"]
    found = [outcome for _, outcome in ask(suite, subject)]
    lm = HFLM(pretrained=subject.model, tokenizer=subject.renderer.tokenizer, backend="causal", batch_size=4)
    manager = hub_tasks._manager()
    whole = lm_eval.simple_evaluate(
        model=lm, tasks=["at_hand"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    samples = sorted(whole["samples"]["at_hand"], key=lambda sample: sample["doc_id"])
    assert [outcome.values["knowledge/at_hand/accuracy"][0] for outcome in found] == [s["acc"] for s in samples]
    assert [outcome.details["answer"] for outcome in found] == list("ABCABCA")
    assert {outcome.details["scoring"] for outcome in found} == {"harness"}
    assert suite.items()[1].conversation.messages[-1].content == "Is it 1?"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("at_hnd", "no such task of the harness\n      fix: did you mean at_hand?"),
        ("far_away", "far_away: its data set nobody/nothing_at_all cannot be had"),
        ("written", "is not answered by choosing an option"),
        ("uncounted", "is not answered by choosing an option"),
    ],
)
def test_a_task_that_cannot_be_asked_is_told(own_tasks: Path, name: str, told: str) -> None:
    """Misspelt, not reachable, of another kind: before anything is loaded."""
    with pytest.raises(MedLLMError) as error:
        build_suite(KnowledgeConf(shipped=False, tasks=[name]))
    assert told in str(error.value)


def test_a_file_and_a_task_need_different_names(own_tasks: Path, tmp_path: Path) -> None:
    """Their figures would be one."""
    file = write(tmp_path / "at_hand.jsonl", *ROWS)
    with pytest.raises(ConfigError, match="has the name of a file"):
        build_suite(KnowledgeConf(shipped=False, files=[file], tasks=["at_hand"]))


@pytest.mark.slow
def test_the_anchors_are_tasks_of_this_harness() -> None:
    """Offline each is named with its data set, so the harness has it under this name."""
    needs_harness()
    for task, data_set in (("medqa_4options", "GBaker/MedQA-USMLE-4-options-hf"), ("pubmedqa", "bigbio/pubmed_qa")):
        assert task in ANCHORS["llama3_8b_instruct"]
        with pytest.raises(DataError, match=f"{task}: its data set {data_set} cannot be had"):
            build_suite(KnowledgeConf(shipped=False, tasks=[task]))


@needs_shared
@pytest.mark.parametrize("name", ["medqa_usmle_dev", "medmcqa_dev", "pubmedqa_pqal", "craftmd"])
def test_real_sets_are_read_whole(name: str) -> None:
    """Every line of the development files is a question."""
    path = SHARED / f"mcq_{name}.jsonl"
    items = load_questions(path)
    assert len(items) == sum(1 for row in path.read_text().split("\n") if row.strip())
    assert len({item.id for item in items}) == len(items)
