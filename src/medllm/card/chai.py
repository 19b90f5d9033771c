"""The Applied Model Card of the Coalition for Health AI, schema v0.2 (github.com/coalition-for-health-ai/mc-schema).

A draft by its own words: element names and their order follow `v0.2/schema.xsd`, values of metrics the kinds that its examples
use. What nobody has stated reads "Not stated.", so that a gap is seen and not taken for a no.
"""

import json
from collections.abc import Sequence
from xml.etree import ElementTree

from medllm.card.facts import Facts
from medllm.card.figures import Figure, Row, evaluation_rows, held_out_on, measured_limits, review_figures
from medllm.card.huggingface import DEFAULT_USE

NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"
MISSING = "Not stated."

# A leaf is text, a node a list of children in the schema's order.
Node = tuple[str, "str | Sequence[Node]"]


def applied_model_card(facts: Facts) -> str:
    """applied_model_card.xml."""
    ElementTree.register_namespace("", NAMESPACE)
    root = _element(("AppliedModelCard", _card(facts)))
    ElementTree.indent(root, "\t")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _card(facts: Facts) -> list[Node]:
    human, manifest = facts.human, facts.artifact.manifest
    stamp = "Approved by expert review" if facts.is_reviewed else "UNREVIEWED: no expert review has approved this model"
    reasons = "; ".join(facts.status.reasons)
    limits = "\n".join(f"- {line}" for line in [f"{stamp} ({reasons})", *measured_limits(facts)])
    risks = (
        f"{limits}\n- {human.known_risks}" if human.known_risks else f"{limits}\n- Risks seen by a person: {MISSING}"
    )
    signed = f"Risks signed off by {human.risks_signed_off_by or 'nobody'}."
    return [
        ("BasicInfo", [
            ("ModelName", facts.name),
            ("ModelDeveloper", _said(human.developer)),
            ("DeveloperContact", _said(human.contact)),
        ]),
        ("ReleaseInfo", [
            ("ReleaseStage", f"{_said(human.release_stage)} ({stamp})"),
            ("ReleaseDate", str(manifest["created"])),
            ("ReleaseVersion", human.version or f"artifact {facts.manifest_sha256[:16]}"),
            ("GlobalAvailability", _said(human.availability)),
            ("RegulatoryApproval", human.regulatory_status or "None stated. Not a medical device."),
        ]),
        ("ModelSummary", [
            ("Summary", f"**{stamp}.** {facts.base} fine-tuned on patient-doctor dialogues ({manifest['kind']}). {DEFAULT_USE}"
                        + (f" {facts.licence.notice}." if facts.licence.notice else "")),
            ("Keywords", [("Keyword", "large language model"), ("Keyword", "patient-doctor dialogue"), ("Keyword", "research")]),
        ]),
        ("UsesAndDirections", [
            ("IntendedUseAndWorkflow", human.intended_use or DEFAULT_USE),
            ("PrimaryIntendedUsers", _said(human.primary_users)),
            ("HowToUse", _said(human.how_to_use)),
            ("TargetedPatientPopulation", _said(human.target_population)),
            ("CautionedOutOfScopeSettings", human.out_of_scope or "Any use in patient care."),
        ]),
        ("Warnings", [
            ("KnownRisksAndLimitations", f"{risks}\n- {signed}"),
            ("KnownBiasesOrEthicalConsiderations", _said(human.known_biases)),
            ("ClinicalRiskLevel", _said(human.clinical_risk_level)),
        ]),
        ("TrustIngredients", [
            ("AISystemFacts", [
                ("OutcomesAndOutputs", "Text: an answer to a patient's message."),
                ("ModelType", f"Causal language model, {manifest['kind']} made by supervised fine-tuning"),
                ("FoundationModels", f"{facts.base} ({facts.licence.title})"),
                ("InputDataSource", f"{', '.join(facts.sources)}. Rights: {_said(human.data_rights)}"),
                ("OutputAndInputDataTypes", "Text in, text out."),
                ("DevelopmentDataCharacterization", _data(facts)),
                ("BiasMitigationApproaches", _said(human.bias_mitigation)),
                ("OngoingMaintenance", _said(human.maintenance)),
                ("Security", _said(human.security)),
                ("Transparency", f"Manifest SHA-256 {facts.manifest_sha256}; code {manifest['code']['commit'] or 'unknown'}."),
            ]),
            ("TransparencyInformation", [
                ("FundingSource", _said(human.funding)),
                ("StakeholdersConsulted", _said(human.stakeholders)),
            ]),
        ]),
        ("KeyMetrics", _metrics(facts)),
        ("Resources", [
            ("EvaluationReferences", ", ".join(f"evaluation/{name}" for name in facts.evaluations) or "None."),
            ("PeerReviewedPublications", _said(human.publications)),
            ("PatientConsentOrDisclosure", _said(human.patient_disclosure)),
        ]),
        ("Bibliography", ""),
    ]  # fmt: skip


