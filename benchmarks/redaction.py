"""How soon a text is read for secrets, whatever its author meant by it: `python -m benchmarks.redaction`.

A megabyte of each beginning of a pattern, over and over, beside a megabyte of the sources of this project, and beside a tenth of
itself.

prose      processor time as a multiple of what the sources take
growth     as a multiple of what its own first tenth takes: 10 where time grows with the length, 100 where it grows by the square
"""

import time
from pathlib import Path

from medllm.redaction import redacted
from tests.test_secrets import BEGINNINGS

LENGTH = 1_000_000
SOURCES = Path(__file__).parents[1] / "src"


def seconds(text: str) -> float:
    """Processor time, the best of three."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        redacted(text)
        taken.append(time.process_time() - began)
    return min(taken)


def repeated(piece: str, length: int) -> str:
    """`length` characters of `piece`."""
    return (piece * (length // len(piece) + 1))[:length]


def main() -> None:
    """A line per beginning, the slowest first."""
    prose = seconds(
        repeated("".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.rglob("*.py"))), LENGTH)
    )
    print(f"sources: {prose:.2f} s a megabyte\n\n{'prose':>6} {'growth':>7}  beginning")
    found = [(seconds(repeated(piece, LENGTH)), seconds(repeated(piece, LENGTH // 10)), piece) for piece in BEGINNINGS]
    for whole, tenth, piece in sorted(found, reverse=True):
        print(f"{whole / prose:6.2f} {whole / tenth:7.1f}  {piece!r}")


if __name__ == "__main__":
    main()
