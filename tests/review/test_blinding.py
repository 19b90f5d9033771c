"""Nobody can tell sides before the report; nothing can be changed without being noticed."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from medllm.config.compose import load_conf
from medllm.config.review import CreateReviewConf
from medllm.errors import ConfigError, ReviewError
from medllm.review.create import answers_path, create_review, draw
from medllm.review.plan import load_review
from medllm.review.sheets import export_sheets
from tests.review.made import RATERS, answers, is_tuned, made_review, run_folder


def test_no_public_file_tells_the_sides(tmp_path: Path) -> None:
    """Files of the review's folder and sheets name no side, no item and no seed; the key does, outside of it."""
    run = run_folder(tmp_path / "run")
    review = made_review(run, "review.seed=4711")
    export_sheets(review)
    for path in review.folder.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not any(word in text for word in ('"base"', '"tuned"', '"c1"', "4711", "items.jsonl", str(run))), (
                path
            )
    key = json.loads(review.key_path.read_text())
    assert review.key_path.parent == run / "review" and key["seed"] == 4711
    assert stat.S_IMODE(review.key_path.stat().st_mode) == 0o600
    for pair in review.pairs:
        for letter, text in pair.answers.items():
            assert (key["sides"][pair.id][letter] == "tuned") == is_tuned(text)


def test_the_key_is_committed_to(tmp_path: Path) -> None:
    """The plan names the key's hash, which nobody can find by trying seeds; another key is refused."""
    review = made_review(run_folder(tmp_path / "run"))
    assert review.plan.key_sha256 == hashlib.sha256(review.key_path.read_bytes()).hexdigest()
    key = json.loads(review.key_path.read_text())
    assert len(key["word"]) == 64
    swapped = {pair: {"A": s["B"], "B": s["A"]} for pair, s in key["sides"].items()}
    review.key_path.write_text(json.dumps({**key, "sides": swapped}, indent=2))
    with pytest.raises(ReviewError, match="is not the key"):
        review.open_key()


def test_a_changed_plan_or_pair_is_noticed(tmp_path: Path) -> None:
    """Rules cannot be loosened and answers not exchanged after creation."""
    review = made_review(run_folder(tmp_path / "run"))
    plan = json.loads((review.folder / "review_plan.json").read_text())
    plan["review"]["approval"]["max_harm_fraction"] = 1.0
    (review.folder / "review_plan.json").write_text(json.dumps(plan))
    with pytest.raises(ReviewError, match=r"review_plan.json was changed"):
        load_review(review.folder).open_key()
    pairs = review.folder / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("says", "said"))
    with pytest.raises(ReviewError, match="changed after the review was created"):
        load_review(review.folder)


def test_the_seed_decides_order_and_sides(tmp_path: Path) -> None:
    """The same seed makes the same pairs, another one others; sides fall both ways."""
    conf = ("review.seed=1",)
    first, again = (made_review(run_folder(tmp_path / name, 30), *conf) for name in ("one", "two"))
    other = made_review(run_folder(tmp_path / "three", 30), "review.seed=2")
    assert first.pairs == again.pairs != other.pairs
    assert first.plan.key_sha256 != again.plan.key_sha256
    assert 5 < sum(is_tuned(pair.answers["A"]) for pair in first.pairs) < 25
    items = [f"c{i}" for i in range(30)]
    assert [item for item, _ in draw(items, 30, 1)] != items
    assert draw(items, 30, 1)[:10] != draw(items, 30, 2)[:10]


def test_pairs_are_drawn(tmp_path: Path) -> None:
    """As many as asked for; more than there are is a fault that says how many there are."""
    run = run_folder(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"review.num_pairs=7: there are fewer pairs\n      allowed: 1 to 6"):
        made_review(run, "review.num_pairs=7")
    assert len(made_review(run, "review.num_pairs=4").pairs) == 4
    with pytest.raises(ConfigError, match="name=first: there is such a review already"):
        made_review(run)


def test_another_artifact_is_the_rival(tmp_path: Path) -> None:
    """`against` compares tuned answers of two artifacts to the same prompts."""
    run, rival = run_folder(tmp_path / "run"), answers(tmp_path / "rival", 4, "f" * 64)
    conf = load_conf(CreateReviewConf, [f"artifact={run}", "name=duel", RATERS, f"against={rival}"])
    review = create_review(conf)
    assert len(review.pairs) == 4
    assert set(review.open_key().sides["p001"].values()) == {"tuned", "other"}
    assert load_review(review.folder).plan.against_sha256 == "f" * 64


def test_answers_of_another_artifact_are_refused(tmp_path: Path) -> None:
    """Given or by default, as a folder or a file, or where nothing says whose they are; and nothing is written."""
    run, other = run_folder(tmp_path / "run"), run_folder(tmp_path / "other", 6, "another run")
    quick = other / "evaluation" / "quick"
    for given in (quick, quick / "items.jsonl"):
        with pytest.raises(
            ConfigError, match="are not this artifact's: an evaluation of the artifact with the manifest"
        ):
            made_review(run, f"answers={given}")
    results = run / "evaluation" / "quick" / "results.json"
    own = results.read_text()
    results.write_text((quick / "results.json").read_text())
    with pytest.raises(ConfigError, match="are not this artifact's: an evaluation of the artifact"):
        made_review(run)
    for text in ("", "[]", '{"artifact": null}'):
        results.write_text(text)
        with pytest.raises(
            ConfigError, match=r"are not this artifact's: no readable results.json beside it says whose they are"
        ):
            made_review(run)
    results.unlink()
    with pytest.raises(
        ConfigError, match=r"no readable results.json beside it says whose they are\n.*\n *fix: python scripts/eval"
    ):
        made_review(run)
    assert not (run / "review").exists()
    results.write_text(own)
    assert made_review(run).plan.against_sha256 == ""


def test_missing_answers_are_explained(tmp_path: Path) -> None:
    """A run without an evaluation; lines that are none; a suite that was not asked."""
    run = run_folder(tmp_path / "run")
    items = run / "evaluation" / "quick" / "items.jsonl"
    text = items.read_text()
    items.write_text(text.replace('"conversation"', '"safety"'))
    with pytest.raises(ReviewError, match="holds no answer of the tuned side"):
        made_review(run)
    items.write_text(text + '{"suite"')
    with pytest.raises(ReviewError, match=r"items.jsonl, line 13: is no outcome"):
        made_review(run)
    items.unlink()
    with pytest.raises(ConfigError, match=r"answers=.*no such file"):
        made_review(run)
    with pytest.raises(ConfigError, match=r"answers=.*l: no such file"):
        answers_path("l" * 300, run / "artifact")


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    """What is no prompt is named by its line; two ways at once are refused."""
    from medllm.review.answering import read_prompts

    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "I cough."}\n\n{"prompt": "My knee."}\n')
    assert read_prompts(path) == {"line 1": "I cough.", "line 3": "My knee."}
    path.write_text('{"question": "I cough."}\n')
    with pytest.raises(ReviewError, match="line 1: has no prompt"):
        read_prompts(path)
    with pytest.raises(ReviewError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="one way only"):
        made_review(tmp_path, f"prompts={path}", "answers=x")
