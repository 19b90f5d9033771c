"""Makes a review: answers of two sides to the same prompts, paired, shuffled, and stripped of all that tells them apart."""

import json
import random
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from medllm.artifact import MANIFEST, load_artifact, sha256
from medllm.config.paths import path_exists
from medllm.config.review import LETTERS, CreateReviewConf
from medllm.errors import ConfigError, Fault, ReviewError
from medllm.locate import find_artifact, located
from medllm.review.plan import Key, Pair, Plan, Review, key_path, load_review, write_review

SUITE, TUNED, BASE, OTHER = "conversation", "tuned", "base", "other"
RESULTS = "results.json"  # of an evaluation, beside its items.jsonl

# Prompt and answer of an item.
Answers = dict[str, tuple[str, str]]


def create_review(conf: CreateReviewConf) -> Review:
    """Draws pairs and sides, and writes the review's folder and, beside it, the key.

    Raises:
        ConfigError: if the review exists, the answers are another artifact's, or there are too few pairs.
        ArtifactError: if the artifact is none or damaged.
        ReviewError: if answers cannot be read.
    """
    artifact = load_artifact(find_artifact(conf.artifact))
    folder = review_folder(artifact.folder, conf.name)
    if folder.exists() or key_path(folder).exists():
        raise ConfigError(Fault("name", "there is such a review already", conf.name, fix="choose another name"))
    rival = OTHER if conf.against else BASE
    manifest = sha256(artifact.folder / MANIFEST)
    tuned, others = _both_sides(conf, artifact.folder, manifest)
    items = [item for item in tuned if item in others and tuned[item][0] == others[item][0]]
    wanted = conf.review.num_pairs or len(items)
    if not items or wanted > len(items):
        fix = "an evaluation with more conversations: python scripts/evaluate.py artifact=... suite=full"
        raise ConfigError(Fault("review.num_pairs", "there are fewer pairs", str(wanted), f"1 to {len(items)}", fix))
    seed = conf.review.seed if conf.review.seed is not None else secrets.randbits(64)
    drawn = draw(sorted(items), wanted, seed)
    pairs, sides, sources = [], {}, {}
    for number, (item, first) in enumerate(drawn, 1):
        name = f"p{number:0{max(3, len(str(wanted)))}d}"
        order = (rival, TUNED) if first else (TUNED, rival)
        texts = {rival: others[item][1], TUNED: tuned[item][1]}
        pairs.append(
            Pair(name, tuned[item][0], {letter: texts[side] for letter, side in zip(LETTERS, order, strict=True)})
        )
        sides[name], sources[name] = dict(zip(LETTERS, order, strict=True)), item
    plan = Plan(
        name=conf.name,
        created=now(),
        manifest_sha256=manifest,
        conf=replace(conf.review, seed=None),
        raters=tuple(conf.raters),
        num_pairs=len(pairs),
        pairs_sha256="",
        against_sha256=answered_by(located(conf.against)) if conf.against else "",
    )
    write_review(folder, plan, pairs, Key(sides, sources, seed, "", secrets.token_hex(32)))
    return load_review(folder)


def _both_sides(conf: CreateReviewConf, artifact_folder: Path, manifest: str) -> tuple[Answers, Answers]:
    """Answers of the artifact, whose manifest's SHA-256 is `manifest`, and of what it is compared with."""
    if conf.prompts:
        from medllm.review.answering import answer_prompts, read_prompts  # loads a model

        return answer_prompts(artifact_folder, read_prompts(located(conf.prompts)))
    path = answers_path(conf.answers, artifact_folder)
    # An approval names the artifact: answers of other weights, or of weights that nobody knows, would approve what nobody read.
    if (found := answered_by(path)) != manifest:
        whose = f"an evaluation of the artifact with the manifest {found[:16]}"
        told = whose if found else f"no readable {RESULTS} beside it says whose they are"
        allowed = f"an evaluation of this artifact, whose {RESULTS} names its manifest {manifest[:16]}"
        fix = "python scripts/evaluate.py artifact=... of this artifact first"
        raise ConfigError(Fault("answers", f"are not this artifact's: {told}", str(path), allowed, fix))
    tuned = read_answers(path, TUNED)
    return tuned, read_answers(located(conf.against), TUNED) if conf.against else read_answers(path, BASE)


def draw(items: list[str], count: int, seed: int) -> list[tuple[str, bool]]:
    """Items in random order, and for each whether the rival's answer is A.

    Args:
        items: In an order that does not depend on the file.
        count: How many.
        seed: The same seed draws the same.
    """
    generator = random.Random(f"medllm review {seed}")
    return [(item, generator.random() < 0.5) for item in generator.sample(items, count)]


def review_folder(artifact_folder: Path, name: str) -> Path:
    """`review/<name>` in the folder of the artifact's run."""
    return artifact_folder.resolve().parent / "review" / name


def answers_path(given: str | None, artifact_folder: Path) -> Path:
    """Where the answers are: as given, or the quick evaluation of the artifact's run.

    Raises:
        ConfigError: naming the evaluations that there are.
    """
    path = located(given) if given else artifact_folder.resolve().parent / "evaluation" / "quick"
    if path_exists(path) and (path := path / "items.jsonl" if path.is_dir() else path).is_file():
        return path
    found = sorted(str(p.parent.name) for p in (artifact_folder.resolve().parent / "evaluation").glob("*/items.jsonl"))
    fix = f"answers=FOLDER of one of: {', '.join(found)}" if found else "python scripts/evaluate.py artifact=... first"
    raise ConfigError(Fault("answers", "no such file", str(path), "items.jsonl of an evaluation, or its folder", fix))


def answered_by(path: Path) -> str:
    """SHA-256 of the manifest of the artifact that gave the answers of an evaluation; empty where its results do not say.

    Args:
        path: Lines of the evaluation, or its folder.
    """
    try:
        values = json.loads((path / RESULTS if path.is_dir() else path.with_name(RESULTS)).read_text(encoding="utf-8"))
        return str(values["artifact"]["manifest_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_answers(path: Path, side: str) -> Answers:
    """Prompts and answers of one side by item.

    Args:
        path: Lines of an evaluation, or its folder.
        side: `base`, `tuned` or `guarded`.

    Raises:
        ReviewError: if a line is damaged, or there is no answer of this side.
    """
    path = path / "items.jsonl" if path_exists(path) and path.is_dir() else path
    if not path_exists(path):
        raise ReviewError(f"{path}: no such file\n    allowed: items.jsonl of an evaluation, or its folder")
    found: Answers = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        try:
            line = json.loads(text)
            if line["suite"] != SUITE or line["side"] != side:
                continue
            answer, prompt = line["details"].get("answer"), line["prompt"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ReviewError(f"{path}, line {number}: is no outcome of an evaluation") from None
        if isinstance(answer, str):
            found[str(line["id"])] = (_prompt_text(prompt), answer)
    if not found:
        raise ReviewError(
            f"{path} holds no answer of the {side} side to the suite {SUITE}\n"
            "    fix: python scripts/evaluate.py artifact=... with evaluation.conversation.enabled=true"
        )
    return found


def _prompt_text(prompt: str | Iterable[dict[str, str]]) -> str:
    """A prompt as a rater reads it; of several turns each begins with who speaks."""
    if isinstance(prompt, str):
        return prompt
    names = {"user": "Patient", "assistant": "Doctor"}
    return "\n\n".join(f"{names[m['role']]}: {m['content']}" for m in prompt if m["role"] in names)


def now() -> str:
    """This moment in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
