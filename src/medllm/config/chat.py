"""Schema of `scripts/chat.py`, and what it shares with `scripts/serve.py`: who answers how, and what stands around it."""

from dataclasses import dataclass, field, replace

from omegaconf import MISSING

from medllm.config.conf import Conf, ranged
from medllm.config.generation import GenerationConf
from medllm.config.guard import GuardConf, RedFlagGuardConf
from medllm.config.tracking import TrackingConf


@dataclass
class AnswerConf(Conf):
    """What differs from the artifact's own generation defaults; null leaves them as they are.

    Attributes:
        max_new_tokens: Longest answer.
        do_sample: Whether to draw words by chance instead of taking the likeliest.
        temperature: Of drawing.
        top_k: Likewise: only so many of the likeliest; 0 for all.
        top_p: Likewise: only the likeliest that together have this probability.
        repetition_penalty: Above 1 makes words that were there already less likely.
        system_prompt: In front of the conversation; an empty one is none.
    """

    max_new_tokens: int | None = ranged(None, ge=1)
    do_sample: bool | None = None
    temperature: float | None = ranged(None, gt=0)
    top_k: int | None = ranged(None, ge=0)
    top_p: float | None = ranged(None, gt=0, le=1)
    repetition_penalty: float | None = ranged(None, gt=0)
    system_prompt: str | None = None

    def applied_to(self, conf: GenerationConf) -> GenerationConf:
        """The artifact's defaults with these in front."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        changed = replace(conf, **given)
        return replace(changed, system_prompt=changed.system_prompt or None)


@dataclass
class TalkConf(Conf):
    """Whoever talks to people.

    Attributes:
        artifact: A run's folder, its `artifact/` folder, the id of its run record, or models:/name@alias.
        use_cpu: Stay on the CPU even where there is a GPU.
        generation: How it answers.
        guard: What stands before and after the model.
        notice: Shown before the first turn, with the guard's `{emergency_number}` filled in.
        tracking: Where names of artifacts are looked up.
    """

    artifact: str = MISSING
    use_cpu: bool = False
    generation: AnswerConf = field(default_factory=AnswerConf)
    guard: GuardConf = MISSING
    notice: str = (
        "You are writing with a computer program, not with a doctor or nurse. It can be wrong, and it does not see you. Do not "
        "start, stop or change a treatment on its word. In an emergency call {emergency_number}."
    )
    tracking: TrackingConf = MISSING

    @property
    def filled_notice(self) -> str:
        """As it is shown."""
        guard = self.guard if isinstance(self.guard, RedFlagGuardConf) else RedFlagGuardConf()
        return self.notice.replace("{emergency_number}", guard.emergency_number)


@dataclass
class ChatConf(TalkConf):
    """What a command line of `scripts/chat.py` composes. Nothing of a chat is recorded.

    Attributes:
        compare: Whether the base answers too, in front of the tuned model; `/compare` switches.
    """

    compare: bool = False
