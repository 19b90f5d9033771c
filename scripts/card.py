"""Writes the cards of an artifact: `python scripts/card.py artifact=RUN`.

    <run>/card/README.md                the model card of the Hugging Face hub, with its model-index
    <run>/card/applied_model_card.xml   the Applied Model Card v0.2 of the Coalition for Health AI
    <run>/card/card.yaml                what only a person can say: fill it in, and run this again
    <run>/card/NOTICE                   what the base model's licence wants to go with the weights, if it does

Figures come from the artifact, its run's evaluations and reviews. The card says UNREVIEWED until an expert review has approved
the artifact.
"""

from medllm.command import pop_option, run_script
from medllm.console import tell
from medllm.errors import ConfigError, Fault


def main(arguments: list[str]) -> None:
    """Writes the cards, and says what is missing."""
    arguments, artifact = pop_option(arguments, "artifact", "")
    if arguments:
        raise ConfigError([Fault("", "no such option", a, allowed="artifact=RUN") for a in arguments])
    if not artifact:
        raise ConfigError(
            Fault(
                "artifact",
                "needs a value",
                fix="artifact=RUN: its folder, the id of its run record, or models:/name@alias",
            )
        )
    from medllm.card.write import write_cards
    from medllm.locate import find_artifact

    facts, files = write_cards(find_artifact(artifact))
    for path in files:
        tell("card", path)
    tell("review", f"{facts.status.decision.upper()}: {'; '.join(facts.status.reasons)}")
    for line in facts.warnings:
        tell("warning", line)
    if facts.missing:
        tell("missing", ", ".join(facts.missing))
        tell("", f"fill in {facts.run_folder / 'card' / 'card.yaml'} and run this again")


if __name__ == "__main__":
    run_script(main, __doc__)
