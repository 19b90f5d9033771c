"""Publishes an artifact, or tells what publishing it would do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medllm.card.facts import CARD, Facts, load_facts
from medllm.card.write import README, write_cards
from medllm.config.publish import PublishConf, Risk
from medllm.config.run import RunConf
from medllm.config.tracking import NoTrackingConf
from medllm.console import harmless, say, tell
from medllm.errors import ConfigError, Fault, MedLLMError
from medllm.hub import HubFile, Pushed, Target, endpoint, push
from medllm.publication.checks import Obstacle, obstacles, token_faults
from medllm.publication.files import files_to_publish, is_of_an_artifact
from medllm.tracking.build import tag_record


@dataclass(frozen=True)
class Publication:
    """What would be published.

    Attributes:
        facts: Of the artifact, which is verified.
        target: Where to.
        files: That are sent.
        left_out: Files that stay here, with the reason.
        faults: Why it is not published; empty if it may be.
        warnings: What is published all the same.
    """

    facts: Facts
    target: Target
    files: list[HubFile]
    left_out: dict[str, str]
    faults: list[Fault]
    warnings: list[str]


def prepare(conf: PublishConf, artifact_folder: Path) -> Publication:
    """Verifies the artifact, chooses what is sent and checks it; asks nothing of the network.

    Raises:
        ArtifactError: if the artifact is damaged.
        ConfigError: if it has no card yet, or `card.yaml` is wrong.
    """
    if not (artifact_folder.resolve().parent / CARD / README).is_file():
        fix = f"python scripts/card.py artifact={artifact_folder}; then fill in card.yaml and run it again"
        raise ConfigError(Fault("card", "the artifact has none", fix=fix))
    facts = load_facts(artifact_folder)
    files, left_out = files_to_publish(facts)
    found = obstacles(facts, files, conf.repo_id)
    open_ones = [o for o in found if o.risk not in conf.accept and not (o.only_public and conf.private)]
    passed = [o for o in found if o not in open_ones]
    warnings = [f"{o.fault.key} {o.fault.problem}" for o in passed]
    target = Target(conf.repo_id, conf.private, conf.revision, conf.tag)
    return Publication(facts, target, files, left_out, _told(open_ones, conf.accept), warnings)


def _told(found: Sequence[Obstacle], accepted: Sequence[Risk]) -> list[Fault]:
    """As faults; where each can be accepted, with the key that accepts all of them."""
    names = [risk.value for risk in Risk if risk in accepted or risk in {o.risk for o in found}]
    accept = f", or accept=[{','.join(names)}] if you answer for it"
    return [
        Fault(f.key, f.problem, f.value, f.allowed, f"{f.fix}{accept}" if o.risk else f.fix)
        for o in found
        for f in (o.fault,)
    ]


def show(publication: Publication) -> None:
    """Tells what goes where, and what is known against it."""
    target, facts = publication.target, publication.facts
    seen = "private" if target.private else "PUBLIC: everybody can read it"
    tag = f", tag {target.tag}" if target.tag else ""
    tell("target", f"{target.repo_id} on {endpoint()}, {target.revision}{tag}; {seen}")
    tell("model", f"{facts.name}, {facts.artifact.manifest['kind']}, on {facts.base}; licence {facts.licence.title}")
    for file in publication.files:
        tell("file", f"{file.name:<32} {file.size:>15,} bytes  sha256 {file.sha256}")
    total = sum(file.size for file in publication.files)
    tell("", f"{len(publication.files)} files, {total / 1e6:,.1f} MB")
    for name, why in publication.left_out.items():
        tell("left out", f"{harmless(name)}: {why}")
    for line in publication.warnings:
        tell("warning", harmless(line))


def publish(conf: PublishConf, publication: Publication) -> Pushed:
    """Sends it, and notes the commit in the run's record.

    Raises:
        ConfigError: with everything that stands against it; nothing has been sent then.
        HubError: if the hub does not take it.
    """
    faults = [*publication.faults, *token_faults()]
    if faults:
        raise ConfigError(faults)
    pushed = push(publication.target, publication.files, is_of_an_artifact)
    artifact = publication.facts.artifact
    if not isinstance(conf.tracking, NoTrackingConf):
        tags = {"hub.repo_id": conf.repo_id, "hub.commit": pushed.commit, "hub.url": pushed.url}
        tag_record(artifact.conf.tracking, artifact.manifest["run_id"], tags)
    return pushed


def publish_trained(conf: RunConf, artifact_folder: Path) -> str:
    """What a run with `hub.push_to_hub=true` does at its end: its cards, then as `scripts/publish.py`; returns the address.

    Raises:
        MedLLMError: if it cannot be published; the artifact stays, and how to go on is said.
    """
    repo_id = str(conf.hub.hub_model_id)
    asked = PublishConf(str(artifact_folder), repo_id, private=conf.hub.hub_private_repo, tracking=conf.tracking)
    try:
        write_cards(artifact_folder)
        return publish(asked, prepare(asked, artifact_folder)).url
    except MedLLMError:
        say("artifact", f"is whole in {artifact_folder}; to publish it later:")
        say("", f"python scripts/publish.py artifact={artifact_folder} repo_id={repo_id}")
        raise
