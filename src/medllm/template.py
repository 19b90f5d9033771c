r"""The text a chat template puts around messages, rendered once for each sequence of roles.

    user, assistant  ->  "<|im_start|>user\n" [0] "<|im_end|>\n<|im_start|>assistant\n"  and  [1] "<|im_end|>\n"

A template that takes what people say as it is writes the same text around everything; running it again for every
conversation is most of the cost of rendering one. Whether it does is tried out on texts of many kinds, and a message that
holds one of the template's own string constants, which it may look for, is always given to the template itself.
"""

import re
from collections.abc import Callable, Iterator, Sequence

Messages = Sequence[dict[str, str]]
Pieces = list[tuple[str, str]]  # by answer: the text before it that is new, and its own

MARK = re.compile("\ue000(\\d+)\ue001")  # private use: no template writes these characters
CONSTANT = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
PROBES = (
    "x",
    "Two words.\n\nAnd a list:\n1. a\n- b",
    "{{ 1 }} {% x %} 'q' \"w\" \\n <b> & #",
    "été 😷 50 %",
    "A" * 3000,
)


class TemplateShapes:
    """Pieces of conversations, by the shapes of their sequences of roles.

    Attributes:
        render: Pieces of messages as the template itself renders them.
    """

    def __init__(self, chat_template: str, render: Callable[[Messages], Pieces]):
        self.render = render
        self._shapes: dict[tuple[str, ...], list[tuple[list[str], list[str]]] | None] = {}
        constants = {first or second for first, second in CONSTANT.findall(chat_template)}
        # Single characters and bare words, as the names of roles, are in every text and no template searches it for them.
        self._constants = [text for text in constants if len(text) > 1 and not re.fullmatch(r"\w+|(\\[nt])+", text)]

    def pieces(self, messages: Messages) -> Pieces:
        """What `render` would give."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._shapes:
            self._shapes[roles] = self._shape(roles)
        shape = self._shapes[roles]
        contents = [message["content"] for message in messages]
        if shape is None or any(constant in content for content in contents for constant in self._constants):
            return self.render(messages)
        return [(_fill(prompt, contents), _fill(answer, contents)) for prompt, answer in shape]

    def _shape(self, roles: tuple[str, ...]) -> list[tuple[list[str], list[str]]] | None:
        """The pieces with the places of the contents; None if the template does more than to put text around them."""

        def rendered(contents: Iterator[str]) -> Pieces:
            return self.render([{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)])

        marked = rendered(f"\ue000{i}\ue001" for i in range(len(roles)))
        shape = [(MARK.split(prompt), MARK.split(answer)) for prompt, answer in marked]
        places = [int(place) for pair in shape for piece in pair for place in piece[1::2]]
        last = max(i for i, role in enumerate(roles) if role == "assistant")
        if sorted(places) != list(range(last + 1)):
            return None
        for offset in range(len(PROBES)):
            contents = [PROBES[(i + offset) % len(PROBES)] for i in range(len(roles))]
            if rendered(iter(contents)) != [
                (_fill(prompt, contents), _fill(answer, contents)) for prompt, answer in shape
            ]:
                return None
        return shape


def _fill(piece: list[str], contents: list[str]) -> str:
    """Text and places alternate."""
    return "".join(contents[int(part)] if i % 2 else part for i, part in enumerate(piece))
