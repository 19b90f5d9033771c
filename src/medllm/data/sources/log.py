"""What reading met on its way."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

# Rejected rows that are listed by reason; the rest is only counted.
LISTED = 20


@dataclass
class ReadingLog:
    """Counts and remarks of one reading.

    Attributes:
        source: Name of the one being read.
        rows: Rows met by source, unreadable ones included.
        rejected: Rows that are no conversation, by reason.
        places: The first rejected rows by reason, as `dialogues.csv line 5`.
        notes: What is worth telling, such as an encoding found.
    """

    source: str = ""
    rows: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)

    def reject(self, reason: str, place: str) -> None:
        """Counts a rejected row and lists the first ones."""
        self.rejected[reason] += 1
        if len(self.places[reason]) < LISTED:
            self.places[reason].append(place)

    def unreadable(self, reason: str, place: str) -> None:
        """Counts something that is not even a row."""
        self.rows[self.source] += 1
        self.reject(reason, place)

    def note(self, text: str) -> None:
        """Remembers a remark once."""
        if text not in self.notes:
            self.notes.append(text)
