"""A flag that a signal handler may set at any moment."""

import subprocess
import sys
import threading
import time

from shared.stop_flag import StopFlag
from tests.conftest import ROOT

STRUCK_WHILE_WAITING = """
import random, signal
from shared.stop_flag import StopFlag

flag = StopFlag()
signal.signal(signal.SIGALRM, lambda *_: flag.set())
for _ in range(20_000):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-5))
    flag.wait(0)
"""


def test_a_handler_that_interrupts_the_wait_does_not_wait_for_itself() -> None:
    """With `threading.Event` in its place this program stops for ever."""
    subprocess.run([sys.executable, "-c", STRUCK_WHILE_WAITING], cwd=ROOT, check=True, timeout=60)


def test_waits_no_longer_than_asked_and_ends_once_it_is_set() -> None:
    flag = StopFlag()
    assert not flag.wait(0.01)
    began = time.monotonic()
    setter = threading.Timer(0.05, flag.set)
    setter.start()
    assert flag.wait(30)
    assert flag.wait(30), "and stays set"
    assert flag.is_set()
    assert time.monotonic() - began < 10
    setter.join()
    flag.close()
