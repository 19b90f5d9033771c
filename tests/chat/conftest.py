"""The tiny artifact of the evaluation's tests."""

from tests.evaluation.conftest import run, trained

__all__ = ["run", "trained"]
