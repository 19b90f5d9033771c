"""The `experiment` group, and rules between groups."""

from pathlib import Path

import pytest

from medllm.config.compose import load_run_conf
from medllm.config.model import ChatFormat, Dtype
from medllm.config.plan import Point
from medllm.config.rules import cross_field_faults
from medllm.errors import ConfigError
from tests.conf.groups import CONF, assert_round_trips, load, options, refusal


@pytest.mark.parametrize("option", options("experiment"))
def test_composes_and_is_consistent(option: str, tmp_path: Path) -> None:
    """Each experiment composes, breaks no rule between groups, survives YAML, and states its command."""
    conf = load("experiment", option)
    assert cross_field_faults(conf) == []
    assert_round_trips(conf, tmp_path)
    assert f"python train.py experiment={option}" in (CONF / "experiment" / f"{option}.yaml").read_text()


def test_notebook_is_the_guide() -> None:
    """The guide's values, where they are not those of the trainer preset."""
    conf = load("experiment", "notebook")
    assert (conf.seed, conf.data.shuffle_seed, conf.data.num_conversations) == (65, 65, 1000)
    assert (conf.data.eval_fraction, conf.data.max_length, conf.data.batching.name) == (0.1, 512, "max_length")
    assert (conf.model.dtype, conf.model.chat_format) == (Dtype.float16, ChatFormat.chatml)
    assert conf.model.attn_implementation.name == "eager"
    assert conf.quantization.bnb_4bit_compute_dtype is Dtype.float16  # type: ignore[attr-defined]


def test_every_cross_field_fault_is_found_at_once() -> None:
    """All faults of a run stand in one message, before any weight is loaded."""
    from medllm.experiment import check

    conf = load_run_conf(
        [
            "model=tiny_random",
            "model.attn_implementation=flex_attention",
            "lora.target_modules=[q_proj,query]",
            "data.batching=packed",
            "data.max_length=100000",
            "data.eval_fraction=0",
            "trainer=cpu",
            "trainer.fp16=true",
            "trainer.bf16=true",
        ]
    )
    with pytest.raises(ConfigError) as caught:
        check([Point((), conf)])
    message = str(caught.value)
    for expected in (
        "trainer.fp16=true: fp16 and bf16 exclude each other",
        "trainer.eval_strategy=steps: has nothing to evaluate on",
        "model.attn_implementation=flex_attention: does not keep packed conversations apart",
        "data.max_length=100000: is beyond what the model can read",
        "allowed: at most the model's context of 2048",
        "lora.target_modules=['query']: match no module of the model",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["lora=none"], "full fine-tuning cannot train a quantized base"),
        (["lora=pissa"], "moves base weights, which a quantized base forbids"),
        (["lora=prefix", "data.batching=packed"], "a row has one prefix, packed conversations need one each"),
        (["lora=prefix", "trainer.gradient_checkpointing=true"], "would drop the prefix"),
        (["quantization=int8", "lora=dora"], "cannot read the norms of an 8-bit base"),
        (["quantization.bnb_4bit_compute_dtype=float16", "trainer.bf16=true"], "contradicts trainer.bf16"),
        (["quantization=none", "lora=none", "trainer.fsdp=true"], "has one process, and nothing to shard over"),
        (["trainer.fsdp=true"], "shards what is trained in full, not an adapter and its base"),
        (["lora=none", "trainer.fsdp=true"], "cannot shard quantized weights"),
        (["trainer.fsdp=true", "trainer.fp16=true"], "does not scale the loss of float16"),
        (["trainer.fsdp=true", "trainer.optim=adamw_8bit"], "does not know sharded weights"),
        (
            ["model=pretrained", "model.pretrained_model_name_or_path=a/b", "model.trust_remote_code=true"],
            "needs a pinned commit",
        ),
    ],
)
def test_rules_between_groups(overrides: list[str], expected: str) -> None:
    """Each rule refuses what would go wrong, and names a remedy."""
    faults = cross_field_faults(load_run_conf(overrides))
    assert [fault for fault in faults if expected in fault.problem and fault.fix]


def test_values_smuggled_in_with_plus_are_refused() -> None:
    """`+` and `++` make no new keys."""
    assert "lora.foo=1: no such key" in refusal("+lora.foo=1")
    assert "did you mean trainer.learning_rate?" in refusal("++trainer.learnig_rate=1")
    assert "x=1: no such key" in refusal("+x=1")
    assert "hydra.foo=1: no such key" in refusal("+hydra.foo=1")
    message = refusal("hydra/launcher=joblib", "+hydra.launcher.njobs=2")
    assert "did you mean hydra.launcher.n_jobs?" in message


def test_what_is_no_override_is_refused(tmp_path: Path) -> None:
    """A group without an option, a value without a key, a file that is no YAML."""
    assert "cannot be composed" in refusal("trainer=null")
    assert "cannot be composed" in refusal("=3")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "broken.yaml").write_text("r: [1, 2\n")
    assert "cannot be composed" in refusal(f"hydra.searchpath=[file://{tmp_path}]", "lora=broken")


def test_unknown_options_and_groups_are_refused_with_what_exists() -> None:
    """Unknown option: the options; unknown group: the nearest."""
    assert "experiment=notbook: no such option" in refusal("experiment=notbook")
    assert "did you mean experiment=notebook?" in refusal("experiment=notbook")
    assert "did you mean lora?" in refusal("loar=default")


def test_several_values_without_m_are_refused() -> None:
    """A forgotten -m is told, not run."""
    from medllm.config.plan import make_plan

    with pytest.raises(ConfigError, match="add -m"):
        make_plan(["lora.r=8,16"], multirun=False)


def test_faults_of_several_groups_stand_together() -> None:
    """One message for all ranges."""
    message = refusal("lora.r=0", "trainer.learning_rate=2", "seed=-1")
    assert message.startswith("3 faults in the configuration:")


def test_an_unknown_key_in_a_yaml_file_is_refused(tmp_path: Path) -> None:
    """A misspelt key in a preset is found like one on the command line."""
    folder = tmp_path / "lora"
    folder.mkdir()
    text = "defaults: [/schema/lora/lora@_here_, _self_]\nlora_alfa: 3\n"
    (folder / "mine.yaml").write_text(text)
    message = refusal(f"hydra.searchpath=[file://{tmp_path}]", "lora=mine")
    assert "lora.lora_alfa" in message
    assert "did you mean lora.lora_alpha?" in message
