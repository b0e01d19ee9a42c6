"Browser tests are a command of their own: sh/test_browser.sh"
import os
import time
from pathlib import Path

import pytest

import drive


def pytest_collection_modifyitems(items):
    why = None
    if not os.environ.get('MEDALS_BROWSER'): why = 'sh/test_browser.sh runs the browser tests'
    elif not drive.chromium(): why = 'no Chromium: apt-get install chromium, or set MEDALS_CHROMIUM'
    else:
        try: import playwright  # noqa: F401
        except ImportError: why = 'no Playwright: pip install playwright'
    for o in items:
        if why and Path(o.fspath).parent==Path(__file__).parent: o.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope='session')
def shots(tmp_path_factory):
    "Folder for screenshots and times"
    out = Path(os.environ.get('MEDALS_SHOTS') or tmp_path_factory.mktemp('shots'))
    out.mkdir(parents=True, exist_ok=True)
    return out


class Walk(dict):
    "Seconds of each step"
    def step(self, name, fn):
        t0 = time.monotonic()
        res = fn()
        self[name] = round(time.monotonic()-t0, 1)
        return res


@pytest.fixture(scope='module')
def walk(): return Walk()
