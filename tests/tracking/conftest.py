"""A database that is ready, unless a test is about one that is not there yet."""

import pytest


@pytest.fixture(autouse=True)
def ready(request: pytest.FixtureRequest) -> None:
    """Lies in the test's folder."""
    if "fresh_database" not in request.fixturenames and "tmp_path" in request.fixturenames:
        request.getfixturevalue("database")


@pytest.fixture
def fresh_database() -> None:
    """For tests of a database that nobody has used: there is none."""
