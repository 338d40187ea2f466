"""In the place of main.py: a `finetune` that starts at once and predicts as well as it is asked to.

A setting is the better, the larger its model.lr is. QUICK_FOLD_S is the time of a fold in seconds;
QUICK_FAILS is the model.lr whose second fold fails.
"""

import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

HEADER = "patient_id,image,repeat,fold,label,prob_healthy,prob_unhealthy,predicted,confidence\n"
FOLDS = [(repeat, fold) for repeat in range(2) for fold in range(3)]


def rows_of(repeat, fold, quality):
    """Probability of being unhealthy of four patients, of whom the last two are."""
    chance = random.Random(10 * repeat + fold)
    return [quality * (n > 1) + (1 - quality) * chance.random() for n in range(4)]


def write_fold(folder, repeat, fold, probs):
    """Write the predictions of a fold, and that it was trained once more."""
    folder.mkdir(exist_ok=True)
    lines = HEADER
    for n, prob in enumerate(probs):
        label, predicted = (("healthy", "unhealthy")[x] for x in (n > 1, prob > 0.5))
        lines += f"p{fold}{n},x,{repeat},{fold},{label},{1 - prob},{prob},{predicted},0.5\n"
    (folder / "predictions.csv").write_text(lines)
    with (folder / "trained.txt").open("a") as file:
        file.write(f"{os.getpid()}\n")
    (folder / "finished.json").write_text("{}")


def finetune(given):
    """Write the folder of a run."""
    run, lr = Path(given["run"]), given["model.lr"]
    if given.get("data.table", "").endswith("empty.csv"):
        sys.exit("error: The cohort table is empty.")
    lines = [f"{repeat},{fold},p{fold}0,test\n" for repeat, fold in FOLDS]
    (run / "splits.csv").write_text("repeat,fold,patient_id,part\n" + "".join(lines))
    if given.get("only") == "prepare":
        return
    every = []
    for repeat, fold in FOLDS:
        folder = run / f"repeat{repeat}_fold{fold}"
        probs = rows_of(repeat, fold, 1 + math.log10(float(lr)) / 4)
        every += [(prob - (n > 1)) ** 2 for n, prob in enumerate(probs)]
        if not (folder / "finished.json").is_file():
            time.sleep(float(os.environ.get("QUICK_FOLD_S", "0")))
            if fold == 1 and lr == os.environ.get("QUICK_FAILS"):
                print("error: the training diverged", file=sys.stderr)
                sys.exit(2)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            write_fold(folder, repeat, fold, probs)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    mean = {"brier": sum(every) / len(every), "auroc": 0.5}
    metrics = {"mean": mean, "sd": {"brier": 0.01}, "interval_95": {"auroc": [0.4, 0.6]}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "report.html").touch()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    finetune(dict(text.removeprefix("--").partition("=")[::2] for text in sys.argv[2:]))
