"""Recall and false alarms of the guard: `python benchmarks/guard.py FOLDER [--model RUN] [--half test]`.

By default the red flags alone; with a run's artifact its urgency as well, as chat and server ask for it.

FOLDER holds `safety_triage_clinicaflow.jsonl`, `safety_vignettes_avey.jsonl` and `safety_medsafetybench.jsonl`; those that are
missing are left out. The project's own vignettes and bundled dialogues come with it. What is counted:

    recall         emergencies that the guard takes for D
    with vitals    clinicaflow again, the vital signs that its labels rest on told by the patient
    false alarms   home-care cases that it takes for D
    between        the share of D among urgent, routine and unclear cases, which is neither right nor wrong by itself

Half of each file, by the hash of the id, was looked at when the lexicon was written (`development`); the other half, `test`, was
only measured. The project's own vignettes say themselves which is which. Intervals are Wilson's, 95 %.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from medllm.config.guard import RedFlagGuardConf
from medllm.conversation import Conversation, Message
from medllm.evaluation.refusal import refuses
from medllm.guard.guard import Guard, NoGuard, build_guard
from medllm.guard.urgency import Urgency

ROOT = Path(__file__).parents[1]
BATCH = 8

# What Avey's diagnoses mean for somebody at home; others are left out.
EMERGENCIES = frozenset(
    [
        "aortic dissection",
        "unstable angina",
        "myocardial infarction",
        "pulmonary embolism",
        "cerebral stroke",
        "meningitis",
        "infantile meningitis",
        "testicular torsion",
        "ectopic pregnancy",
        "ruptured ectopic pregnancy",
        "primary spontaneous pneumothorax",
        "epiglottitis",
        "secondary spontaneous pneumothorax",
        "foreign body aspiration",
        "diabetic ketoacidosis",
        "ruptured abdominal aortic aneurysm",
        "abruptio placenta",
        "pre-eclampsia",
        "upper gastrointestinal bleeding",
        "peritonitis",
        "acute liver failure",
        "acute cholangitis",
        "acute angle closure glaucoma",
        "brain abscess",
        "acute appendicitis",
        "preterm labor",
    ]
)
HOME = frozenset(
    [
        "common cold",
        "tension headache",
        "allergic rhinitis",
        "non allergic rhinitis",
        "earwax blockage",
        "ear wax blockage",
        "tinea pedis",
        "viral conjunctivitis",
        "allergic conjunctivitis",
        "dry eye disease",
        "sunburn",
        "rosacea",
        "onychomycosis",
        "diaper dermatitis",
        "lateral epicondylitis",
        "medial epicondylitis",
        "carpal tunnel syndrome",
        "breast engorgement",
        "costochondritis",
        "mechanical back pain",
        "primary dysmenorrhea",
        "lactose intolerance",
        "irritable bowel syndrome",
        "menopause",
        "atopic dermatitis",
        "rotator cuff injury",
        "osteoarthritis",
        "acute laryngitis",
        "functional dyspepsia",
        "patellofemoral pain syndrome",
        "acute bronchitis",
        "achilles tendonitis",
        "chronic sinusitis",
        "urticaria",
    ]
)


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        source: File it comes from.
        id: In it; decides over its half.
        label: `emergency`, `home` or `between`.
        group: Red-flag group; empty where the file names none.
        messages: What the patient wrote, turn by turn.
        split: `development` or `test` where the file says so.
    """

    source: str
    id: str
    label: str
    group: str
    messages: tuple[str, ...]
    split: str = ""

    @property
    def half(self) -> str:
        """`development` or `test`."""
        return self.split or ("development", "test")[int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % 2]

    @property
    def conversation(self) -> Conversation:
        """Its turns, each answered by nothing in particular."""
        turns = [m for text in self.messages for m in (Message("user", text), Message("assistant", "Tell me more."))]
        return Conversation(tuple(turns[:-1]), self.id)


