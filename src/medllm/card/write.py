"""Writes the cards into the run's `card/`."""

from pathlib import Path

from medllm.card.chai import applied_model_card
from medllm.card.facts import CARD, Facts, load_facts
from medllm.card.huggingface import model_card
from medllm.run_folder import write_whole

README, CHAI, NOTICE = "README.md", "applied_model_card.xml", "NOTICE"


def write_cards(artifact_folder: Path) -> tuple[Facts, list[Path]]:
    """Model card, applied model card, and the notice that the base's licence asks for.

    Returns:
        What is known, and the files: README first.

    Raises:
        ArtifactError: if the artifact is none or damaged.
        ConfigError: if `card.yaml` is wrong.
    """
    facts = load_facts(artifact_folder)
    folder = facts.run_folder / CARD
    return facts, [write_whole(folder / name, text) for name, text in card_texts(facts).items()]


def card_texts(facts: Facts) -> dict[str, str]:
    """What the files say, by name; the same facts give the same texts."""
    texts = {README: model_card(facts), CHAI: applied_model_card(facts)}
    if facts.licence.attribution:
        texts[NOTICE] = f"{facts.licence.attribution}\n"
    return texts
