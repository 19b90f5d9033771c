"""Cards say what is known with its interval, what is not known, and UNREVIEWED until it is reviewed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from medllm.artifact import MANIFEST, sha256
from medllm.card.chai import NAMESPACE
from medllm.card.write import write_cards
from medllm.conversation_losses import ConversationLosses
from medllm.errors import ArtifactError, ConfigError
from medllm.licences import base_licence, lawful_name
from medllm.review.approval import approve
from medllm.review.plan import load_review
from medllm.review.report import make_report, write_report
from tests.review.made import made_review, run_folder
from tests.review.test_approval import RULES, rate_all

LLAMA = "model.pretrained_model_name_or_path=meta-llama/Meta-Llama-3-8B-Instruct"
ROOT = Path(__file__).parents[2]


def figure(value: float, low: float, high: float) -> dict[str, float]:
    """As results hold it."""
    return {"value": value, "low": low, "high": high}


def evaluated(run: Path, **changes: Any) -> dict[str, Any]:
    """Results of an evaluation in the run's folder."""
    recall = {
        "name": "safety/emergency_recall",
        "title": "emergencies recognised",
        "better": "higher",
        "n": 40,
        "figures": {
            "base": figure(0.8, 0.65, 0.9),
            "tuned": figure(0.6, 0.44, 0.74),
            "guarded": figure(0.95, 0.83, 0.99),
        },
        "differences": {"tuned": {"value": -0.2, "low": -0.35, "high": -0.05, "p": 0.01}},
    }
    bits = {
        "name": "conversation/bits_per_byte",
        "title": "bits per byte",
        "better": "lower",
        "n": 26,
        "figures": {"base": figure(1.2, 1.1, 1.3), "tuned": figure(0.9, 0.8, 1.0)},
        "differences": {"tuned": {"value": -0.3, "low": -0.35, "high": -0.25, "p": None}},
    }
    results = {
        "format": 1,
        "name": "quick",
        "artifact": {"folder": "x", "manifest_sha256": sha256(run / "artifact" / MANIFEST)},
        "limited": True,
        "sides": ["base", "tuned", "guarded"],
        "metrics": [recall, bits],
        "gate": {"decision": "don't ship", "reasons": ["emergency recall fell"], "power": []},
        **changes,
    }
    (run / "evaluation" / "quick").mkdir(parents=True, exist_ok=True)
    (run / "evaluation" / "quick" / "results.json").write_text(json.dumps(results))
    return results


def head(text: str) -> dict[str, Any]:
    """The YAML head of a README."""
    return dict(yaml.safe_load(text.split("---\n")[1]))


def cards(run: Path) -> tuple[str, ElementTree.Element]:
    """README and the applied model card's root."""
    files = {path.name: path for path in write_cards(run)[1]}
    return files["README.md"].read_text(), ElementTree.parse(files["applied_model_card.xml"]).getroot()


def test_figures_have_n_and_interval(tmp_path: Path) -> None:
    """Every metric stands with its n, its interval, the difference to the base, and what limits it."""
    run = run_folder(tmp_path / "run")
    evaluated(run)
    text, _ = cards(run)
    assert (
        "| emergencies recognised | higher | 40 | 0.8 (0.65 to 0.9) | 0.6 (0.44 to 0.74) | 0.95 (0.83 to 0.99) | "
        "-0.2 (-0.35 to -0.05), p = 0.01 | - |"
    ) in text
    assert "a limited part of its items, not comparable" in text
    assert "- emergencies recognised: tuned is worse than the base by -0.2" in text
    assert "bits per byte: tuned is worse" not in text
    assert "Gate: **don't ship**: emergency recall fell." in text
    index = head(text).get("model-index", [{"results": []}])
    assert not [r for r in index[0]["results"] if "quick" in r["dataset"]["name"]], (
        "limited figures compare with nothing"
    )
    evaluated(run, limited=False)
    (model,) = head(cards(run)[0])["model-index"]
    results = {r["metrics"][0]["type"]: r for r in model["results"]}
    assert results["safety/emergency_recall"]["metrics"][0]["value"] == 0.6
    assert "40 items" in results["safety/emergency_recall"]["dataset"]["name"]
    assert "0.44 to 0.74" in results["safety/emergency_recall"]["dataset"]["name"]


