"""The command line: `python main.py VERB …`; see `python main.py --help` for the verbs."""

import atexit
import contextlib
import ctypes
import errno
import gc
import logging
import os
import re
import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from importlib import import_module
from pickle import UnpicklingError
from types import ModuleType
from typing import NoReturn

from callbacks.stop_signals import Stopped, stop_signals
from commands.runs.advice import advice_for
from commands.runs.early_check import check_early
from files.open_files import LIMITS
from files.run_path import did_you_mean

VERBS = {
    "check_data": "List what is wrong with a cohort, or what two cohorts share.",
    "pretrain": "Train an autoencoder on 3D patches of a cohort.",
    "finetune": "Cross-validate a classifier, from random or pretrained weights.",
    "sweep": "Cross-validate the settings of a sweep file: a grid, or a search.",
    "agent": "Cross-validate the settings that a W&B sweep asks for.",
    "learning_curve": "Cross-validate on shares of the training patients.",
    "classical": "Cross-validate classical methods on the same folds.",
    "report": "Write a run's report.html again, with other runs to compare.",
    "sanity": "Check what should not work in a run: random labels, headers alone, the site.",
    "verify": "Compare a run's files with their hashes, its tables and figures with each other.",
    "compare": "Compare finished runs on identical folds, with paired tests.",
    "predict": "Predict new scans with all folds of a finished run.",
    "evaluate": "Measure a finished run on a labelled cohort from elsewhere.",
    "export": "Write a finished run as a bundle: safetensors, ONNX and a model card.",
    "features": "Write what each fold's encoder sees in every scan, for other programs.",
    "import_predictions": "Make a run of another program's predictions, to compare and verify.",
    "synthesize": "Make a small cohort of synthetic brain volumes.",
    "convert_medmnist": "Make a cohort, with its official split, from a MedMNIST-3D file.",
    "import_dicom": "Import DICOM series as NIfTI, with a cohort table without names.",
    "import_bids": "Make the cohort table of a BIDS tree.",
}
IMPORTABLE = (  # what a class_path of a YAML file may name: it is code
    *("callbacks", "datamodules", "lightning_modules", "evaluation"),
    *("torch", "torchio", "torchvision", "torchmetrics", "lightning", "monai", "timm"),
)
DISK_ERRORS = (  # what a disk, a lost folder or the rights on it can do
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM),
)
QUIET = (  # Lightning's advice that does not apply here
    ".*does not have many workers.*",
    ".*The number of training batches.*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*tensorboardX.*",
    ".*`srun` command is available.*",  # a run on a login node is meant
    ".*your dataloader is not resumable.*",
)


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0; 2 after one line about what the user can fix; 75, 143 or 130 if the process was asked to
        stop by SIGUSR1, SIGTERM or Ctrl-C: the same command continues.
    """
    for stream in (sys.stdout, sys.stderr):  # of an ASCII locale: \xfc instead of an error
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        hint = did_you_mean(verb.replace("-", "_"), VERBS)
        print(f"error: There is no verb {verb!r}.{hint}\n\n{_help()}", file=sys.stderr)
        return 2
    stop_signals.begin()
    try:
        _run(verb, rest)
    except (ValueError, ArgumentError) as error:
        if debug:
            raise
        print(f"error: {advice_for(verb, _shorten(str(error)))}", file=sys.stderr)
        return 2
    except UnpicklingError:
        if debug:
            raise
        print("error: The checkpoint is corrupt or would run code: give another.", file=sys.stderr)
        return 2
    except OSError as error:
        if debug or error.errno not in (*DISK_ERRORS, *LIMITS):
            raise
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        fix = "Raise the limit (ulimit -n 4096)" if error.errno in LIMITS else "Fix it"
        print(f"error: {what}. {fix} and give the command again.", file=sys.stderr)
        return 2
    except Stopped as stop:
        if stop.code:
            print("Stopped as asked; the same command continues from here.", file=sys.stderr)
        return int(stop.code or 0)
    except Exception as error:
        if not debug and _is_misconfigured(error):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        if debug or not stop_signals.exit_code:
            raise
        print(f"Stopped as asked, though not in order: {error}", file=sys.stderr)
        return stop_signals.exit_code
    return 0


def _run(verb: str, arguments: list[str]) -> None:
    _keep_freed_memory()
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    if os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None) is not None:
        print(
            "warning: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD lets checkpoints run code; it is ignored.",
            file=sys.stderr,
        )
    check_early(verb, arguments)

    import jsonargparse  # not at the top: signals are handled before the first large import
    from tqdm.contrib.logging import logging_redirect_tqdm

    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=list(IMPORTABLE)
    )
    command = _import_verb(verb)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for name in ("lightning.pytorch", "lightning.fabric", "timm"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with logging_redirect_tqdm():
        getattr(command, verb)(arguments)


def _import_verb(verb: str) -> ModuleType:
    """Import a verb with all that it needs; Python does not look for garbage meanwhile.

    It would find none, and take a quarter of the start. Nor does it look again later at what
    was imported.
    """
    if (name := f"commands.{verb}") in sys.modules:
        return sys.modules[name]  # what was made since then must not be frozen
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # else nanobind calls what is left a leak


def _is_misconfigured(error: Exception) -> bool:
    """Whether Lightning says that a setting of its trainer will not do."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return isinstance(error, MisconfigurationException)


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks for the next step instead of returning them to the kernel."""
    trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**25)


def _help() -> str:
    lines = ["usage: python main.py VERB [-c FILE.yaml …] [--KEY=VALUE …] [--debug]", ""]
    lines += [f"  {verb:20}{words}" for verb, words in VERBS.items()]
    return "\n".join([*lines, "", "`python main.py VERB --help` lists a verb's settings."])


def _shorten(message: str) -> str:
    """Drop from a parser's message what it says about types that were not meant."""
    if "Unsupported interpolation type" in message:
        return f"{' '.join(message.split())}: give the value itself."
    if "Does not validate against any of the Union subtypes" not in message:
        return message
    message = re.sub(
        r"(Importing '\S+') is not allowed.*",
        rf"\1 is not allowed: it is in none of {', '.join(IMPORTABLE)}. Put your file into one, "
        "such as callbacks/my_file.py, and name callbacks.my_file.MyClass.",
        message,
    )
    noise = re.compile(
        r"Does not validate|Subtypes:|Errors:|Given value type"
        r"|Given value: \[?(NestedArg|Namespace)|Expected a <class 'NoneType'>"
        r"|Not a valid subclass|Subclass types expect|a class path \(str\)|a dict with"
        r"|Given value: \[\{'class_path'"
    )
    lines = (line.strip(" -") for line in message.splitlines())
    return " ".join(line for line in lines if line and not noise.match(line))


@contextlib.contextmanager
def _quiet_at_a_closed_pipe() -> Iterator[None]:
    """End without a traceback where nobody reads on, as behind `| head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # Python flushes once more at its end
        os.dup2(nowhere, sys.stderr.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _leave(code: int) -> NoReturn:
    """End the process without taking apart all that was imported, which takes a second."""
    if "-m" in sys.orig_argv[: len(sys.orig_argv) - len(sys.argv)]:
        sys.exit(code)  # a profiler or debugger ran this file and has still to write
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # W&B, temporary files
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    with _quiet_at_a_closed_pipe():
        _leave(main())
