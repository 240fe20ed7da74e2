"""Test data, and the rule that continuous integration skips only what is expected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real scans and label maps; tests that ask for it are skipped where it is absent."""
    folder = os.environ.get("SYNTHSR_TEST_DATA")
    if not folder:
        pytest.skip("SYNTHSR_TEST_DATA is not set: it names the folder of test data")
    if not Path(folder).is_dir():
        pytest.skip(f"SYNTHSR_TEST_DATA names {folder}, which is not a folder")
    return Path(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Under CI=true, name every skip that the short list does not expect."""
    for unexpected in _unexpected_skips(terminalreporter):
        terminalreporter.write_line(f"unexpected skip: {unexpected} (not in {EXPECTED_SKIPS.name})", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI=true, an unexpected skip fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _unexpected_skips(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: pytest.TerminalReporter) -> list[str]:
    if os.environ.get("CI") != "true":
        return []
    lines = EXPECTED_SKIPS.read_text(encoding="utf-8").splitlines()
    expected = {line.split("#")[0].strip() for line in lines} - {""}
    return sorted({report.nodeid.split("[")[0] for report in reporter.stats.get("skipped", [])} - expected)
