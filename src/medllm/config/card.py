"""Schema of `card.yaml`: what only a person can say of a model. Nothing of it is ever guessed."""

from dataclasses import dataclass, fields

from medllm.config.conf import Conf
from medllm.errors import Fault


@dataclass
class CardConf(Conf):
    """What a person fills in; null is listed as missing in the card.

    Attributes:
        model_name: As it will be published. Models built on Llama 3 must begin with "Llama 3".
        developer: Who made it.
        contact: Where to ask or complain.
        version: Of the release.
        license: Of the published weights, as an SPDX identifier or in words; null takes the base model's.
        base_license: Of the base model, where it is not known here, as a Hugging Face license id such as `apache-2.0`.
        base_model: Id of the base model on the hub, where the artifact knows it as a folder only.
        release_stage: Such as research, pilot, in use.
        availability: Countries or institutions.
        regulatory_status: Clearance or registration as a medical device, or that there is none.
        intended_use: What for, and at which place in whose work.
        primary_users: Who is to use it.
        how_to_use: Directions for them.
        target_population: Patients it is meant for.
        out_of_scope: Where it must not be used.
        clinical_claims: What is claimed of its clinical benefit, with the evidence.
        known_risks: What can go wrong.
        known_biases: Whom it serves worse, and ethical considerations.
        clinical_risk_level: Such as low, medium, high, by the definition that applies to you.
        bias_mitigation: What was done against bias.
        data_rights: By what right the dialogues were used, and how patients consented.
        data_license: Of the dialogues, as a Hugging Face license id such as `cc-by-4.0`, where they have one.
        maintenance: Who watches it in use, and how it is updated.
        security: How it and its data are protected.
        funding: Who paid.
        stakeholders: Who was consulted: clinicians, patients.
        publications: Peer-reviewed, or that there are none.
        patient_disclosure: What patients are told.
        risks_signed_off_by: Name and role of who accepts the remaining risks.
        risks_signed_off_on: When.
    """

    model_name: str | None = None
    developer: str | None = None
    contact: str | None = None
    version: str | None = None
    license: str | None = None
    base_license: str | None = None
    base_model: str | None = None
    release_stage: str | None = "research"
    availability: str | None = None
    regulatory_status: str | None = None
    intended_use: str | None = None
    primary_users: str | None = None
    how_to_use: str | None = None
    target_population: str | None = None
    out_of_scope: str | None = None
    clinical_claims: str | None = None
    known_risks: str | None = None
    known_biases: str | None = None
    clinical_risk_level: str | None = None
    bias_mitigation: str | None = None
    data_rights: str | None = None
    data_license: str | None = None
    maintenance: str | None = None
    security: str | None = None
    funding: str | None = None
    stakeholders: str | None = None
    publications: str | None = None
    patient_disclosure: str | None = None
    risks_signed_off_by: str | None = None
    risks_signed_off_on: str | None = None

    def faults(self) -> list[Fault]:
        """A sentence or nothing."""
        return [
            Fault(f.name, "is blank", fix="write null for what is not known")
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), str) and not value.strip()
        ]

    @property
    def missing(self) -> list[str]:
        """What nobody has filled in; the license questions are missing only where nothing answers them."""
        asked = {"license", "base_license", "base_model", "model_name", "data_license"}
        return [f.name for f in fields(self) if f.name not in asked and getattr(self, f.name) is None]
