"""Judges cleaning by rows that were spoilt on purpose: `python benchmarks/cleaning.py FOLDER`.

FOLDER holds `dialogues_dirty.parquet` (real rows, and copies of them with one fault each) and `dialogues_dirty_key.csv` (what
is to become of each row: keep, clean, neutralise, flag, drop; mask and dedupe are judged where their modules are passed in).
"""

import csv
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from medllm.config.preparation import CleaningConf
from medllm.conversation import Conversation, Message
from medllm.data.preparation.cleaning import Cleaned, Cleaner
from medllm.data.preparation.deidentification import mask

Rows = list[dict[str, Any]]
Clean = Callable[[Conversation], Cleaned]

# What was added to the real text, beside the fault: after the patient's words, before and after the doctor's.
MOJIBAKE = " The pain is \u201csharp\u201d \u2013 about 37.5°C …"
ADDED = {
    "mojibake_utf8_as_cp1252": (MOJIBAKE, "", ""),
    "mojibake_double": (" I\u2019m naïve", "", ""),
    "control_ansi": (" red", "", ""),
    "control_zero_width": (" zero width", "", ""),
    "control_rtl_override": (" esrever", "", ""),
    "control_unicode_nfkc": (" été fi fl A", "", ""),
    "html": ("", "Hello, ", "here"),  # `and` became `&amp;`, and some spaces line breaks
}
FLAGS = {"swapped_roles": "swapped_roles", "truncated_doctor": "cut_off", "prompt_injection": "prompt_injection"}
RESIDUE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\u200b-\u200f\u202a-\u202e\ufeff\ufffd]|\u00c3|\u00e2\u20ac|<!--"
    r"|</?(?:p|br|div|b|a|script|img)\b|&[a-z]+;"
)


@dataclass(frozen=True)
class Verdict:
    """What became of one row, and whether that is what the key asks for; None if it is not judged here."""

    row: int
    kind: str
    expected: str
    handled: bool | None
    cleaned: Cleaned


def conversation_of(row: dict[str, Any], kind: str = "") -> Conversation:
    """A row's two messages; its description in the patient's place where that is what was spoilt."""
    patient = row["Description" if kind == "special_token_description" else "Patient"]
    texts = [text if isinstance(text, str) else "" for text in (patient, row["Doctor"])]
    return Conversation((Message("user", texts[0]), Message("assistant", texts[1])))


def judge(
    rows: Rows,
    key: list[dict[str, str]],
    clean: Clean,
    *,
    deidentify: Callable[[str], str] | None = None,
    duplicates: set[int] | None = None,
) -> list[Verdict]:
    """A verdict for every row of the key.

    Args:
        rows: The spoilt table.
        key: Its key: row, kind, expected, note.
        clean: Cleans one conversation.
        deidentify: Masks identifiers in a text; without it `mask` is not judged.
        duplicates: Rows that de-duplication left out; without it `dedupe` is not judged.
    """
    originals = {
        prefix: int(entry["row"])
        for entry in key
        if entry["kind"] == "real"
        for message in clean(conversation_of(rows[int(entry["row"])])).conversation.messages
        if len(prefix := squeeze(message.content)[:50]) == 50
    }
    verdicts = []
    for entry in key:
        row, kind, expected = int(entry["row"]), entry["kind"], entry["expected"]
        given = conversation_of(rows[row], kind)
        cleaned = clean(given)
        found = [originals[p] for m in cleaned.conversation.messages if (p := squeeze(m.content)[:50]) in originals]
        original = found[0] if found else None
        handled: bool | None = None
        if expected in ("keep", "keep_or_dedupe"):
            handled = not cleaned.dropped and (kind == "real" or expected != "keep" or sound(given, cleaned))
        elif expected == "clean" or (expected == "clean_or_drop" and not cleaned.dropped):
            handled = not cleaned.dropped and original is not None and restored(rows[original], kind, cleaned, clean)
        elif expected == "neutralise":
            handled = neutralised(given, entry["note"], cleaned, clean)
        elif expected.startswith("flag"):
            check = FLAGS.get(kind, "unsafe_advice")
            handled = check in (*cleaned.flags, cleaned.dropped)
        elif expected == "drop_or_keep":
            handled = True
        elif "drop" in expected:
            handled = bool(cleaned.dropped)
        elif expected == "mask" and deidentify:
            masked = "\n".join(deidentify(message.content) for message in cleaned.conversation.messages)
            handled = bool(cleaned.dropped) or not any(part in masked for part in identifying(entry["note"]))
        elif expected == "dedupe" and duplicates is not None:
            handled = bool(cleaned.dropped) or row in duplicates or original in duplicates
        verdicts.append(Verdict(row, kind, expected, handled, cleaned))
    return verdicts


def squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def straight(text: str) -> str:
    """The text with straight apostrophes and bars: some were bent before a row was spoilt, and ftfy narrows wide bars."""
    return text.replace("\u2019", "'").replace("\uff5c", "|")


def sound(given: Conversation, cleaned: Cleaned) -> bool:
    """A trap: nothing of what the patient wrote is lost."""
    return squeeze(given.messages[0].content) == squeeze(cleaned.conversation.messages[0].content)


def restored(original: dict[str, Any], kind: str, cleaned: Cleaned, clean: Clean) -> bool:
    """The fault is gone, and the rest is word for word what cleaning makes of the sound text."""
    after, before_doctor, after_doctor = ADDED.get(kind, ("", "", ""))
    patient, doctor = (message.content for message in conversation_of(original).messages)
    sound_text = Conversation(
        (Message("user", patient + after), Message("assistant", before_doctor + doctor + after_doctor))
    )
    same = {"html": lambda text: squeeze(text).replace("&", "and")}.get(kind, lambda text: straight(text).split())
    return all(
        not RESIDUE.search(message.content) and same(message.content) == same(wanted.content)
        for message, wanted in zip(cleaned.conversation.messages, clean(sound_text).conversation.messages, strict=True)
    )


def neutralised(given: Conversation, token: str, cleaned: Cleaned, clean: Clean) -> bool:
    """The token is no longer there, and without it the text is what cleaning makes of the text without it."""
    without = Conversation(tuple(Message(m.role, m.content.replace(token, "")) for m in given.messages))
    return all(
        token.strip() not in message.content
        and squeeze(straight(message.content)).replace(squeeze(straight(token)), "")
        == squeeze(straight(wanted.content))
        for message, wanted in zip(cleaned.conversation.messages, clean(without).conversation.messages, strict=True)
    )


def identifying(note: str) -> list[str]:
    """What must not be left of an identifier: its parts with digits or signs of an address, and its invented names."""
    parts = [part.strip(".,") for part in note.split()]
    return [part for part in parts if re.search(r"\d{2}|@|://|\.com|^(?:Jane|Testperson|Testville)$", part)]


def left_out(path: Path) -> set[int]:
    """Rows that the whole preparation leaves out."""
    from medllm.config.data import LocalDataConf
    from medllm.data.preparation.prepare import prepare

    kept = {int(conversation.id.split()[-1]) for conversation in prepare(LocalDataConf(path=str(path))).conversations}
    return set(range(pq.read_metadata(path).num_rows)) - kept


def print_report(verdicts: list[Verdict]) -> None:
    """The table by kind, and the totals."""
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        kinds[verdict.kind].append(verdict)
    print(f"{'kind':28}{'expected':18}{'rows':>5}{'handled':>9}")
    for kind, group in sorted(kinds.items()):
        judged = [v for v in group if v.handled is not None]
        misses = " ".join(str(v.row) for v in judged if not v.handled)
        print(f"{kind:28}{group[0].expected:18}{len(group):5}{sum(bool(v.handled) for v in judged):9}  {misses}")
    real = kinds.pop("real", [])
    traps = [v for v in verdicts if v.expected == "keep" and v.kind != "real"]
    spoilt = [v for group in kinds.values() for v in group if v.handled is not None]
    flags = Counter(flag for v in real for flag in v.cleaned.flags)
    print(f"\nspoilt rows handled as the key says: {sum(bool(v.handled) for v in spoilt)} of {len(spoilt)}")
    for name, group in (("real rows", real), ("traps", traps)):
        print(f"{name} lost: {sum(bool(v.cleaned.dropped) for v in group)} of {len(group)}")
    print(f"real rows flagged: {dict(flags)}")


def main(folder: Path) -> None:
    """Reads, judges, prints."""
    rows = pq.read_table(folder / "dialogues_dirty.parquet").to_pylist()
    with (folder / "dialogues_dirty_key.csv").open(newline="", encoding="utf-8") as file:
        key = list(csv.DictReader(file))
    clean = Cleaner(CleaningConf()).clean
    print_report(judge(rows, key, clean, deidentify=mask, duplicates=left_out(folder / "dialogues_dirty.parquet")))
    real = [conversation_of(rows[int(entry["row"])]) for entry in key if entry["kind"] == "real"]
    characters = sum(len(message.content) for conversation in real for message in conversation.messages)
    start = time.process_time()
    for conversation in real:
        clean(conversation)
    seconds = time.process_time() - start
    print(f"{seconds / len(real) * 1e6:.0f} microseconds per conversation of {characters / len(real):.0f} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