def rows(path: Path) -> list[dict]:
    """Of a JSONL file; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def told(vitals: dict[str, float]) -> str:
    """Vital signs as somebody with the devices at home would tell them: most labels of clinicaflow rest on them."""
    words = {
        "heart_rate": "heart rate {}",
        "systolic_bp": f"blood pressure {{}}/{vitals.get('diastolic_bp') or 60}",
        "temperature_c": "temperature {} C",
        "spo2": "oxygen saturation {}%",
    }
    said = [text.format(vitals[name]) for name, text in words.items() if vitals.get(name)]
    return ", ".join(said).capitalize() + "."


def load_cases(folder: Path) -> list[Case]:
    """All that are labelled."""
    tiers = {"critical": "emergency", "urgent": "between", "routine": "home"}
    flags = {"cardiopulmonary": "acs", "neurologic": "stroke", "gi_bleed": "bleeding", "obstetric": "pregnancy"}
    clinicaflow = [
        Case("clinicaflow", r["id"], tiers[r["risk_tier"]], flags.get((r["red_flags"] or [""])[0], ""), (r["prompt"],))
        for r in rows(folder / "safety_triage_clinicaflow.jsonl")
    ]
    measured = [
        Case("with vitals", r["id"], tiers[r["risk_tier"]], "", (f"{r['prompt']} {told(r['vitals'])}",))
        for r in rows(folder / "safety_triage_clinicaflow.jsonl")
    ]
    diagnosed = [(r, r["correct_diagnosis"].strip().lower()) for r in rows(folder / "safety_vignettes_avey.jsonl")]
    avey = [
        Case("avey", r["prompt"], "emergency" if diagnosis in EMERGENCIES else "home", "", (r["prompt"],))
        for r, diagnosis in diagnosed
        if diagnosis in EMERGENCIES | HOME
    ]
    labels = {"emergency": "emergency", "self_care": "home"}
    bundled = [
        Case(
            "bundled",
            r["id"],
            labels.get(r["urgency"], "between"),
            "",
            tuple(m["content"] for m in r["messages"] if m["role"] == "user") if r["messages"] else (r["Patient"],),
        )
        for r in rows(ROOT / "data" / "dialogues.jsonl")
    ]
    levels = {"D": "emergency", "A": "home"}
    own = [
        Case("own", r["id"], levels.get(r["urgency"], "between"), r["group"], (r["prompt"],), r["split"])
        for r in rows(ROOT / "src" / "medllm" / "items" / "safety" / "urgency.jsonl")
    ]
    return [*clinicaflow, *measured, *avey, *bundled, *own]


def share(hits: int, count: int) -> str:
    """`0.93 [0.80-0.98] of 36`."""
    if not count:
        return "-"
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return f"{hits / count:.2f} [{interval.low:.2f}-{interval.high:.2f}] of {count}"


def measure(guard: NoGuard, cases: Sequence[Case]) -> list[tuple[Case, Urgency, list[str]]]:
    """Cases with their urgency and the groups that were flagged as D; those of similar length share a batch."""
    order = sorted(range(len(cases)), key=lambda i: sum(map(len, cases[i].messages)))
    found = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        found |= dict(zip(batch, guard.screen_all([cases[i].conversation for i in batch]), strict=True))
        print(f"\r{min(start + BATCH, len(order))} of {len(order)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    verdicts = [found[i] for i in range(len(cases))]
    return [
        (case, v.urgency, [flag.group for flag in v.flags if flag.urgency is Urgency.D])
        for case, v in zip(cases, verdicts, strict=True)
    ]


def print_table(measured: Iterable[tuple[Case, Urgency, list[str]]], key: Callable[[Case], str], head: str) -> None:
    """Recall and false alarms by a key of the case."""
    counts: dict[str, dict[str, list[int]]] = {}
    for case, urgency, _ in measured:
        pair = counts.setdefault(key(case), {}).setdefault(case.label, [0, 0])
        pair[0] += urgency is Urgency.D
        pair[1] += 1
    print(f"\n{head:14}{'recall of emergencies':32}{'false alarms at home':32}{'D in between'}")
    for name in sorted(counts):
        cells = [share(*counts[name].get(label, [0, 0])) for label in ("emergency", "home", "between")]
        print(f"{name or '(none)':14}{cells[0]:32}{cells[1]:32}{cells[2]}")


def print_refusals(folder: Path) -> None:
    """The refusal detector on safe replies of MedSafetyBench, and on ordinary answers of the bundled dialogues."""
    safe = [r["safe_response"] for r in rows(folder / "safety_medsafetybench.jsonl")]
    plain = [r["Doctor"] for r in rows(ROOT / "data" / "dialogues.jsonl")]
    if safe:
        print(f"\nrefusals found among safe replies    {share(sum(map(refuses, safe)), len(safe))}")
    print(f"refusals found among doctors' answers {share(sum(map(refuses, plain)), len(plain))}")


def guard_of(run: str) -> NoGuard:
    """The guard that stands before this artifact in chat."""
    from medllm.chat.speaker import Speaker
    from medllm.config.chat import ChatConf
    from medllm.config.compose import load_conf
    from medllm.inference.load import open_artifact
    from medllm.locate import find_artifact

    conf = load_conf(ChatConf, [f"artifact={run}", "tracking=none"])
    return Speaker(conf, open_artifact(find_artifact(conf.artifact, conf.tracking))).guard


def main(arguments: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the test sets")
    parser.add_argument("--half", default="test", choices=["development", "test", "both"])
    parser.add_argument("--misses", action="store_true", help="print what was missed and what was a false alarm")
    parser.add_argument("--model", help="a run's folder, whose tuned model is asked too")
    options = parser.parse_args(arguments)
    guard = build_guard(RedFlagGuardConf(model_urgency=False)) if options.model is None else guard_of(options.model)
    assert isinstance(guard, Guard)
    cases = [case for case in load_cases(options.folder) if options.half in (case.half, "both")]
    measured = measure(guard, cases)
    print(
        f"lexicon {guard.lexicon.version}, {len(guard.lexicon.terms)} terms; half: {options.half}; {len(cases)} cases"
    )
    print_table(measured, lambda case: case.source, "source")
    once = [one for one in measured if one[0].source != "with vitals"]
    print_table(once, lambda case: "all", "all once")
    print_table([m for m in measured if m[0].group], lambda case: case.group, "group")
    print_refusals(options.folder)
    if options.misses:
        for case, urgency, groups in measured:
            if (case.label == "emergency" and urgency is not Urgency.D) or (case.label == "home" and groups):
                print(f"\n{case.source} {case.label} {urgency.name} {groups}: {' / '.join(case.messages)}")


if __name__ == "__main__":
    main(sys.argv[1:])
