"""An artifact that answers: base or tuned from one loaded model, behind the guard."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from medllm.chat.history import fitting
from medllm.config.chat import TalkConf
from medllm.config.generation import GenerationConf
from medllm.conversation import Conversation, Renderer
from medllm.errors import ChatError
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
        conf: Of the chat or the server.
        loaded: The artifact.

    Attributes:
        generation: How it answers: the artifact's defaults with what the configuration says otherwise.
        loaded: The artifact.
        renderer: With the system prompt of `generation`.
        guard: Before and after the model.
        context: Tokens that the model reads, its answer included.

    Raises:
        ConfigError: if the guard's lexicon is faulty.
        ModelError: if the base cannot be found.
    """

    def __init__(self, conf: TalkConf, loaded: LoadedArtifact):
        self.loaded = loaded
        self.generation = conf.generation.applied_to(loaded.artifact.conf.generation)
        self.renderer = Renderer(loaded.renderer.tokenizer, self.generation.system_prompt)
        self.guard = build_guard(conf.guard, self._likelihoods)
        self._open = contextlib.ExitStack()
        self._model: Any = None
        with self.side(tuned=True) as model:
            self.context = int(getattr(model.config, "max_position_embeddings", 0)) or 2**30

    def close(self) -> None:
        """Lets the model's written weights go."""
        self._open.close()

    def screen(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """What the guard says before anything is answered: over whole conversations, however long."""
        return self.guard.screen_all(conversations)

    def fitted(self, conversation: Conversation, conf: GenerationConf | None = None) -> tuple[Conversation, int]:
        """What the model can read of a conversation, and how many of its oldest turns that leaves out.

        Args:
            conversation: Ends with a user message.
            conf: Of the answer, by default `generation`.

        Raises:
            ChatError: if the newest message alone is too long, or the conversation is none.
        """
        if conversation.unanswerable:
            raise ChatError(f"this is no conversation that a model can read: {conversation.unanswerable}")
        return fitting(conversation, self.renderer, self.context - (conf or self.generation).max_new_tokens)

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
        with self.side(tuned=tuned) as model:
            answer = stream(model, self.renderer, read, conf, on_text, stopped, tuned=tuned)
        return self.guard.review(conversation, answer.text, verdict)

    @property
    def sides(self) -> tuple[bool, ...]:
        """Which sides answer from one loaded model: tuned, and the base where it is the same with its adapter off."""
        return (True, False) if self.loaded.is_switched else (True,)

    @contextlib.contextmanager
    def side(self, *, tuned: bool) -> Iterator[Any]:
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
        with self.side(tuned=True) as model:
            subject = ModelSubject(Side.tuned, model, self.renderer, len(requests), self.generation)
            return subject.likelihoods([(self._shortened(asked), option) for asked, option in requests])

    def _shortened(self, asked: Conversation) -> Conversation:
        (message,) = asked.messages
        room = self.context - QUESTION_TOKENS
        text = message.content
        while len(self.renderer.render_prompt(Conversation((replace(message, content=text),)))) > room:
            text = text[len(text) // 4 + 1 :]
        return Conversation((replace(message, content=text),), asked.id)