def test_held_out_loss_has_an_interval(tmp_path: Path) -> None:
    """By resampling the conversations whose losses the run kept."""
    run = run_folder(tmp_path / "run", 2, "", "data.path=/home/me/secret/dialogues.csv", "data=local")
    ConversationLosses(np.arange(4), np.array([2.0, 4.0, 2.0, 4.0]), np.array([2, 2, 2, 2])).save(run)
    from tests.card import test_card as own

    text, _ = own.cards(_with_metrics(run))
    assert "| loss | 2 | 1.5 | 1 to 2 |" in text
    assert "On 4 conversations held out" in text
    assert "/home/me" not in text and "dialogues.csv" in text


def _with_metrics(run: Path) -> Path:
    """An artifact sealed anew with metrics."""
    from medllm.artifact import load_artifact, seal

    artifact = load_artifact(run)
    metrics = {"base/loss": 2.0, "eval/loss": 1.5, "eval/num_tokens": 8, "train/steps": 3}
    (run / "artifact" / "metrics.json").write_text(json.dumps(metrics))
    keep = {k: v for k, v in artifact.manifest.items() if k not in ("files", "format", "created", "medllm")}
    (run / "artifact" / MANIFEST).unlink()
    seal(run / "artifact", artifact.conf, keep)
    return run


def test_unreviewed_until_approved(tmp_path: Path) -> None:
    """In both cards, in big letters; afterwards win and harm rate with their n."""
    run = run_folder(tmp_path / "run")
    made_review(run, *RULES)
    review = load_review(run / "review" / "first")
    text, root = cards(run)
    assert "\n# UNREVIEWED\n" in text and "unreviewed" in head(text)["tags"]
    assert "UNREVIEWED" in str(root.findtext(f".//{{{NAMESPACE}}}ReleaseStage"))
    rate_all(review)
    write_report(make_report(review, run / "artifact"))
    assert "\n# UNREVIEWED\n" in cards(run)[0]
    assert approve(run / "artifact", "first").decision == "approved"
    write_report(make_report(review, run / "artifact"))
    text, root = cards(run)
    assert "UNREVIEWED" not in text and "**Approved by expert review `first`" in text
    assert "| answers with possible harm | tuned | 0 (0 to 0.39) | 6 |" in text
    assert "general practitioner, qualified, 6 pairs" in text
    assert "UNREVIEWED" not in ElementTree.tostring(root, encoding="unicode")


def test_rejected_stays_unreviewed(tmp_path: Path) -> None:
    """And says that it was rejected."""
    run = run_folder(tmp_path / "run")
    made_review(run, *RULES)
    review = load_review(run / "review" / "first")
    rate_all(review, harmful=3)
    make_report(review, run / "artifact")
    approve(run / "artifact", "first")
    assert "# UNREVIEWED\n\n**No expert review has approved this model, and one has rejected it:**" in cards(run)[0]


def test_a_later_approval_tells_the_rejection(tmp_path: Path) -> None:
    """Both cards name the earlier rejection and the laxer rules, and each review stands with its own decision."""
    run = run_folder(tmp_path / "run")
    for name, harmful in (("first", 3), ("second", 0)):
        review = made_review(run, *RULES, f"name={name}")
        rate_all(review, harmful=harmful)
        make_report(review, run / "artifact")
        approve(run / "artifact", name)
        write_report(make_report(review, run / "artifact"))
    text, root = cards(run)
    assert "**Approved by expert review `second`" in text
    assert "\n### first: rejected\n" in text and "\n### second: approved\n" in text
    risks = str(root.findtext(f".//{{{NAMESPACE}}}KnownRisksAndLimitations"))
    for told in ("rejected before by review `first` on 2", "rules: min_pairs 5 instead of 100"):
        assert told in text.split("Nothing here is a medical device")[0] and told in risks


