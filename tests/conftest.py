"""What the tests share: where the real images are, how many threads run, and that CI skips nothing."""

import os
from pathlib import Path

import pytest

# One thread for each process that runs tests: several with several threads each wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = ["audit/scripts"]  # programs that tests run; --doctest-modules would import them

# A build of torch with a vendor's plug-in installed loads it at import and fails where that vendor's driver is missing.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real images and sizes that ``FIXSHAPE_DATA`` names."""
    folder = os.environ.get("FIXSHAPE_DATA")
    if not folder:
        pytest.skip("FIXSHAPE_DATA is not set: it names the folder of real images and sizes")
    return Path(folder)


def pytest_terminal_summary(terminalreporter):
    """With ``FIXSHAPE_NO_SKIPS``, a skipped test is a failed run: in CI everything that a test needs is there."""
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("FIXSHAPE_NO_SKIPS") and skipped:
        terminalreporter.write_line(f"FIXSHAPE_NO_SKIPS is set, and {len(skipped)} tests were skipped", red=True)
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED
