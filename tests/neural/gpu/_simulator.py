"""CUDA kernels on a processor: compiled as C++, with fibers as threads."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import lru_cache, partial
from pathlib import Path

import torch

COMPILER = shutil.which("g++")
_HEADER = Path(__file__).with_name("cuda_on_processor.h")
_KERNELS = ("add_gradients", "update_weights")


@lru_cache(maxsize=1)
def _folder():
    # lives as long as the process: libraries stay loaded
    return tempfile.TemporaryDirectory(prefix="corrsk-kernels-")


@lru_cache(maxsize=32)
def library(source: str, extra: str = "") -> ctypes.CDLL:
    """Compile kernels, and further C++ code that uses them, for the processor."""
    source = source.replace("extern __shared__", "extern").replace("__shared__", "static")
    launchers = "".join(f"LAUNCHER({name})\n" for name in _KERNELS)
    code = f'#include "{_HEADER}"\n{source}\n{launchers}\n{extra}'
    name = hashlib.sha256(code.encode()).hexdigest()[:16]
    file = Path(_folder().name, f"{name}.cpp")
    file.write_text(code, encoding="utf-8")
    target = file.with_suffix(".so")
    # fortified jumps refuse the stack of another fiber
    flags = ["-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE"]
    subprocess.run([COMPILER, *flags, str(file), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def compile_for_processor(source: str, device: torch.device):
    """Replacement of the compiler of :data:`corrsk.neural.gpu.fused.COMPILERS`."""
    assert device.type == "cpu"
    kernels = library(source)
    return {name: partial(_launch, getattr(kernels, f"launch_{name}")) for name in _KERNELS}


def _launch(kernel, grid, block, args, shared_mem=0):
    values = [
        ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, torch.Tensor) else ctypes.c_int(arg)
        for arg in args
    ]
    pointers = [ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in values]
    kernel(grid[0], grid[1], block[0], (ctypes.c_void_p * len(pointers))(*pointers))