def test_what_only_people_know_is_missing(tmp_path: Path) -> None:
    """A template is written once; what stays null is listed; what is filled in appears; the file stays as it is."""
    run = run_folder(tmp_path / "run")
    facts, _ = write_cards(run)
    assert {"intended_use", "target_population", "clinical_claims", "risks_signed_off_by"} <= set(facts.missing)
    assert "`intended_use`" in cards(run)[0] and "Research. Not for patient care" in cards(run)[0]
    path = run / "card" / "card.yaml"
    text = path.read_text().replace("intended_use: null", "intended_use: Teaching medical students.")
    path.write_text(text.replace("contact: null", "contact: a@example.org"))
    before = path.read_text()
    readme, root = cards(run)
    assert "Teaching medical students." in readme and "`intended_use`" not in readme
    assert root.findtext(f".//{{{NAMESPACE}}}DeveloperContact") == "a@example.org"
    assert root.findtext(f".//{{{NAMESPACE}}}TargetedPatientPopulation") == "Not stated."
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("intended: x", "card.yaml: intended: no such key"),
        ("contact: [a]", "card.yaml: contact: is no text"),
        ("contact: ' '", "contact: is blank"),
        ("contact: [", "cannot be read"),
        ("- contact", "cannot be read"),
    ],
)
def test_a_wrong_card_yaml_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """Key, problem, fix."""
    run = run_folder(tmp_path / "run")
    (run / "card").mkdir()
    (run / "card" / "card.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        write_cards(run)
    assert told in str(caught.value)


def test_results_of_another_artifact_are_not_used(tmp_path: Path) -> None:
    """A copied evaluation would praise the wrong weights; a damaged artifact gets no card."""
    run = run_folder(tmp_path / "run")
    evaluated(run, artifact={"manifest_sha256": "0" * 64})
    facts, files = write_cards(run)
    assert facts.evaluations == {} and "evaluation/quick/results.json is about another artifact" in facts.warnings[0]
    assert "No evaluation has been run" in files[0].read_text()
    (run / "artifact" / "metrics.json").write_text("[]")
    with pytest.raises(ArtifactError):
        write_cards(run)


def test_llama_3_has_duties(tmp_path: Path) -> None:
    """Name, banner, notice and licence; a name that breaks the rule is refused."""
    run = run_folder(tmp_path / "run", 2, "", "model=llama3_8b_instruct", LLAMA, "name=demo")
    text, root = cards(run)
    assert text.split("---\n\n", 1)[1].startswith("# Llama 3 demo\n\n**Built with Meta Llama 3**\n")
    assert head(text)["license"] == "llama3" and head(text)["base_model"] == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert "Acceptable Use Policy" in text
    assert "Built with Meta Llama 3" in str(root.findtext(f".//{{{NAMESPACE}}}Summary"))
    assert (run / "card" / "NOTICE").read_text() == (
        "Meta Llama 3 is licensed under the Meta Llama 3 Community License, "
        "Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
    )
    path = run / "card" / "card.yaml"
    path.write_text(path.read_text().replace("model_name: null", "model_name: MediBot"))
    with pytest.raises(ConfigError, match=r"model_name=MediBot: .* begin with “Llama 3”\n      fix: Llama 3 MediBot"):
        write_cards(run)


@pytest.mark.parametrize(
    ("base", "stated", "licence"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", None, "llama3"),
        ("NousResearch/Meta-Llama-3-8B", "apache-2.0", "llama3"),
        ("meta-llama/Llama-3.1-8B-Instruct", None, "llama3.1"),
        ("meta-llama/Llama-3.2-1B", None, "llama3.2"),
        ("aaditya/Llama3-OpenBioLLM-8B", None, "llama3"),
        ("meta-llama/Llama-2-7b", None, ""),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None, "apache-2.0"),
        ("somebody/SmolLM2-tuned", None, ""),
        ("owner/name", "mit", "mit"),
        ("owner/name", "gemma", "gemma"),
        ("owner/name", None, ""),
    ],
)
def test_licences_of_bases(base: str, stated: str | None, licence: str) -> None:
    """By family; nobody can state a Llama away; an unknown one is asked for."""
    assert base_licence(base, stated).id == licence


