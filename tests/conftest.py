"""Shared set-up: one thread a worker, what a test needs from the machine, a headless browser."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

# Torch and BLAS read these when they are first imported, here or in a subprocess; two workers with default threads spin.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Jobs in the background of a script ignore Ctrl-C, and so would the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

#: Data sets that tests may ask for with ``@pytest.mark.data(name)``, and the files that make them up.
DATA_FILES = {
    "fashion-mnist": [
        Path("/usr/share/datasets/fashion-mnist", f"{part}-ubyte.gz")
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ],
}


def _missing(what: str, remedy: str, required_by: str) -> NoReturn:
    """Skip the test, or fail it where the environment promises that what it needs is there."""
    message = f"{what} is not on this machine ({remedy})"
    if os.environ.get(required_by) == "1":
        pytest.fail(f"{message}, and {required_by}=1", pytrace=False)
    pytest.skip(message)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for the browser fixture is a browser test."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("data"):
        (name,) = mark.args
        if not all(file.is_file() for file in DATA_FILES[name]):
            _missing(f"data set {name}", f"apt-get install dataset-{name}", "NONVACUOUS_REQUIRE_DATA")
    if item.get_closest_marker("slow") and time.time() > float(os.environ.get("NONVACUOUS_SLOW_UNTIL", "inf")):
        pytest.skip("does not fit into the time left (NONVACUOUS_SLOW_UNTIL)")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One headless Chromium a worker; use :func:`browser`, which starts from a blank page."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        _missing("Chromium", "apt-get install chromium chromium-driver", "NONVACUOUS_REQUIRE_BROWSER")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield session
    session.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    """A selenium driver on a blank page of desktop size, console log emptied; read it with ``get_log("browser")``."""
    chromium.get("about:blank")
    chromium.set_window_size(1280, 900)
    chromium.get_log("browser")
    return chromium
