"""First import of torch, with OpenMP threads that wait passively for work.

By default, a thread of OpenMP that waits for the others keeps its core busy. On an idle machine
this saves the microseconds of waking the thread; if other processes need the cores, the threads
wait for a thread that cannot run, and a training with two threads takes many times as long as with
one. OpenMP reads its variables when torch is imported, and they are removed afterwards: processes
that this one starts have the environment of the user. If torch was imported before, or the user
has set one of the variables, the threads wait as before.
"""

from __future__ import annotations

import os
import sys

_PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
_CHOICES_OF_USER = {*_PASSIVE, "GOMP_SPINCOUNT", "KMP_LIBRARY"}

if "torch" not in sys.modules and _CHOICES_OF_USER.isdisjoint(os.environ):
    os.environ.update(_PASSIVE)
    try:
        import torch  # noqa: F401
    finally:
        for variable in _PASSIVE:
            del os.environ[variable]