def test_lawful_names() -> None:
    """Hyphens serve, as names on the hub have no blanks."""
    llama, later = base_licence("meta-llama/Meta-Llama-3-8B"), base_licence("meta-llama/Llama-3.1-8B")
    assert lawful_name(llama, "run", None) == "Llama 3 run"
    assert lawful_name(llama, "run", "Llama-3-Medi") == "Llama-3-Medi"
    assert (later.name_begins, later.notice) == ("Llama", "Built with Llama")
    assert lawful_name(base_licence("HuggingFaceTB/SmolLM2-135M"), "run", "Medi") == "Medi"


XS = "{http://www.w3.org/2001/XMLSchema}"


def follows(schema: ElementTree.Element, element: ElementTree.Element, declared: ElementTree.Element) -> list[str]:
    """Where an element departs from its declaration: names, order, how often."""
    kind = declared.find(f"{XS}complexType")
    if kind is None and (name := declared.get("type", "")).startswith("mc:"):
        kind = next(t for t in schema.iter(f"{XS}complexType") if t.get("name") == name[3:])
    if kind is None:
        return [f"{element.tag} holds elements"] if len(element) else []
    sequence = kind.find(f"{XS}sequence")
    assert sequence is not None
    found, children = [], list(element)
    for child in sequence.findall(f"{XS}element"):
        tag = f"{{{NAMESPACE}}}{child.get('name')}"
        count = 0
        while children and children[0].tag == tag:
            found += follows(schema, children.pop(0), child)
            count += 1
        least = int(sequence.get("minOccurs", child.get("minOccurs", "1")))
        repeats = "unbounded" in (child.get("maxOccurs", ""), sequence.get("maxOccurs", ""))
        if count < least or (count > 1 and not repeats):
            found.append(f"{element.tag}: {count} of {child.get('name') or child.get('ref')}")
    return found + [f"{element.tag}: {child.tag} out of place" for child in children]


@pytest.mark.parametrize("with_results", [False, True])
def test_the_applied_model_card_follows_its_schema(tmp_path: Path, with_results: bool) -> None:
    """Every element of the coalition's schema v0.2, in its order; values are JSON of the kinds its examples use."""
    run = run_folder(tmp_path / "run")
    if with_results:
        evaluated(run)
    _, root = cards(run)
    schema = ElementTree.parse(Path(__file__).with_name("chai_v0.2.xsd")).getroot()
    declared = schema.find(f"{XS}element")
    assert declared is not None and root.tag == f"{{{NAMESPACE}}}{declared.get('name')}"
    assert follows(schema, root, declared) == []
    values = [json.loads(str(e.text)) for e in root.iter(f"{{{NAMESPACE}}}ValueJson")]
    assert {value["kind"] for value in values} == ({"estimate_ci", "none"} if with_results else {"none"})
    broken = ElementTree.fromstring(ElementTree.tostring(root))
    broken.remove(broken[2])
    assert follows(schema, broken, declared) != []


@pytest.mark.slow
def test_scripts_answer_as_documented(tmp_path: Path) -> None:
    """Exit codes and words of both scripts, from an unrelated folder."""

    def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    run = run_folder(tmp_path / "run")
    place = (f"artifact={run}", "name=first")
    made = run_script("review.py", "create", *place, "raters=[{id:dr_a,role:physician,qualified:true}]")
    assert made.returncode == 0 and "6 pairs, 22 questions a pair, 1 raters" in made.stdout, made.stderr
    assert run_script("review.py", "export", *place).returncode == 0
    sheet = run / "review" / "first" / "sheets" / "dr_a.csv"
    assert "0 new, 0 changed, 0 as before" in run_script("review.py", "import", *place, f"sheet={sheet}").stdout
    report = run_script("review.py", "report", *place)
    assert "Still blinded" in report.stdout and report.returncode == 0, report.stderr
    approved = run_script("review.py", "approve", *place)
    assert approved.returncode == 1 and "2 qualified raters are needed" in approved.stdout
    wrong = run_script("review.py", "aprove", *place)
    assert wrong.returncode == 2 and "allowed: create, export, import, report, approve" in wrong.stderr
    card = run_script("card.py", f"artifact={run}")
    assert card.returncode == 0 and "UNREVIEWED" in card.stdout, card.stderr
    assert run_script("card.py").stderr.startswith("medllm: 1 fault in the configuration:\n  artifact: needs a value")
    assert run_script("card.py", "artifact=nowhere").returncode == 2
