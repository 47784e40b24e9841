"""The CPU back end: `adan.cpp`, compiled at first use by the machine's C++ compiler and kept in the cache folder.

The file's name says everything it depends on, and it is published by a rename: whoever finds it finds it whole, builds
at the same time do no harm, and a killed build leaves nothing that a later start would wait for.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
import warnings
from array import array
from pathlib import Path

import torch
from torch import Tensor

from nlp_adan.kernels import trial
from nlp_adan.kernels.operands import STATE_DTYPES, Operands
from nlp_adan.storage import cache_folder
from nlp_adan.update import Coefficients

SOURCE = Path(__file__).with_name("adan.cpp")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
# The best first. Linking without -fopenmp leaves its functions to the library that torch has loaded already: with one
# of our own there would be two pools of threads.
VARIANTS = (
    (("-march=native", "-fopenmp"), ()),
    (("-march=native", "-fopenmp"), ("-fopenmp",)),
    (("-mcpu=native",), ()),
    ((), ()),
)
BUILD_SECONDS = 30
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}


def step(batch: list[Operands], c: Coefficients, grad_factor: Tensor | None, found_inf: Tensor | None) -> None:
    """One update of each parameter of `batch`; arguments as those of `eager.step`. See `takes` for what fits."""
    if found_inf is not None and bool(found_inf):  # in the memory of this machine: nothing to wait for
        return
    library = _library()
    assert library is not None
    _run(library, batch, c, grad_factor)


capturable_step = step


def available() -> bool:
    """Whether the back end can be used; the first call builds it, and warns where that is not possible."""
    return _library() is not None


def takes(operands: Operands) -> bool:
    """Whether the back end knows these dtypes and this layout, a tensor's elements in one order without holes."""
    p, g, m, v, n, h, _ = operands
    if p.dtype == torch.float64:
        known = g.dtype == m.dtype == n.dtype == torch.float64
    else:
        known = p.dtype in _narrow_dtypes() and g.dtype in _narrow_dtypes() and m.dtype in STATE_DTYPES
        known = known and n.dtype == torch.float32
    return known and m.dtype == v.dtype == h.dtype and operands.same_layout()


@functools.cache
def _narrow_dtypes() -> frozenset[torch.dtype]:
    library = _library()
    half = {torch.float16} if library is not None and library.adan_has_float16() else set()
    return frozenset({torch.float32, torch.bfloat16} | half)


