"""Loops in C, compiled for this processor when they are first needed, in half a second."""

import ctypes
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)


def compiled(name: str, **macros: int) -> ctypes.CDLL | None:
    """Compile a file of this folder, once per process.

    Args:
        name: Its name without the ending.
        macros: Numbers that it is compiled for.

    Returns:
        Its functions, for `call`; None where it cannot be compiled, or where the environment
        variable `MCTL_KERNELS` is 0.
    """
    return None if os.environ.get("MCTL_KERNELS") == "0" else _compile(name, **macros)


@cache
def _compile(name: str, **macros: int) -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    defined = [f"-D{macro}={number}" for macro, number in macros.items()]
    for flags in (["-march=native", "-fopenmp"], ["-march=native"], []):
        if compiler is None:
            break
        with TemporaryDirectory() as folder:
            source, library = Path(__file__).with_name(f"{name}.c"), Path(folder, f"{name}.so")
            command = [compiler, "-O3", "-fopenmp-simd", "-shared", "-fPIC", *flags, *defined]
            try:
                subprocess.run(
                    [*command, str(source), "-o", str(library)], check=True, capture_output=True
                )
                return ctypes.CDLL(str(library))
            except (OSError, subprocess.CalledProcessError):
                continue
    _log_once()
    return None


@cache
def _log_once() -> None:
    logger.info("No C compiler works here: augmentation and training take several times as long.")


def call(function: Callable[..., Any], *arguments: Tensor | int | float) -> Any:
    """Call a C function with pointers to tensors' numbers, 64-bit whole numbers and floats."""
    return function(*(_plain(argument) for argument in arguments))


def _plain(argument: Tensor | int | float) -> Any:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        assert argument.device.type == "cpu"
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
