"""What stands against publishing: found before anything is sent, and told together.

Of licences this reminds and is no legal advice; of texts it finds what has the form of a secret or of a path, not what a sentence
tells of a patient.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medllm.cache import cache_dir
from medllm.card.facts import CARD, Facts
from medllm.card.write import card_texts
from medllm.config.data import sources_of
from medllm.config.model import PretrainedModelConf
from medllm.config.publish import Risk
from medllm.config.run import RunConf
from medllm.config.store import project_root, rooted
from medllm.errors import Fault, HubError
from medllm.hub import HubFile, hub_token
from medllm.licences import Licence, base_licence, is_lawful_name
from medllm.publication.files import LICENSE, WEIGHTS, has_local_base
from medllm.redaction import secrets_in

HOMES = re.compile(
    r"(?:/home|/Users)/[\w.-]+/[\w.-]+|\b[A-Z]:\\{1,2}Users\\{1,2}[\w.-]+|\b(?:file|sqlite):///[\w./-]{2,}"
)


@dataclass(frozen=True)
class Obstacle:
    """Something against publishing.

    Attributes:
        fault: What it is, and how it is mended.
        risk: By which name it is accepted; None for what is never published.
        only_public: Whether it stands against a public repository alone; of a private one it is told.
    """

    fault: Fault
    risk: Risk | None = None
    only_public: bool = False


def obstacles(facts: Facts, files: Sequence[HubFile], repo_id: str) -> list[Obstacle]:
    """Everything that stands against publishing these files there."""
    return [
        *_of_the_card(facts),
        *_of_the_files(facts, files),
        *_of_licences(facts, files, repo_id),
        *_of_the_data(facts),
        *_of_experts_and_gates(facts),
    ]


def faults_before_training(conf: RunConf) -> list[Fault]:
    """What would stand against the upload at the end of a run, as far as it is known before the first step."""
    if not conf.hub.push_to_hub:
        return []
    found, repo_id = [], str(conf.hub.hub_model_id)
    if not conf.hub.hub_private_repo:
        fix = "hub.hub_private_repo=true; publish it afterwards: python scripts/publish.py ... private=false"
        found.append(Fault("hub.hub_private_repo", "nobody has reviewed what this run will make", "false", fix=fix))
    base = conf.model.pretrained_model_name_or_path if isinstance(conf.model, PretrainedModelConf) else "tiny_random"
    licence = base_licence(base)
    if not licence.id:
        fix = "hub.push_to_hub=false; state base_license in the run's card/card.yaml and use scripts/publish.py"
        found.append(Fault("hub.push_to_hub", f"the licence of {base} is not known here", "true", fix=fix))
    return [*found, *_name_faults(licence, "hub.hub_model_id", repo_id), *token_faults()]


def token_faults() -> list[Fault]:
    """That there is no token."""
    try:
        hub_token()
    except HubError as error:
        problem, _, fix = str(error).partition("\n    fix: ")
        return [Fault("", problem, fix=fix)]
    return []


def _of_the_card(facts: Facts) -> Iterator[Obstacle]:
    """It must say what is known now."""
    for name, text in card_texts(facts).items():
        path = facts.run_folder / CARD / name
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            fix = f"python scripts/card.py artifact={facts.artifact.folder}; what people say belongs into card.yaml"
            problem = "does not say what is known now: written by hand, or before the last evaluation or review"
            yield Obstacle(Fault(f"card/{name}", problem if path.is_file() else "is not there", fix=fix))


def _of_the_files(facts: Facts, files: Sequence[HubFile]) -> Iterator[Obstacle]:
    """Weights without a base, secrets, and paths of this machine."""
    if not any(WEIGHTS.fullmatch(file.name) for file in files):
        yield Obstacle(Fault("artifact", "holds no weights in safetensors", str(facts.artifact.folder)))
    if has_local_base(facts) and not facts.human.base_model:
        fix = "base_model in card.yaml: its id on the hub; then scripts/card.py again"
        yield Obstacle(Fault("base_model", "is a folder of this machine, by which nobody finds the base", fix=fix))
    known = (place.absolute() for place in (Path.home(), project_root(), cache_dir(), facts.run_folder))
    places = [re.escape(str(place)) for place in known if len(place.parts) > 1]  # a home of "/" is in every address
    own = re.compile(rf"(?:{'|'.join(places)})/[\w.-]+|{re.escape(str(facts.run_folder))}")
    for file in files:
        text = _text_of(file)
        told = secrets_in(text)
        for what in told:
            fix = "remove it where it comes from, make a new one, and train or write the card again"
            yield Obstacle(Fault(file.name, f"holds {what}", fix=fix))
        if not told and (place := own.search(text) or HOMES.search(text)):
            fix = "remove it where it comes from: card.yaml, or a name in the configuration"
            yield Obstacle(Fault(file.name, "holds a place of this machine", place[0][:100], fix=fix))


def _of_licences(facts: Facts, files: Sequence[HubFile], repo_id: str) -> Iterator[Obstacle]:
    """Of the base, and of what is published."""
    licence, published = facts.licence, facts.human.license or facts.licence.id
    if not licence.id:
        fix = "base_license in card.yaml, then scripts/card.py again"
        yield Obstacle(Fault("base_license", f"is not known of {facts.base}", fix=fix), Risk.license)
    for fault in _name_faults(licence, "repo_id", repo_id):
        yield Obstacle(fault)
    if licence.hands_on_text and LICENSE not in {file.name for file in files}:
        fix = f"put it into {facts.run_folder / CARD / LICENSE}: {licence.link}"
        yield Obstacle(
            Fault("license", f"the {licence.title} wants its text with the weights", fix=fix), only_public=True
        )
    if licence.name_begins and published != licence.id:
        yield Obstacle(Fault("license", f"the {licence.title} stays that of the weights", published, licence.id))
    for key, source in (("base_license", licence), ("data_license", _data_licence(facts))):
        if source.forbids_adaptations:
            problem = "forbids to share what is made of it"
            yield Obstacle(Fault(key, problem, source.id, fix="private=true"), Risk.license, only_public=True)
        if source.forbids_commerce and not Licence(published, "").forbids_commerce:
            fix = "license in card.yaml: one that forbids it too, then scripts/card.py again"
            problem = f"forbids commercial use, which license {published or 'unknown'} does not"
            yield Obstacle(Fault(key, problem, source.id, fix=fix), Risk.license)


def _of_the_data(facts: Facts) -> Iterator[Obstacle]:
    """By what right dialogues went into the weights; of those that come with the project that is known."""
    bundled = project_root() / "data" / "dialogues.jsonl"
    foreign = [s for s in sources_of(facts.artifact.conf.data).values() if not s.path or rooted(s.path) != bundled]
    if foreign and not (facts.human.data_rights or facts.human.data_license):
        problem = f"nobody has stated by what right {', '.join(facts.sources)} was used"
        fix = "data_rights or data_license in card.yaml, then scripts/card.py again"
        yield Obstacle(Fault("data_rights", problem, fix=fix), Risk.data_rights, only_public=True)


def _of_experts_and_gates(facts: Facts) -> Iterator[Obstacle]:
    """Whether experts and every gate are for it."""
    if not facts.is_reviewed:
        decision = facts.status.decision
        problem = f"is {decision.upper()}: {'; '.join(facts.status.reasons)}"
        fix = "have experts approve it (scripts/review.py), private=true"
        yield Obstacle(Fault("review", problem, fix=fix), Risk[decision], only_public=True)
    gates = {name: results.get("gate") or {} for name, results in facts.evaluations.items()}
    against = [
        f"evaluation {name} says {gate.get('decision')}: {'; '.join(map(str, gate.get('reasons', [])))}"
        for name, gate in gates.items()
        if gate and gate.get("decision") != "ship"
    ]
    if not any(gates.values()):
        against = ["no evaluation with a gate has been run: nothing is known of its safety"]
    for problem in against:
        fix = "make it better, or evaluate it (scripts/evaluate.py), private=true"
        yield Obstacle(Fault("gate", problem, fix=fix), Risk.gate, only_public=True)


def _name_faults(licence: Licence, key: str, repo_id: str) -> list[Fault]:
    owner, _, name = repo_id.rpartition("/")
    if is_lawful_name(licence, name):
        return []
    begins = licence.name_begins.replace(" ", "-")
    problem = f"the {licence.title} wants the model's name to begin with “{licence.name_begins}”"
    return [Fault(key, problem, repo_id, fix=f"{key}={owner}/{begins}-{name}")]


def _data_licence(facts: Facts) -> Licence:
    stated = facts.human.data_license or ""
    return Licence(stated, stated)


def _text_of(file: HubFile) -> str:
    """What of a file is text: all of it, or the head of weights."""
    if isinstance(file.content, bytes):
        return file.content.decode("utf-8", errors="replace")
    with file.content.open("rb") as opened:
        if file.name.endswith(".safetensors"):  # eight bytes that tell how long the JSON behind them is
            return opened.read(min(int.from_bytes(opened.read(8), "little"), 2**27)).decode("utf-8", errors="replace")
        return opened.read().decode("utf-8", errors="replace")