def _run(library: ctypes.CDLL, batch: list[Operands], c: Coefficients, grad_factor: Tensor | None) -> None:
    addresses = array("q")
    for operands in batch:
        addresses.extend(operands.addresses())
    numels = array("q", [operands.param.numel() for operands in batch])
    first = batch[0]
    dtypes = array("i", [DTYPES[tensor.dtype] for tensor in (first.param, first.grad, first.exp_avg)])
    factor = None if grad_factor is None else grad_factor.double()
    table = c.packed(torch.float64, torch.device("cpu"))
    library.adan_step(
        ctypes.c_int64(len(batch)),
        ctypes.c_void_p(numels.buffer_info()[0]),
        ctypes.c_void_p(addresses.buffer_info()[0]),
        ctypes.c_void_p(dtypes.buffer_info()[0]),
        ctypes.c_void_p(table.data_ptr()),
        ctypes.c_int64(table.stride(0) if len(table) > 1 else 0),
        ctypes.c_void_p(None if factor is None else factor.data_ptr()),
        ctypes.c_int(torch.get_num_threads()),
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library, from the cache or built now; None, after one warning, where there is none to be had."""
    reasons = []
    for compiler, variant in itertools.product(_compilers(), VARIANTS):
        try:
            return _load(compiler, *variant)
        except subprocess.TimeoutExpired as error:  # it would hang the next time too
            reasons.append(_one_line(error))
            break
        except (OSError, subprocess.SubprocessError) as error:
            reasons.append(_one_line(error))
    reason = f": {reasons[0]}" if reasons else ": no C++ compiler (c++, g++, clang++ or $CXX) on the path"
    warnings.warn(
        f"nlp_adan.Adan runs on the CPU without its compiled step, which is several times faster{reason}. "
        "Install a C++ compiler such as g++, or pass foreach=True to do without it in silence.",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _compilers() -> list[tuple[str, ...]]:
    """Commands of C++ compilers, those of `$CXX` (which may hold options) first; a program that has two names once."""
    commands: dict[tuple[str, ...], tuple[str, ...]] = {}
    for words in (shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]):
        path = shutil.which(words[0]) if words else None
        if path:
            commands.setdefault((os.path.realpath(path), *words[1:]), (path, *words[1:]))
    return list(commands.values())


def _one_line(error: Exception) -> str:
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return next((line for line in str(text).splitlines() if line.strip()), type(error).__name__)


def _load(compiler: tuple[str, ...], flags: tuple[str, ...], link_flags: tuple[str, ...]) -> ctypes.CDLL:
    """Load a build that is in the cache and works, else build it. Raises OSError or SubprocessError."""
    try:
        folder = cache_folder() / "kernels"
    except RuntimeError:  # a user without a home
        folder = _folder_without_home() / "kernels"
    path = folder / f"adan-{_key(compiler, flags, link_flags)}.so"
    if path.exists():
        try:
            return _checked(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):
            pass  # damaged: built anew
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned_builds(folder)
        place = tempfile.TemporaryDirectory(dir=folder, prefix=".build-")
    except OSError:  # a cache that cannot be written: build for this process alone
        place = tempfile.TemporaryDirectory(prefix="nlp_adan-")
    with place as build:
        built = _build(compiler, flags, link_flags, Path(build))
        library = _checked(ctypes.CDLL(str(built)))
        if Path(build).parent == folder:
            os.replace(built, path)
        return library


def _folder_without_home() -> Path:
    """Below /tmp, where anybody may make a folder of any name: one that nobody else could have put a library into.

    Raises: OSError where another user has, or may write into, the folder of this name.
    """
    folder = Path(tempfile.gettempdir()) / f"nlp_adan-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is another user's, or open to others: remove it, or set NLP_ADAN_CACHE")
    return folder


def _remove_abandoned_builds(folder: Path) -> None:
    """Those of processes that were killed an hour ago or earlier."""
    for build in folder.glob(".build-*"):
        with contextlib.suppress(OSError):
            if time.time() - build.stat().st_mtime > 3600:
                shutil.rmtree(build, ignore_errors=True)


def _build(compiler: tuple[str, ...], flags: tuple[str, ...], link_flags: tuple[str, ...], folder: Path) -> Path:
    compiled, linked = folder / "adan.o", folder / "adan.so"
    for command in (
        [*compiler, *FLAGS, *flags, "-c", str(SOURCE), "-o", str(compiled)],
        [*compiler, "-shared", str(compiled), *link_flags, "-o", str(linked)],
    ):
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=BUILD_SECONDS, stdin=subprocess.DEVNULL
        )
    return linked


def _key(compiler: tuple[str, ...], flags: tuple[str, ...], link_flags: tuple[str, ...]) -> str:
    """What a build depends on: source, compiler, flags, and the processor it is made for."""
    status = os.stat(compiler[0])
    parts = (
        SOURCE.read_bytes(), FLAGS, flags, link_flags, os.path.realpath(compiler[0]), compiler[1:],
        status.st_size, status.st_mtime_ns, platform.system(), platform.machine(), _processor(),
    )  # fmt: skip
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's model and instruction sets: a home folder may be shared by machines that differ in them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def _checked(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, after one update by it and by the eager rule agree. Raises OSError if they do not."""
    library.adan_step.restype = None
    trial.check(lambda batch, c: _run(library, batch, c, None), torch.device("cpu"))
    return library
