"""Sample answers in the course of a run."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medllm.artifact import write_json
from medllm.config.generation import GenerationConf
from medllm.config.run import RunConf
from medllm.conversation import Renderer
from medllm.inference.generate import Answer, ask, generate
from medllm.tracking.record import Record


def sample_answers(model: Any, renderer: Renderer, conf: GenerationConf) -> list[Answer]:
    """The model's answers to `generation.sample_prompts`."""
    return generate(model, renderer, [ask(prompt) for prompt in conf.sample_prompts], conf)


@dataclass
class Samples:
    """Sample answers, the newest by optimizer step, so that no answer is generated twice."""

    conf: RunConf
    renderer: Renderer
    record: Record
    folder: Path
    by_step: dict[int, list[Answer]] = field(default_factory=dict)

    def take(self, model: Any, step: int) -> list[Answer]:
        """The answers of the model at a step, generated at the first call and added to `samples.json`."""
        if step not in self.by_step:
            self.put(sample_answers(model, self.renderer, self.conf.generation), step)
        return self.by_step[step]

    def put(self, answers: list[Answer], step: int) -> None:
        """Adds answers that are known already."""
        if step not in self.by_step:
            self.by_step[step] = answers
            path = self.folder / "samples.json"
            write_json(path, {f"step {s}": [asdict(a) for a in answers] for s, answers in self.by_step.items()})
            self.record.log_texts(path)
