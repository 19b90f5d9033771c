"""Answers as people see them behind the guard."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from medllm.conversation import Conversation
from medllm.guard.guard import NoGuard
from medllm.inference.generate import Answer


class Answering(Protocol):
    """What answers, as `evaluation.suite.Subject`."""

    def answers(self, conversations: Sequence[Conversation]) -> list[Answer]:
        """One per conversation."""
        ...


def guarded_answers(guard: NoGuard, subject: Answering, conversations: Sequence[Conversation]) -> list[Answer]:
    """What a subject answers, with what stands before and behind it.

    Args:
        guard: Built with the subject's likelihoods, if the model's urgency is to count.
        subject: The model that answers.
        conversations: Each ends with a user message.
    """
    verdicts = guard.screen_all(conversations)
    answers = subject.answers(conversations)
    return [
        replace(answer, text=guard.review(conversation, answer.text, verdict).text)
        for conversation, answer, verdict in zip(conversations, answers, verdicts, strict=True)
    ]
