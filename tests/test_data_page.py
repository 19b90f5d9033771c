"""The page and the terminal view of a run's data."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest
from rich.console import Console

from medllm.data.preparation.report import Example, PreparationReport, Step
from medllm.data_page import (
    DataView,
    SampleView,
    SideView,
    clusters,
    difference,
    flow,
    histogram,
    html_page,
    percent,
    print_view,
    visible,
)

ATTACK = "<script>alert(1)</script></style></title>\"'><img src=x onerror=alert(1)> & {{ 7 * 7 }}"
EMPTY = DataView("none.csv", "0" * 64, PreparationReport(), {}, 512, {}, "padded", {}, [])


def small() -> DataView:
    """1,234 rows of two files, every part filled."""
    report = PreparationReport(
        sources={"a.csv": 1_200, "b.jsonl": 34},
        notes=["a.csv: read as cp1252"],
        rejected={"empty answer": 17},
        rejected_rows={"empty answer": ["a.csv line 5"]},
        steps=[
            Step(
                "cleaning.html",
                1_217,
                changed=305,
                examples=[Example("a.csv row 9", "an <i>old</i> cough", "an old cough")],
            ),
            Step("cleaning.stub", 1_217, dropped=11, examples=[Example("a.csv row 2", "hi")]),
            Step("deidentification", 1_206, flagged=41),
            Step(
                "deduplication.near",
                1_206,
                dropped=106,
                examples=[Example("row 8, a copy of row 3", "I cough", "I do cough")],
            ),
            Step("contamination", 1_100, flagged=3),
        ],
        identifiers={"PHONE": 52, "EMAIL": 0},
        urgency={"chest pain": 63},
        cluster_sizes={2: 71, 7: 4, 8: 5},
        benchmarks={"medqa.jsonl": 3},
        seconds={"reading": 1.25, "cleaning": 6.5},
    )
    sides = {
        "training": SideView(870, [100] * 860 + [600] * 40, 87_000, 40_020),
        "held out": SideView(100, [90] * 100, 9_000, 3_600),
    }
    fates = {"kept": 960, "truncated": 10, "dropped": 30, "rejected": 17}
    fill = {"packed": 0.987, "padded": 0.5}
    samples = [SampleView("a.csv row 77", [("I cough.", False), ("Since when?", True)])]
    return DataView("data/clinic", "abc123" * 10, report, sides, 512, fates, "packed", fill, samples)


class Reader(HTMLParser):
    """Tags and text of a page as a browser reads them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects."""
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        """Collects."""
        self.text += data + " "


def printed(view: DataView) -> str:
    """The terminal view."""
    console = Console(width=200, highlight=False, no_color=True)
    with console.capture() as capture:
        print_view(view, console)
    return capture.get()


def test_the_page_holds_every_number() -> None:
    """Counts, shares, lengths, time and ids; kinds of them that are zero, too."""
    text = Reader(html_page(small())).text
    for number in (
        *("1,234", "1,200", "34", "1,217", "305", "11", "1,206", "41", "106", "1,100", "17", "a.csv line 5"),
        *(
            "870",
            "100",
            "96,000",
            "45.4 %",
            "87,000",
            "46.0 %",
            "9,000",
            "40.0 %",
            "122",
            "600",
            "40 (4.4 %)",
            "0 (0 %)",
        ),
        *("960", "10", "30", "98.7 %", "50.0 %", "52", "63", "71", "6 to 10", "9", "3", "1.2 s", "6.5 s"),
        *("abc123" * 10, "a.csv row 9", "a.csv row 77", "a.csv: read as cp1252", "EMAIL", "max_length 512"),
    ):
        assert re.search(rf"(?<![\w,.]){re.escape(number)}(?![\w,])", text), number


def test_the_mask_and_the_difference_are_marked() -> None:
    """Supervised text, removed words and the layout in use stand in elements of their own."""
    page = html_page(small())
    assert "I cough.<mark>Since when?</mark>" in page
    assert "an <del>&lt;i&gt;</del>old<del>&lt;/i&gt;</del> cough" in page
    assert re.search(r'class="use">\s*<th scope="row">packed <span class="tag">in use', page)


def test_an_example_says_what_became_of_it() -> None:
    """A changed text stands beside its result, a left out copy beside the one kept, one only counted alone."""
    text = " ".join(Reader(html_page(small())).text.split())
    assert "a.csv row 9 changed before an <i> old </i> cough after an old cough" in text
    assert "row 8, a copy of row 3 left out left out I cough kept I do cough" in text
    assert "a.csv row 2 left out hi " in text
    step = Step("contamination", 5, flagged=1, examples=[Example("row 4", "a question")])
    assert "row 4 flagged a question" in " ".join(
        Reader(html_page(replace(EMPTY, report=PreparationReport(steps=[step])))).text.split()
    )


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    """No script, no address, no picture to fetch."""
    page = html_page(small())
    assert not {"script", "link", "img", "iframe"} & set(Reader(page).tags)
    assert not re.findall(r"(?:src|href)=\"(?!#)|url\(|@import|https?:", page)


def test_all_text_is_escaped() -> None:
    """A text that tries to be markup or a template is shown as it is, wherever it stands."""
    report = PreparationReport(
        sources={ATTACK: 9},
        notes=[ATTACK],
        rejected={ATTACK: 1},
        rejected_rows={ATTACK: [ATTACK, "x"]},
        steps=[
            Step(ATTACK, 8, dropped=1, examples=[Example(ATTACK, ATTACK), Example(ATTACK, ATTACK, f"{ATTACK} \n new")])
        ],
        identifiers={ATTACK: 1},
        urgency={ATTACK: 1},
        benchmarks={ATTACK: 1},
        seconds={ATTACK: 1.0},
    )
    view = DataView(
        source=ATTACK,
        fingerprint=ATTACK,
        report=report,
        sides={ATTACK: SideView(7, [5] * 7, 35, 7)},
        max_length=16,
        fates={"kept": 7},
        batching=ATTACK,
        fill={ATTACK: 0.5},
        samples=[SampleView(ATTACK, [(ATTACK, False), (f"{ATTACK}\n", True)])],
    )
    page = html_page(view)
    reader, harmless = Reader(page), Reader(html_page(small()))
    assert set(reader.tags) <= set(harmless.tags) | {"ins"}
    assert set(reader.attributes) <= set(harmless.attributes)
    assert unescape(page).count(ATTACK) >= 15


def test_what_cannot_be_seen_is_shown() -> None:
    """Control, zero-width, direction and half characters neither vanish nor act, on the page and in a terminal."""
    assert visible("a\u200b\u202e\x1b[2J\ud800\u00a0é 漢\n\t") == "a⟨U+200B⟩⟨U+202E⟩⟨U+001B⟩[2J⟨U+D800⟩⟨U+00A0⟩é 漢\n\t"
    bad = "\x1b[2J\u202e\ud800 [bold]x[/bold] :smile:"
    report = PreparationReport(notes=[bad], steps=[Step(bad, examples=[Example(bad, bad, "x")])], urgency={bad: 1})
    view = replace(EMPTY, source=bad, report=report, samples=[SampleView(bad, [(bad, True)])])
    for output in (html_page(view), printed(view)):
        assert not set("\x1b\u202e\ud800") & set(output)
        assert "[bold]x[/bold] :smile:" in output


def test_an_empty_report_renders() -> None:
    """No data at all, and a side without a conversation, are said in words."""
    text = Reader(html_page(EMPTY)).text
    assert "No row was read." in text
    assert "No conversation to measure." in text
    assert "no conversation" in printed(EMPTY)
    view = replace(EMPTY, sides={"training": SideView(0, [], 0, 0)}, fates={"kept": 0})
    assert "0 kept" in printed(view)
    assert "nan" not in html_page(view)


def test_the_page_of_a_large_data_set_stays_small() -> None:
    """Below 500 KB, however much there is to show."""
    steps = [
        Step(f"cleaning.step{i}", 256_916, changed=9, examples=[Example("x", "a <b> " * 9_000, "c <d> " * 9_000)] * 50)
        for i in range(22)
    ]
    many = {f"kind {i}": i for i in range(1_000)}
    report = PreparationReport(
        sources={"x": 256_916},
        notes=["a note"] * 1_000,
        rejected=many,
        rejected_rows={kind: ["line 5"] * 1_000 for kind in many},
        steps=steps,
        identifiers=many,
        urgency=many,
        cluster_sizes={i: i for i in range(2, 5_000)},
    )
    lengths = [20 + i * i % 1_900 for i in range(256_916)]
    samples = [SampleView("x", [("word ", i % 2 == 0) for i in range(5_000)])] * 100
    view = replace(small(), report=report, sides={"training": SideView(256_916, lengths, 9, 9)}, samples=samples)
    assert len(html_page(view).encode()) < 500_000


def test_the_terminal_view_prints_the_counts() -> None:
    """Steps, fates, lengths, identifiers, layouts, samples."""
    text = printed(small())
    lines = [re.findall(r"[^\s│]+(?: [^\s│]+)*", line) for line in text.splitlines()]
    assert ["reading", "1,234", "1,217", "17", "0", "0"] in lines
    assert ["cleaning.html", "1,217", "1,217", "0", "305", "0"] in lines
    assert ["conversations", "870", "100"] in lines
    assert ["longest", "600", "90"] in lines
    assert ["too long", "40 (4.4 %)", "0 (0 %)"] in lines
    assert ["PHONE", "52"] in lines
    assert ["EMAIL", "0"] in lines
    assert ["packed (in use)", "98.7 %"] in lines
    assert "960 kept, 10 truncated, 30 dropped, 17 rejected" in text
    assert "I cough.Since when?" in text


def test_the_flow_has_no_gap() -> None:
    """Each step meets what the one before left; a draw between them shows as a step of its own."""
    steps = flow(small())
    assert [step.name for step in steps][-2:] == ["num_conversations", "over_length"]
    assert [step.rows_out for step in steps[:-1]] == [step.rows_in for step in steps[1:]]
    assert steps[-2].dropped == 100


@pytest.mark.parametrize("max_length", [1, 16, 500, 512, 8_192, 1_000_000])
@pytest.mark.parametrize("longest", [1, 15, 512, 513, 20_000])
def test_a_histogram_counts_every_conversation(max_length: int, longest: int) -> None:
    """A bounded number of bins, each conversation in one of them, the limit between those within and those beyond."""
    lengths = [1 + i * (longest - 1) // 999 for i in range(1_000)]
    drawn = histogram(replace(EMPTY, sides={"training": SideView(1_000, lengths, 1, 1)}, max_length=max_length))
    assert drawn is not None
    assert sum(drawn.counts["training"]) == 1_000
    assert len(drawn.counts["training"]) <= 82
    if drawn.limit is not None and drawn.limit == int(drawn.limit):
        within = sum(drawn.counts["training"][: int(drawn.limit)])
        assert within == sum(length <= max_length for length in lengths) or drawn.limit == len(drawn.counts["training"])


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0004, "<0.1 %"), (0.034, "3.4 %"), (0.9, "90.0 %"), (0.99995, ">99.9 %"), (1, "100 %")],
)
def test_percentages_round_nothing_away(share: float, text: str) -> None:
    """Only nothing is 0 %, only all is 100 %."""
    assert percent(share) == text


def test_clusters_lose_none() -> None:
    """Every cluster is counted in one range of sizes."""
    sizes = {2: 5, 6: 1, 10: 2, 11: 4, 100: 1, 101: 1, 9_999: 1}
    assert clusters(sizes) == {"2": 5, "6 to 10": 3, "11 to 20": 4, "51 to 100": 1, "over 100": 2}


def test_a_difference_keeps_the_text() -> None:
    """The pieces of each side make up its text; only what differs is marked."""
    before, after = difference(Example("x", "fever for 3 days.I rest", "fever for 3 days. I rest"))
    assert "".join(text for text, _ in before) == "fever for 3 days.I rest"
    assert [text for text, marked in after if marked] == [" "]
    assert not [text for text, marked in before if marked]
