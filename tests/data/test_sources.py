"""Reading files: every format and encoding gives the same rows, and what is broken is told or counted."""

import codecs
import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medllm.config.data import SourceConf
from medllm.data.pipeline import load_conversations
from medllm.data.sources.encoding import detect_encoding
from medllm.data.sources.log import LISTED, ReadingLog
from medllm.data.sources.read import columns_of, read_rows, source_fingerprint
from medllm.data.sources.tables import read_delimited, read_lines
from medllm.errors import DataError
from tests.data.files import SHARED, needs_shared, plain, write_csv, write_jsonl

ROWS = [
    {"Patient": "I cough,\n\nwhat now?", "Doctor": 'Say "ah"'},
    {"Patient": "NaN", "Doctor": "007"},
    {"Patient": "café, 37 °C", "Doctor": "“n/a”"},
]
PAIRS = [tuple(row.values()) for row in ROWS]
UNCLOSED = "a quote that does not close or stands inside a field"
RAGGED = "not as many fields as the header"


def write(path: Path) -> Path:
    """The rows in the format that the file's name asks for."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix in (".csv", ".tsv"):
        write_csv(path, PAIRS)
    elif path.suffix == ".jsonl":
        write_jsonl(path, ROWS)
    else:
        path.write_text(json.dumps(ROWS))
    return path


def read(path: Path, encoding: str | None = None) -> tuple[list[dict[str, str]], ReadingLog]:
    """All rows of a path, and what reading met."""
    log = ReadingLog()
    return [row for _, row in read_rows(SourceConf(path=str(path), encoding=encoding), log)], log


def read_text(folder: Path, text: str | bytes, name: str = "a.csv") -> tuple[list[dict[str, str]], ReadingLog]:
    """The rows of a file with that content."""
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(folder / name)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    """Text stays text: `NaN` is no number, `007` no seven; quotes and line ends within a field belong to it."""
    rows, log = read(write(tmp_path / f"rows{suffix}"))
    assert rows == ROWS
    assert (log.rejected, log.notes) == ({}, [])


def test_a_folder_is_all_its_files(tmp_path: Path) -> None:
    """In the order of their names, below it too; hidden files and other formats are none of them."""
    (tmp_path / "b" / ".git").mkdir(parents=True)
    for name in ("b/2.csv", "1.JSONL", ".hidden.csv", "b/.git/x.csv"):
        write_csv(tmp_path / name, [(name, "x")]) if name.endswith("csv") else write_jsonl(tmp_path / name, ROWS)
    (tmp_path / "notes.txt").write_text("x")
    log = ReadingLog()
    found = list(read_rows(SourceConf(path=str(tmp_path)), log))
    assert [place for place, _ in found] == [f"1.JSONL row {i}" for i in range(3)] + ["2.csv row 0"]
    assert [row["Patient"] for _, row in found] == [*(row["Patient"] for row in ROWS), "b/2.csv"]


@pytest.mark.parametrize(
    ("mark", "encoding", "noted"),
    [
        (b"", "utf-8", ""),
        (codecs.BOM_UTF8, "utf-8", ""),
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (b"", "utf-16-le", "utf-16-le"),
        (b"", "utf-16-be", "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
        (b"", "cp1252", "cp1252"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_encodings_are_detected(mark: bytes, encoding: str, noted: str, suffix: str, tmp_path: Path) -> None:
    """By mark, by zeros, by trial; all but UTF-8 are worth a note."""
    path = write(tmp_path / f"a{suffix}")
    text = path.read_text("utf-8")
    text = json.dumps(ROWS, ensure_ascii=False) if suffix == ".json" else text
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) if suffix == ".jsonl" else text
    path.write_bytes(mark + text.encode(encoding))
    rows, log = read(path)
    assert rows == ROWS
    assert log.notes == ([f"a{suffix}: read as {noted}"] if noted else [])


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    """It is taken as it is, with or without a mark; one that is none, or not the file's, is told with its key."""
    path = tmp_path / "a.csv"
    path.write_bytes("Patient,Doctor\nя кашляю,пейте воду\n".encode("koi8-r"))
    assert read(path, "koi8-r")[0] == [{"Patient": "я кашляю", "Doctor": "пейте воду"}]
    for suffix in (".csv", ".json", ".jsonl"):
        path = write(tmp_path / f"b{suffix}")
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\\u00e9", "é".encode()))
        assert read(path, "UTF-8")[0] == ROWS
        for encoding in ("ascii", "klingon"):
            with pytest.raises(
                DataError, match=rf"^data.encoding={encoding}: b{suffix} cannot be read so: .*\n    fix: "
            ):
                read(path, encoding)
    path.write_bytes(b"Patient,Doctor\n\x81\x8d,b\n")
    with pytest.raises(DataError, match="neither UTF-8 nor UTF-16 nor cp1252"):
        read(path)


