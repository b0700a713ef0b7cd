"""The table of faults is made by the tests themselves.

    pytest tests/faults -m "fault" --write

`@pytest.mark.fault(kind, what, outcome)` says what a test does to the pipeline and what then comes
of it; the fixture `tried` counts how often, where a test does it more than once. A test that passes
is a row of results.csv; one that fails leaves the row as it was. README.md shows the rows.
"""

import time
from collections.abc import Callable

import faults
import pytest

FOUND: dict[str, dict] = {}  # rows of this run of pytest, by test
FAILED: set[str] = set()


def pytest_addoption(parser):
    parser.addoption("--write", action="store_true", help="keep what was tried in results.csv")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What needs a finished pipeline is slow, if only to make it."""
    for item in items:
        if "done" in getattr(item, "fixturenames", ()) and "tests/faults" in item.nodeid:
            item.add_marker("slow")


@pytest.fixture
def tried(record_property) -> Callable[[int], None]:
    """tried(n): this test did it n times, not once."""
    return lambda n: record_property("tried", n)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    mark = item.get_closest_marker("fault")
    if mark and report.when == "call":
        campaign = "yes" if item.get_closest_marker("campaign") else ""
        report.user_properties.append(("fault", [*mark.args, campaign]))
    return report


def pytest_runtest_logreport(report):
    """With pytest-xdist this runs in the controller, for the tests of every worker."""
    test, said = report.nodeid.partition("[")[0], dict(report.user_properties)
    if report.failed:
        FAILED.add(test)
    if report.when == "call" and report.passed and "fault" in said:
        kind, what, outcome, campaign = said["fault"]
        row = FOUND.setdefault(test, {
            "test": test, "kind": kind, "fault": what, "tried": 0, "outcome": outcome,
            "campaign": campaign, "date": time.strftime("%Y-%m-%d"),
        })  # fmt: skip
        row["tried"] += said.get("tried", 1)


def pytest_sessionfinish(session):
    if session.config.getoption("--write", False) and not hasattr(session.config, "workerinput"):
        faults.write([row for test, row in FOUND.items() if test not in FAILED])
