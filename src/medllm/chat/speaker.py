"""An artifact that answers: base or tuned from one loaded model, behind the guard."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from medllm.chat.history import fitting
from medllm.config.chat import ChatConf
from medllm.conversation import Conversation, Renderer
from medllm.evaluation.subject import ModelSubject
from medllm.evaluation.suite import Likelihood, Side
from medllm.guard.guard import Guarded, Verdict, build_guard
from medllm.inference.load import LoadedArtifact
from medllm.inference.stream import stream

# Tokens that the guard's question to the model and its options take beside what the user wrote.
QUESTION_TOKENS = 64


class Speaker:
    """Answers conversations.

    Args:
        conf: Of the chat.
        loaded: The artifact.

    Attributes:
        generation: How it answers: the artifact's defaults with what the chat's configuration says otherwise.
        loaded: The artifact.
        context: Tokens that the model reads, its answer included.

    Raises:
        ConfigError: if the guard's lexicon is faulty.
        ModelError: if the base cannot be found.
    """

    def __init__(self, conf: ChatConf, loaded: LoadedArtifact):
        self.loaded = loaded
        self.generation = conf.generation.applied_to(loaded.artifact.conf.generation)
        self._renderer = Renderer(loaded.renderer.tokenizer, self.generation.system_prompt)
        self._guard = build_guard(conf.guard, self._likelihoods)
        self._open = contextlib.ExitStack()
        self._model: Any = None
        with self._side(tuned=True) as model:
            self.context = int(getattr(model.config, "max_position_embeddings", 0)) or 2**30

    def close(self) -> None:
        """Lets the model's written weights go."""
        self._open.close()

    def screen(self, conversation: Conversation) -> Verdict:
        """What the guard says before anything is answered: over the whole conversation, however long."""
        return self._guard.screen(conversation)

    def fitted(self, conversation: Conversation) -> tuple[Conversation, int]:
        """What the model can read of a conversation, and how many of its oldest turns that leaves out.

        Raises:
            ChatError: if the newest message alone is too long.
        """
        return fitting(conversation, self._renderer, self.context - self.generation.max_new_tokens)

    def answer(
        self,
        conversation: Conversation,
        read: Conversation,
        verdict: Verdict,
        on_text: Callable[[str], None],
        stopped: Callable[[], bool],
        *,
        tuned: bool = True,
        do_sample: bool | None = None,
    ) -> Guarded:
        """An answer as it comes, and what stands behind it.

        Args:
            conversation: The whole of it.
            read: What the model reads of it, as `fitted` says.
            verdict: Of `screen`.
            on_text: Takes each piece of the model's own text.
            stopped: Asked after every token.
            tuned: Or the base.
            do_sample: Instead of the chat's own setting.
        """
        conf = self.generation if do_sample is None else replace(self.generation, do_sample=do_sample)
        with self._side(tuned=tuned) as model:
            answer = stream(model, self._renderer, read, conf, on_text, stopped)
        return self._guard.review(conversation, answer.text, verdict)

    @contextlib.contextmanager
    def _side(self, *, tuned: bool) -> Iterator[Any]:
        """One model for both sides where the adapter can be switched off; its weights stay written out between answers."""
        if not self.loaded.is_switched:
            with self.loaded.model(tuned=tuned) as model:
                yield model
            return
        if self._model is None:
            self._model = self._open.enter_context(self.loaded.model(tuned=True))
        with contextlib.nullcontext() if tuned else self._model.disable_adapter():
            yield self._model

    def _likelihoods(self, requests: Any) -> list[Likelihood]:
        """For the model's own urgency; of a very long message the end is read."""
        with self._side(tuned=True) as model:
            subject = ModelSubject(Side.tuned, model, self._renderer, len(requests), self.generation)
            return subject.likelihoods([(self._shortened(asked), option) for asked, option in requests])

    def _shortened(self, asked: Conversation) -> Conversation:
        (message,) = asked.messages
        room = self.context - QUESTION_TOKENS
        text = message.content
        while len(self._renderer.render_prompt(Conversation((replace(message, content=text),)))) > room:
            text = text[len(text) // 4 + 1 :]
        return Conversation((replace(message, content=text),), asked.id)
