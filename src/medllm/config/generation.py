"""Schema of the `generation` group: how the tuned model answers; sampling fields are `transformers.GenerationConfig`'s."""

from dataclasses import dataclass, field

from medllm.config.conf import Conf, ranged


@dataclass
class GenerationConf(Conf):
    """Generation defaults, which travel with the artifact.

    Attributes:
        max_new_tokens: Longest answer.
        top_k: 0 leaves every token in; transformers takes 50 where nothing is said.
        system_prompt: In front of every conversation at inference; the default repeats the one of training.
        sample_prompts: Answered before and after training, and at each evaluation if `sample_at_evaluation`.
        sample_at_evaluation: Whether to spend that time at each evaluation.
    """

    max_new_tokens: int = ranged(200, ge=1)
    do_sample: bool = False
    temperature: float = ranged(0.7, gt=0)
    top_k: int = ranged(50, ge=0)
    top_p: float = ranged(0.9, gt=0, le=1)
    repetition_penalty: float = ranged(1.1, gt=0)
    system_prompt: str | None = "${data.system_prompt}"
    sample_prompts: list[str] = field(default_factory=list)
    sample_at_evaluation: bool = True
