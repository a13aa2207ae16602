"""Compilation of CUDA kernels at run time, with the compiler that PyTorch brings along."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def is_available() -> bool:
    """Whether this PyTorch can compile and load CUDA kernels."""
    try:
        from torch.cuda import _utils

        _utils._get_nvrtc_library()
    except (ImportError, AttributeError, OSError):  # an old PyTorch, or one without CUDA
        return False
    return torch.version.hip is None and hasattr(_utils, "_cuda_load_module")


@functools.lru_cache(maxsize=64)
def compile_kernels(source: str, names: tuple[str, ...], device: torch.device) -> Mapping[str, Any]:
    """Compile kernels for a GPU.

    Parameters
    ----------
    source : str
        CUDA C++ source.
    names : tuple of str
        Names of the kernels, which are declared as ``extern "C"``.
    device : torch.device
        The GPU.

    Returns
    -------
    mapping of str to callable
        Kernels by name, with the arguments of the kernels that torch compiles: grid, block, args
        and shared_mem.

    Raises
    ------
    RuntimeError
        If the source has errors, or the GPU cannot load the kernels.
    """
    from torch.cuda import _utils

    with torch.cuda.device(device):
        major, minor = torch.cuda.get_device_capability(device)
        program = compiled(_utils._get_nvrtc_library(), source, [f"-arch=sm_{major}{minor}"])
        module: Any = _utils._cuda_load_module(program)
        return {name: getattr(module, name) for name in names}


def compiled(library: Any, source: str, options: Sequence[str]) -> bytes:
    """Compile a source to the machine code of a GPU, with a library of NVRTC.

    Parameters
    ----------
    library : ctypes.CDLL
        The library.
    source : str
        CUDA C++ source.
    options : sequence of str
        Options of the compiler, among them the architecture of the GPU.

    Returns
    -------
    bytes
        The machine code.

    Raises
    ------
    RuntimeError
        If the source has errors.
    """
    program = ctypes.c_void_p()
    size = ctypes.c_size_t()

    def check(status: int) -> None:
        if status:
            raise RuntimeError(f"NVRTC failed with status {status}")

    arguments = [ctypes.byref(program), source.encode(), b"corrsk.cu", 0, None, None]
    check(library.nvrtcCreateProgram(*arguments))
    try:
        encoded = [option.encode() for option in options]
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        if library.nvrtcCompileProgram(program, len(encoded), array):
            check(library.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            log = ctypes.create_string_buffer(size.value)
            check(library.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"the kernels could not be compiled: {log.value.decode()}")
        check(library.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        code = ctypes.create_string_buffer(size.value)
        check(library.nvrtcGetCUBIN(program, code))
        return code.raw
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