def _metrics(facts: Facts) -> list[Node]:
    rows = [row for results in facts.evaluations.values() for row in evaluation_rows(results)]
    reviews = [figure for review in facts.reviews.values() for figure in review_figures(review)]
    safe = [row for row in rows if row.name.startswith("safety/")]
    useful = [row for row in rows if not row.name.startswith("safety/")]
    harm = [f for f in reviews if "harm" in f.name]
    wins = [f for f in reviews if "harm" not in f.name]
    held_out = [
        Figure(f"held-out {f.name}", f"eval/{f.name}", "tuned", f.after,
               f.interval.low if f.interval else None, f.interval.high if f.interval else None,
               facts.num_conversations, held_out_on(facts))
        for f in facts.held_out
    ]  # fmt: skip
    return [
        ("UsefulnessUsabilityEfficacy", _group(
            "To answer more as the data's doctors do than the base model, and to be preferred by experts.",
            [*held_out, *_flat(useful), *wins], useful,
            "Base and tuned model on the same items; experts, blinded, on pairs of answers.")),
        ("FairnessEquity", _group(
            "Not measured.", [], [], "Not measured: results by group of patients need data that name the groups.")),
        ("SafetyReliability", _group(
            "To be no less safe than the base model.", [*_flat(safe), *harm], safe,
            "Base and tuned model on the same items; experts, blinded, on pairs of answers.")),
    ]  # fmt: skip


def _group(goal: str, figures: Sequence[Figure], rows: Sequence[Row], validation: str) -> list[Node]:
    results: list[Node] = [
        ("MetricResult", [("Label", f"{f.title}, {f.side} (n = {f.n:,})"), ("ValueJson", _value(f))]) for f in figures
    ]
    none: list[Node] = [("MetricResult", [("Label", "Not measured"), ("ValueJson", json.dumps({"kind": "none"}))])]
    differences = [
        f"- {row.title}: {side} against base {text} (n = {row.n:,})"
        for row in rows
        for side, text in row.differences.items()
    ]
    return [
        ("MetricGoal", goal),
        ("Results", results or none),
        ("Interpretation", "\n".join(differences) or "None stated."),
        ("TestType", "Automatic evaluation and expert review" if figures else "None"),
        (
            "TestingDataDescription",
            "\n".join(f"- {on}" for on in dict.fromkeys(f.measured_on for f in figures)) or "None.",
        ),
        ("ValidationProcessAndJustification", validation),
    ]


def _flat(rows: Sequence[Row]) -> list[Figure]:
    return [figure for row in rows for figure in row.figures.values()]


def _value(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return json.dumps({"kind": "single", "value": figure.value})
    bounds = {"estimate": figure.value, "lower": figure.low, "upper": figure.high, "level": 95}
    return json.dumps({"kind": "estimate_ci", **bounds})


def _data(facts: Facts) -> str:
    data = facts.artifact.manifest["data"]
    counts = ", ".join(f"{name} {count}" for name, count in data.items() if name != "fingerprint")
    return f"Conversations: {counts}. Fingerprint {data['fingerprint']}. Who the patients are is not known."


def _said(text: str | None) -> str:
    return text or MISSING


def _element(node: Node) -> ElementTree.Element:
    name, content = node
    element = ElementTree.Element(f"{{{NAMESPACE}}}{name}")
    if isinstance(content, str):
        element.text = "".join(c for c in content if c.isprintable() or c in "\n\t")  # what XML cannot hold
    else:
        element.extend(_element(child) for child in content)
    return element