def test_a_letter_across_blocks_is_still_utf8(tmp_path: Path) -> None:
    """Whatever the size of the blocks in which a file is looked at; one foreign byte at its end decides."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * ((1 << 20) - 1) + "é".encode())
    assert detect_encoding(path) == "utf-8"
    path.write_bytes(b"x" * (1 << 20) + b"\xe9")
    assert detect_encoding(path) == "cp1252"


@pytest.mark.parametrize(
    ("text", "patients", "rejected"),
    [
        ("a,1\nb\nc,3,4\nd,5\n", "ad", {RAGGED: ["a.csv line 3", "a.csv line 4"]}),
        ('a,1\n"b,2\nc,3\nd,4\n', "acd", {UNCLOSED: ["a.csv line 3"]}),
        ('a,1\n"b\nb",2,3\nd,4\n', "ad", {RAGGED: ["a.csv line 3", "a.csv line 4"]}),
        ('a,1\n"b"b,2\nc,3\n', "ac", {UNCLOSED: ["a.csv line 3"]}),
        ('a,1\n"b,2\n"c,3\nd,4\n', "ad", {UNCLOSED: ["a.csv line 3", "a.csv line 4"]}),
        ("\na,1\n\n\r\nb,2\n\n", "ab", {}),
        ("a,1\rb,2\r", "ab", {}),
        ("a,1\r\nb,2", "ab", {}),
        ("a,1\n\0,\0\n", "a\0", {}),
    ],
)
def test_broken_lines_are_listed_and_the_rest_is_read(
    text: str, patients: str, rejected: dict[str, list[str]], tmp_path: Path
) -> None:
    """Reading goes on with the next line, however far a quote reached; blank lines are nothing."""
    rows, log = read_text(tmp_path, f"Patient,Doctor\n{text}")
    assert log.places == rejected
    assert log.rejected == {reason: len(places) for reason, places in rejected.items()}
    assert "".join(row["Patient"] for row in rows) == patients


def test_an_endless_quote_costs_a_line(tmp_path: Path) -> None:
    """Not the megabytes behind it: every later row is read, and a listing has an end."""
    rows, log = read_text(tmp_path, 'Patient,Doctor\n"lost,1\n' + "".join(f"{i} {'x' * 40},2\n" for i in range(40_000)))
    assert (len(rows), log.places) == (40_000, {UNCLOSED: ["a.csv line 2"]})
    _, log = read_text(tmp_path, "Patient,Doctor\n" + "x\n" * 50)
    assert (log.rejected[RAGGED], len(log.places[RAGGED])) == (50, LISTED)


def test_headers(tmp_path: Path) -> None:
    """Semicolons are noticed; a name twice is refused, columns without one are not; quoted names are names."""
    rows, log = read_text(tmp_path, 'Patient;Doctor\na,b;"c;d"\n')
    assert rows == [{"Patient": "a,b", "Doctor": "c;d"}]
    assert log.notes == ["a.csv: columns separated by semicolons"]
    with pytest.raises(DataError, match=r"^a.csv: the column 'patient' occurs 2 times\n    fix: rename all but one$"):
        read_text(tmp_path, "Patient, PATIENT,Doctor\na,b,c\n")
    assert read_text(tmp_path, "Patient,Doctor,,\na,b,,\n")[0] == [{"Patient": "a", "Doctor": "b", "": ""}]
    assert read_text(tmp_path, '"Patient","Doctor, MD"\na,b\n')[0] == [{"Patient": "a", "Doctor, MD": "b"}]
    assert read_text(tmp_path, "Patient,Doctor\n")[0] == []


def test_bad_lines_of_jsonl_are_listed(tmp_path: Path) -> None:
    """No JSON, no object, nested without end; a blank line is nothing, a line separator within a string no line end."""
    good = '{"Patient": "a\u2028b"}\n'
    rows, log = read_text(tmp_path, f'{good}{{"a": \n\n[1]\n"x"\n{"[" * 100_000}\n{good}', "a.jsonl")
    assert rows == [{"Patient": "a\u2028b"}] * 2
    assert log.places == {
        "not JSON": ["a.jsonl line 2", "a.jsonl line 6"],
        "not a JSON object": ["a.jsonl line 4", "a.jsonl line 5"],
    }
    assert log.rows == {"": 4}


def test_json_is_a_list_or_holds_one(tmp_path: Path) -> None:
    """An object's only list is meant; two lists, none, or no JSON are refused."""
    assert read_text(tmp_path, json.dumps({"version": 1, "data": ROWS}), "a.json")[0] == ROWS
    rows, log = read_text(tmp_path, json.dumps([ROWS[0], 7]), "a.json")
    assert (rows, log.places) == (ROWS[:1], {"not a JSON object": ["a.json row 1"]})
    for content, reason in (
        ('{"a": [], "b": []}', "a.json: holds dict\n    allowed: a list of objects"),
        ("7", "a.json: holds int\n    allowed: a list of objects"),
        ('{"a": 1}\n{"a": 2}', "a.json: no JSON: .*\n    fix: one object per line is .jsonl, not .json"),
        ("[" * 100_000, "a.json: no JSON: "),
    ):
        with pytest.raises(DataError, match=reason):
            read_text(tmp_path, content, "a.json")


