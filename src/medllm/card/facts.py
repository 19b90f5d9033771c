"""Everything that is known of an artifact, read in one place: its run's files, evaluations and reviews."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medllm.artifact import MANIFEST, Artifact, load_artifact, sha256
from medllm.card.human import load_card_conf
from medllm.config.card import CardConf
from medllm.config.data import sources_of
from medllm.conversation_losses import ConversationLosses
from medllm.intervals import Interval, percentiles, resampled_ratios
from medllm.licences import Licence, base_licence, base_name, lawful_name
from medllm.review.approval import ReviewStatus, decided_reviews, review_status, reviews_folder
from medllm.run_folder import read_data_report

EVALUATION, CARD = "evaluation", "card"


@dataclass(frozen=True)
class HeldOut:
    """The run's own held-out figures.

    Attributes:
        name: Of the figure.
        before: Of the base; None where it was not measured.
        after: Of the artifact.
        interval: Of `after`, 95 % by resampling conversations; None where single losses were not kept.
    """

    name: str
    before: float | None
    after: float
    interval: Interval | None


@dataclass(frozen=True)
class Facts:
    """Everything known.

    Attributes:
        artifact: Verified.
        run_folder: Of its run.
        manifest_sha256: Identifies the artifact.
        human: What a person says.
        name: The model's, as its base's licence allows it.
        base: Id of the base model on the hub, or the name of its folder.
        licence: The base model's.
        metrics: Of the run.
        label_proof: Of the run.
        data_report: Of the run; empty where there is none.
        held_out: Figures of the run's held-out conversations.
        num_conversations: Held out; 0 where that is not known.
        evaluations: `results.json` by name.
        reviews: `review.json` by name.
        decisions: What each review's own newest decision says, by name of the review.
        status: What experts say.
        warnings: Files that were found and not used, with the reason.
    """

    artifact: Artifact
    run_folder: Path
    manifest_sha256: str
    human: CardConf
    name: str
    base: str
    licence: Licence
    metrics: dict[str, float]
    label_proof: dict[str, Any]
    data_report: dict[str, Any]
    held_out: list[HeldOut]
    num_conversations: int
    evaluations: dict[str, dict[str, Any]]
    reviews: dict[str, dict[str, Any]]
    decisions: dict[str, ReviewStatus]
    status: ReviewStatus
    warnings: list[str]

    @property
    def is_reviewed(self) -> bool:
        """Whether experts approved it."""
        return self.status.decision == "approved"

    @property
    def missing(self) -> list[str]:
        """What a person still has to fill in."""
        unknown = ["base_license"] if not self.licence.id else []
        return [*unknown, *self.human.missing]

    @property
    def sources(self) -> list[str]:
        """Files or data sets of the dialogues; of files their names only, for a card is read by others."""
        return [
            str(source.dataset or Path(str(source.path)).name)
            for source in sources_of(self.artifact.conf.data).values()
        ]

    @property
    def data_sets(self) -> list[str]:
        """Ids on the hub."""
        return [str(source.dataset) for source in sources_of(self.artifact.conf.data).values() if source.dataset]


def load_facts(artifact_folder: Path) -> Facts:
    """Reads everything, and verifies the artifact.

    Raises:
        ArtifactError: if the artifact is none or damaged.
        FolderError: if a file of the run is.
        ConfigError: if `card.yaml` is wrong, or names the model as its base's licence forbids.
    """
    artifact = load_artifact(artifact_folder)
    run = artifact.folder.resolve().parent
    human = load_card_conf(run / CARD)
    manifest = sha256(artifact.folder / MANIFEST)
    base = human.base_model or base_name(artifact.conf.model)
    licence = base_licence(base, human.base_license)
    metrics = {name: float(value) for name, value in _json(artifact.folder / "metrics.json").items()}
    losses = ConversationLosses.load(run)
    warnings: list[str] = []
    return Facts(
        artifact=artifact,
        run_folder=run,
        manifest_sha256=manifest,
        human=human,
        name=lawful_name(licence, artifact.conf.name, human.model_name),
        base=base,
        licence=licence,
        metrics=metrics,
        label_proof=_json(artifact.folder / "label_proof.json"),
        data_report=read_data_report(run),
        held_out=_held_out(metrics, losses),
        num_conversations=len(losses.loss) if losses else 0,
        evaluations=_of_this_artifact(run / EVALUATION, "results.json", manifest, warnings),
        reviews=_of_this_artifact(reviews_folder(artifact.folder), "review.json", manifest, warnings),
        decisions=decided_reviews(artifact.folder),
        status=review_status(artifact.folder),
        warnings=warnings,
    )


def _held_out(metrics: dict[str, float], losses: ConversationLosses | None) -> list[HeldOut]:
    interval = None
    if losses is not None and len(losses.loss) > 1:
        tokens = losses.num_tokens.astype(np.float64)[:, None]
        interval = percentiles(resampled_ratios(losses.loss[:, None], tokens)[:, 0])
    perplexity = Interval(float(np.exp(interval.low)), float(np.exp(interval.high))) if interval else None
    intervals = {"loss": interval, "perplexity": perplexity}
    return [
        HeldOut(name, metrics.get(f"base/{name}"), metrics[f"eval/{name}"], intervals.get(name))
        for name in ("loss", "perplexity", "token_accuracy")
        if f"eval/{name}" in metrics
    ]


def _of_this_artifact(folder: Path, file: str, manifest: str, warnings: list[str]) -> dict[str, dict[str, Any]]:
    """Results below a folder by name; those of another artifact are not used."""
    found = {}
    for path in sorted(folder.glob(f"*/{file}")):
        values = _json(path)
        about = values.get("artifact")
        if not isinstance(about, dict) or about.get("manifest_sha256") != manifest:
            warnings.append(
                f"{path.parent.parent.name}/{path.parent.name}/{file} is about another artifact, or damaged: not used"
            )
        else:
            found[path.parent.name] = values
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(values) if isinstance(values, dict) else {}
