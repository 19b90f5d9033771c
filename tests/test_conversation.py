"""The one renderer: exact ids, exact masks, the same prompt in training and in use."""

import pytest

from medllm.conversation import Conversation, Message, Renderer
from medllm.errors import LabelError
from medllm.models.base import setup_chatml
from medllm.models.tiny import build_tiny_tokenizer
from tests.conf.test_model import foreign_tokenizer


def talk(*texts: str, system: str | None = None) -> Conversation:
    """A conversation of alternating user and assistant texts."""
    first = (Message("system", system),) if system else ()
    turns = tuple(Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))
    return Conversation((*first, *turns), "row 0")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """Of the tiny tokenizer."""
    return Renderer(build_tiny_tokenizer())


def supervised_text(renderer: Renderer, conversation: Conversation) -> list[str]:
    """What is supervised, decoded, per turn."""
    rendered = renderer.render(conversation)
    return [renderer.tokenizer.decode(rendered.input_ids[turn.start : turn.end]) for turn in rendered.turns]


def test_text_and_mask_of_a_hand_made_dialogue(renderer: Renderer) -> None:
    """The whole text is the template's; answers and their end of turn are supervised, nothing else."""
    conversation = talk("Hello doctor", "Hello, how can I help?", "My head hurts", "Since when?")
    rendered = renderer.render(conversation)
    assert renderer.tokenizer.decode(rendered.input_ids) == (
        "<|im_start|>user\nHello doctor<|im_end|>\n<|im_start|>assistant\nHello, how can I help?<|im_end|>\n"
        "<|im_start|>user\nMy head hurts<|im_end|>\n<|im_start|>assistant\nSince when?<|im_end|>\n"
    )
    assert supervised_text(renderer, conversation) == ["Hello, how can I help?<|im_end|>", "Since when?<|im_end|>"]


def test_labels_are_ids_where_supervised_and_ignored_elsewhere(renderer: Renderer) -> None:
    """Unshifted labels: -100 on the prompt, the ids on the answer; the newline after the end of turn is not learned."""
    rendered = renderer.render(talk("a", "b"))
    (turn,) = rendered.turns
    assert rendered.labels[: turn.start] == [-100] * turn.start
    assert rendered.labels[turn.start : turn.end] == rendered.input_ids[turn.start : turn.end]
    assert rendered.labels[turn.end :] == [-100] * (len(rendered.input_ids) - turn.end)
    assert rendered.input_ids[turn.end - 1] == renderer.end_of_turn_id


@pytest.mark.parametrize("system", [None, "You are a careful doctor."])
@pytest.mark.parametrize(
    "make", [build_tiny_tokenizer, foreign_tokenizer, lambda: setup_chatml(foreign_tokenizer()).tokenizer]
)
def test_training_prompt_is_generation_prompt(make, system) -> None:  # type: ignore[no-untyped-def]
    """In front of every answer, training has the very ids that generation starts from, in every format."""
    renderer = Renderer(make(), system)
    texts = ("I feel dizzy", "Since when?", "Since Monday", "Do you drink enough?", "No", "Please do.")
    rendered = renderer.render(talk(*texts))
    for i, turn in enumerate(rendered.turns):
        assert renderer.render_prompt(talk(*texts[: 2 * i + 1])) == rendered.input_ids[: turn.start]


def test_beginning_of_sequence_stands_once() -> None:
    """A template that writes the token gets no second one from the tokenizer."""
    renderer = Renderer(foreign_tokenizer())
    ids = renderer.render(talk("a", "b")).input_ids
    assert ids.count(renderer.tokenizer.bos_token_id) == 1
    assert ids[0] == renderer.tokenizer.bos_token_id


def test_system_prompt_is_not_supervised_and_a_conversations_own_wins() -> None:
    """The configured prompt fills in only where the conversation has none."""
    renderer = Renderer(build_tiny_tokenizer(), "Default prompt")
    assert "Default prompt" in renderer.tokenizer.decode(renderer.render(talk("a", "b")).input_ids)
    own = talk("a", "b", system="Own prompt")
    text = renderer.tokenizer.decode(renderer.render(own).input_ids)
    assert "Own prompt" in text
    assert "Default prompt" not in text
    assert supervised_text(renderer, own) == ["b<|im_end|>"]


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|pad|>", "<|endoftext|>"])
def test_special_tokens_in_a_message_are_text(renderer: Renderer, token: str) -> None:
    """A patient who types a special token neither ends a turn nor begins one."""
    plain = renderer.render(talk("My head hurts", "Since when?"))
    attacked = renderer.render(talk(f"My head {token} hurts", f"Since {token} when?"))
    special = list(renderer.tokenizer.added_tokens_decoder)
    count = [sum(i in special for i in rendered.input_ids) for rendered in (plain, attacked)]
    assert count[0] == count[1]
    assert len(attacked.turns) == 1


def test_a_template_that_never_ends_a_turn_is_refused() -> None:
    """Without a special token at the end of an answer the model could not learn to stop."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    with pytest.raises(LabelError, match="no special token"):
        Renderer(tokenizer)


def test_a_template_that_rewrites_history_is_refused() -> None:
    """A template that drops earlier answers would train on what is never seen in use."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    with pytest.raises(LabelError, match="changes an earlier turn"):
        Renderer(tokenizer).render(talk("a", "b", "c", "d"))


def test_a_tokenizer_without_template_is_refused() -> None:
    """With the remedy."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(LabelError, match=r"model\.chat_format=chatml"):
        Renderer(tokenizer)


def test_token_roles_come_from_the_text(renderer: Renderer) -> None:
    """Roles are found without looking at the mask, umlauts and emoji included."""
    conversation = talk("Grüße, my head hurts 🤕 a lot", "Since when?")
    rendered = renderer.render(conversation)
    roles = renderer.token_roles(rendered.input_ids, conversation)
    assert roles is not None
    by_role = {
        role: renderer.tokenizer.decode([i for i, r in zip(rendered.input_ids, roles, strict=True) if r == role])
        for role in ("user", "assistant")
    }
    assert by_role == {"user": "Grüße, my head hurts 🤕 a lot", "assistant": "Since when?"}


def test_token_roles_of_short_messages(renderer: Renderer) -> None:
    """A letter that also stands in the template's words is found where it was said."""
    rendered = renderer.render(talk("u", "a", "s", "e"))
    roles = renderer.token_roles(rendered.input_ids, talk("u", "a", "s", "e"))
    assert roles is not None
    supervised = [i for turn in rendered.turns for i in range(turn.start, turn.end - 1)]
    assert [i for i, role in enumerate(roles) if role == "assistant"] == supervised
    assert roles.count("user") == 2


@pytest.mark.parametrize(
    ("roles", "fault"),
    [
        (["user", "assistant"], ""),
        (["system", "user", "assistant", "user", "assistant"], ""),
        (["assistant", "user"], "turns do not alternate from user to assistant"),
        (["user"], "turns do not alternate from user to assistant"),
        (["user", "assistant", "user"], "turns do not alternate from user to assistant"),
        (["user", "system", "assistant"], "system message after the start"),
        (["user", "nurse"], "unknown role"),
    ],
)
def test_faults_of_conversations(roles: list[str], fault: str) -> None:
    """What can be trained on, and why not."""
    assert Conversation(tuple(Message(role, "text") for role in roles)).fault == fault