def test_faults_of_files_are_told(tmp_path: Path) -> None:
    """Missing, empty, unknown, no parquet, a folder of nothing: one sentence with its name."""
    (tmp_path / "empty").mkdir()
    for name, content, reason in (
        ("a.csv", "", "^a.csv: the file is empty$"),
        ("a.csv", "\n \n", "^a.csv: the file is empty$"),
        ("a.xlsx", "x", "a.xlsx: unknown format\n    allowed: .csv, .json, .jsonl, .parquet, .tsv, or a folder"),
        ("a.parquet", "no parquet", "^a.parquet: cannot be read as parquet: "),
    ):
        with pytest.raises(DataError, match=reason):
            read_text(tmp_path, content, name)
    with pytest.raises(DataError, match=r"^data.path=none.csv: no such file \(/.*\)\n    fix: give the path"):
        read(Path("none.csv"))
    with pytest.raises(DataError, match=r"no such file"):
        read(Path("l" * 300 + ".csv"))
    with pytest.raises(DataError, match=r"empty: the folder holds no file of a known format\n    allowed: \.csv"):
        read(tmp_path / "empty")


def test_a_stream_is_read_as_far_as_it_is_asked_for(tmp_path: Path) -> None:
    """The first rows of a file of 64 GiB are there at once; looking for the columns loses none of them."""
    for name, head, line, reader in (
        ("a.csv", "Patient,Doctor\n", "a,b\n", read_delimited),
        ("a.jsonl", "", '{"Patient": "a"}\n', read_lines),
    ):
        path = tmp_path / name
        with path.open("w") as file:
            file.write(head + line * 1000)
            file.truncate(1 << 36)  # a last line that would not fit into memory
        log = ReadingLog()
        names, rows = columns_of(reader(path, "utf-8", log))
        assert names[0] == "Patient"
        assert [row["Patient"] for _, row in islice(rows, 1000)] == ["a"] * 1000


def test_a_fingerprint_is_of_names_and_bytes(tmp_path: Path) -> None:
    """Not of folders, times or formats of other files."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        write(folder / "a.csv")
    prints = [source_fingerprint(SourceConf(path=str(path))) for path in (one, two, one / "a.csv")]
    assert len(set(prints)) == 1
    (two / "a.csv").write_text("x,y\n")
    (one / "a.csv").rename(one / "b.csv")
    assert len({*prints, *(source_fingerprint(SourceConf(path=str(path))) for path in (one, two))}) == 3


# Each broken file: what it yields, or why it yields nothing.
BROKEN = {
    "cp1252.csv": "40 of 40",
    "empty.csv": "broken_empty.csv: the file is empty",
    "header_only.csv": "the data source has no rows",
    "headers.csv": "40 of 40",
    "lines.jsonl": "2 of 6",
    "missing_column.csv": "data.columns: none of the usual names among Description, Patient",
    "nul.csv": "1 of 1",
    "ragged.csv": "2 of 5",
    "utf16.csv": "40 of 40",
}


@needs_shared
def test_every_broken_file_ends_well() -> None:
    """Counted rejections or one clear message, and every one of them is expected here."""
    files = {path.name.removeprefix("broken_"): path for path in SHARED.glob("broken_*")}
    assert files.keys() == BROKEN.keys()
    for name, path in files.items():
        try:
            drawn = load_conversations(plain(path))
        except DataError as error:
            assert str(error).split("\n")[0] == BROKEN[name]
        else:
            (met,) = drawn.report.sources.values()
            lost = sum(drawn.report.rejected.values()) + drawn.report.left_out
            assert f"{len(drawn.conversations)} of {met}" == BROKEN[name]
            assert len(drawn.conversations) + lost == met


def test_the_bundled_file_keeps_its_promises() -> None:
    """The datasheet's minimum: size, specialties, emergencies, questions back, visits, no dose in an answer."""
    import re

    path = Path(__file__).parents[2] / "data" / "dialogues.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 240
    assert len({row["specialty"] for row in rows}) >= 24
    assert sum(row["urgency"] == "emergency" for row in rows) >= 40
    assert sum(row["asks_back"] for row in rows) >= 40
    assert sum(bool(row["messages"]) for row in rows) >= 40
    dose = re.compile(r"\b\d+([.,]\d+)?\s*(mg|mcg|µg|ml|g|iu|units?|tablets?|pills?|drops|puffs|milligrams?)\b", re.I)
    for row in rows:
        turns = row["messages"] or [{"role": "assistant", "content": row["Doctor"]}]
        assert not [t for t in turns if t["role"] == "assistant" and dose.search(t["content"])], row["id"]
        if row["messages"]:
            assert (turns[0]["content"], turns[1]["content"]) == (row["Patient"], row["Doctor"])
    answers = [row["Doctor"] for row in rows]
    assert len(set(answers)) == len(answers)
