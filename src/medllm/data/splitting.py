"""Draws and splits conversations; copies of one question never stand on both sides."""

import hashlib
import random
import re
from collections import defaultdict

from medllm.conversation import Conversation


def draw(conversations: list[Conversation], count: int | None, seed: int) -> list[Conversation]:
    """`count` conversations at random in a shuffled order, or all of them in their own if `count` is None."""
    if count is None or count >= len(conversations):
        return conversations
    return random.Random(seed).sample(conversations, count)


def question_key(conversation: Conversation) -> str:
    """What two copies of one question share: the first user text, lower case, letters and digits only."""
    first = next(m.content for m in conversation.messages if m.role == "user")
    return re.sub(r"\W+", "", first.lower())


def split(
    conversations: list[Conversation], eval_fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Training and held-out conversations.

    Whole groups of equal questions go to one side, in random order, until the held-out side has its share; both sides
    keep the order of the input.
    """
    wanted = round(eval_fraction * len(conversations))
    groups: dict[str, list[int]] = defaultdict(list)
    for i, conversation in enumerate(conversations):
        groups[question_key(conversation)].append(i)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    held_out: set[int] = set()
    for group in order:
        if len(held_out) + len(group) <= wanted:
            held_out.update(group)
    train = [c for i, c in enumerate(conversations) if i not in held_out]
    return train, [c for i, c in enumerate(conversations) if i in held_out]


def fingerprint(conversations: list[Conversation]) -> str:
    """SHA-256 of all roles and texts in order: two runs with the same one saw the same data."""
    digest = hashlib.sha256()
    for conversation in conversations:
        for message in conversation.messages:
            digest.update(f"{message.role}\x1f{message.content}\x1e".encode())
        digest.update(b"\x1d")
    return digest.hexdigest()
