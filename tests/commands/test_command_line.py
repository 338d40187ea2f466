import io
import os
import pstats
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml

import main
from commands.finetune import FinetuneOptions
from commands.runs.command_line import make_parser, parse
from commands.runs.prepare import prepare
from commands.runs.run_folder import init_checkpoint, run_path
from commands.runs.wandb_run import start_wandb

CONFIGS = sorted(path for path in Path("configs").rglob("*.yaml") if "sweeps" not in path.parts)


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_shipped_config_parses_and_says_how_it_is_run(path, write_cohort):
    named = path.relative_to("configs").as_posix()
    verb = next((v for v in ("pretrain", "baseline") if v in named), "finetune")
    header = "".join(re.match(r"(?:#.*\n)+", path.read_text()).group())
    by_method = f"# make pretrain METHOD={path.stem} DATA="
    assert header.startswith(("# make demo", f"# make {verb} DATA=", by_method))
    assert "minutes" in header
    assert re.search(r"(AUROC|val/loss) \d\.\d", header)
    verb = verb.replace("baseline", "finetune")
    base = [f"-cconfigs/{verb}.yaml"] if path.stem != verb or path.parent.name != "configs" else []
    settings = yaml.safe_load(path.read_text())
    table = write_cohort(6)
    classes = settings.get("data", {}).get("classes", ["healthy", "unhealthy"])
    for label, name in zip((",healthy", ",unhealthy"), classes, strict=True):
        table.write_text(table.read_text().replace(f"{label}\n", f",{name}\n"))
    run = prepare(verb, [*base, f"-c{path}", f"--data.table={table}"])
    for part in ("model", "data"):
        if "class_path" in settings.get(part, {}):
            assert run.config[part].class_path == settings[part]["class_path"]
    assert run.config.trainer.use_distributed_sampler is False


def test_settings_of_a_users_yaml_need_no_class_path(write_cohort, tmp_path):
    table = write_cohort(6)
    own = tmp_path / "knee.yaml"
    own.write_text(f"data: {{table: {table}, preprocessing: {{spatial_shape: [5, 6, 7]}}}}\n")
    run = prepare("finetune", ["-cconfigs/finetune.yaml", f"-c{own}", "--model.lr=0.5"])
    assert run.config.data.init_args.table == str(table)
    assert list(run.config.model.init_args.spatial_shape) == [5, 6, 7]
    assert run.config.model.init_args.lr == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["finetune", "-cconfigs/finetune.yaml"], "Give DATA=path/to/table.csv"),
        (["finetune", "-cconfigs/none.yaml"], "configs/none.yaml"),
        (
            ["finetune", "-cconfigs/finetune.yaml", "--data.table=none.csv"],
            "Cohort table 'none.csv' does not exist",
        ),
        (
            [
                *("finetune", "-cconfigs/finetune.yaml", "--data.table=README.md"),
                "--data.preprocessing.fit=stretch",
            ],
            "'crop_or_pad', 'resize'] Given value: stretch",
        ),
        (["finetune", "-cconfigs/finetune.yaml", "--model.learning_rate=1"], "learning_rate"),
        (["check_data", "--data.classes=[no, yes]"], "in quotes, such as ['no', 'yes']"),
        (["check_data", "--data.classes=[0, 1.5]"], "in the table, such as ['0', '1.5']"),
        (
            ["finetune", "-c{data: {table: README.md, classes: [2, 1]}}"],
            "in the table, such as ['2', '1']",
        ),
    ],
)
def test_what_a_user_got_wrong_is_one_line_and_exit_code_2(arguments, words, capsys):
    assert main.main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert words in message


@pytest.mark.slow
def test_columns_that_nothing_reads_are_one_line_of_a_run(write_cohort, run_verb, capsys):
    table = write_cohort(12)
    header, *rows = table.read_text().splitlines()
    lines = [f"{header},split,Age,scanner", *(f"{row},train,40,a" for row in rows)]
    table.write_text("\n".join(lines) + "\n")
    assert run_verb("finetune", table, "run", "--only=prepare") == 0
    out = capsys.readouterr().out
    assert "Columns of the table that nothing reads: split, scanner.\n" in out
    assert "column 'split' is not read: patients are divided by --data.splits" in out


def test_letters_that_a_locale_lacks_are_no_error(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", shown)
    assert main.main(["ünknown"]) == 2
    shown.flush()
    assert shown.buffer.getvalue().startswith(rb"error: There is no verb '\xfcnknown'.")


@pytest.mark.parametrize("verb", ["finetune", "pretrain"])
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("fast_dev_run=true", "fast_dev_run=True writes no checkpoint to predict with: try"),
        ("fast_dev_run=3", "fast_dev_run=3 writes no checkpoint"),
        ("barebones=true", "barebones=True writes no checkpoint"),
        ("enable_checkpointing=false", "leaves no weights to predict with"),
        ("limit_predict_batches=1", "leaves patients without a prediction"),
        ("limit_train_batches=0", "limit_train_batches=0 trains nothing"),
        ("max_steps=0", "max_steps=0 trains nothing"),
        ("check_val_every_n_epoch=3", "check_val_every_n_epoch=3 is beyond --trainer.max_epochs=2"),
        (
            "callbacks=[{class_path: lightning.pytorch.callbacks.RichProgressBar}]",
            "drop RichProgressBar from trainer.callbacks",
        ),
        (
            "callbacks=[{class_path: lightning.pytorch.callbacks.Timer}]",
            "Drop Timer from trainer.callbacks: set --trainer.max_time",
        ),
        (
            "callbacks=[{class_path: lightning.pytorch.callbacks.EarlyStoping}]",
            "'lightning.pytorch.callbacks' has no attribute 'EarlyStoping'",
        ),
        (
            "callbacks=[{class_path: mine.MyCallback}]",
            "'mine.MyCallback' is not allowed: it is in none of callbacks, datamodules",
        ),
        (
            "logger={class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: x}}",
            "logger=lightning.pytorch.loggers.CSVLogger is not read: curves are in logs/metrics",
        ),
        ("default_root_dir=x", "default_root_dir=x is not read: say where with RUN="),
        ("overfit_batches=1", "is not for a run: try --trainer.limit_train_batches"),
        ("accumulate_grad_batches=0", "accumulate_grad_batches=0 trains nothing"),
        ("max_epochs=-1", "max_epochs has no end"),
    ],
)
def test_a_trainer_that_no_run_can_end_with_is_refused_before_the_data_are_read(
    verb, setting, words, run_verb, tmp_path, capsys
):
    table = tmp_path / "cohort.csv"
    table.write_text("no table at all")
    assert run_verb(verb, table, "run", f"--trainer.{setting}") == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert words in message
    assert "Subclass types" not in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("profiler=simpel", "`profiler` parameter of `Trainer`"),
        ("limit_train_batches=0.01", "Please increase the `limit_train_batches` argument"),
        ("max_time=00:00:00:00", "The training ended before an epoch did"),
    ],
)
def test_what_lightning_refuses_is_one_line(setting, words, write_cohort, run_verb, capsys):
    assert run_verb("finetune", write_cohort(6), "run", f"--trainer.{setting}") == 2
    (message,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert words in message


def test_a_pipe_that_nobody_reads_on_ends_a_verb_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "main.py", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.slow
def test_the_last_epoch_may_be_the_only_one_that_is_validated(write_cohort, run_verb, tmp_path):
    own = tmp_path / "own.yaml"
    name = "callbacks.best_checkpoint.BestValidationCheckpoint"
    best = f"{{class_path: {name}, init_args: {{monitor: val/loss, mode: min}}}}"
    own.write_text(f"trainer: {{check_val_every_n_epoch: 2, callbacks: [{best}]}}")
    arguments = [f"-c{own}", "--data.splits.val_fraction=0.3", "--fold=0"]
    assert run_verb("finetune", write_cohort(12), "run", *arguments) == 0
    assert (tmp_path / "run/repeat0_fold0/best.ckpt").is_file()


@pytest.mark.slow
def test_a_checkpoint_is_refused_on_scans_that_are_prepared_otherwise(
    write_cohort, run_verb, tmp_path
):
    table = write_cohort(12)
    assert run_verb("finetune", table, "run", "--fold=1", epochs=1) == 0
    config = f"-c{tmp_path / 'run/config.yaml'}"
    run = prepare("finetune", [config, "--data.preprocessing.fit=resize"])
    trainer, model, data = run.build(run.fold_runs[1])
    with pytest.raises(ValueError, match=r"trained with preprocessing\.fit crop_or_pad"):
        trainer.validate(model, data, tmp_path / "run/repeat0_fold1/best.ckpt", weights_only=True)


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="does not exist"):
        main.main(["finetune", "-cconfigs/finetune.yaml", "--data.table=none.csv", "--debug"])


def test_a_null_in_a_flag_is_the_null_of_a_yaml_file(write_cohort):
    given = ["-cconfigs/finetune.yaml", f"--data.table={write_cohort(12)}"]
    given += [
        "--data.preprocessing.window_percentiles=null",
        "--data.preprocessing.assume_orientation=null",
    ]
    settings = parse(make_parser("finetune", FinetuneOptions), given).data.init_args
    assert settings.preprocessing.window_percentiles is None
    assert settings.preprocessing.assume_orientation is None


def test_a_fold_that_does_not_exist_is_named(write_cohort, run_verb, capsys):
    assert run_verb("finetune", write_cohort(12), "fine", "--fold=7") == 2
    assert "no REPEAT=None FOLD=7: repeats are 0 to 0, folds 0 to 2" in capsys.readouterr().err


def test_init_must_be_a_finished_run(write_cohort, run_verb, capsys, tmp_path):
    assert run_verb("finetune", write_cohort(12), "fine", "--init=nothing") == 2
    assert "INIT 'nothing' does not exist" in capsys.readouterr().err
    (tmp_path / "begun").mkdir()
    with pytest.raises(ValueError, match="missing or not finished"):
        init_checkpoint(str(tmp_path / "begun"), 0, 0)


def test_a_run_is_a_name_or_a_folder(tmp_path):
    assert run_path("mine") == Path("runs/mine")
    assert run_path("demo/mine") == Path("runs/demo/mine")
    assert run_path("runs/mine") == Path("runs/mine")
    assert run_path(str(tmp_path)) == tmp_path
    assert run_path("../other/runs/mine") == Path("../other/runs/mine")
    assert run_path("elsewhere/best.ckpt") == Path("elsewhere/best.ckpt")


def test_help_lists_every_verb_without_loading_torch():
    code = "import sys, main; main.main(['--help']); assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in main.VERBS:
        assert verb in shown.stdout
    assert main.main(["nonsense"]) == 2


def test_make_help_lists_every_target_and_each_is_one_python_line():
    shown = subprocess.run(["make", "help"], capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), flags=re.MULTILINE)
    assert {"setup", "demo", "test", "pretrain", "finetune", "check"} <= set(targets)
    assert all(target in shown for target in targets)
    for target in ("pretrain", "finetune"):
        given = ["DATA=a b.csv", "RUN=x", "INIT=y", "FOLD=1", "ARGS=--model.lr=1"]
        dry = subprocess.run(
            ["make", "-n", target, *given], capture_output=True, text=True, check=True
        ).stdout
        lines = [line for line in dry.splitlines() if "main.py" in line]
        assert len(lines) == 1
        assert f"main.py {target} -c configs/{target}.yaml" in lines[0]
        for words in ('--data.table="a b.csv"', '--run="x"', "--fold=1", "--model.lr=1"):
            assert words in lines[0]


def test_make_predict_and_export_hand_on_what_they_are_given():
    given = ["RUN=x", "DATA=a b.csv", "OUT=c d", "ARGS=--cache_dir=e"]
    for target, words in (
        ("predict", 'predict --run="x" --data="a b.csv" --out="c d" --cache_dir=e'),
        ("export", 'export --run="x" --out="c d" --cache_dir=e'),
    ):
        dry = ["make", "-n", target, *given]
        assert words in subprocess.run(dry, capture_output=True, text=True, check=True).stdout


def test_a_process_ends_with_all_that_was_still_to_be_written(tmp_path):
    code = """
import atexit, threading, time, main
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
atexit.register(print, "registered", end="")
main._leave(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "thread\nregistered", "")
    profiler = [sys.executable, "-m", "cProfile", "-o", tmp_path / "profile", "main.py", "--help"]
    subprocess.run(profiler, capture_output=True, check=True)
    assert pstats.Stats(str(tmp_path / "profile")).total_calls > 0


@pytest.mark.slow
def test_offline_logs_hold_no_ids_or_paths(write_cohort, run_verb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    table = write_cohort(12)
    table.write_text(table.read_text().replace("\np", "\nsecretperson"))
    parts = ["--fold=0", "--data.splits.val_fraction=0.2"]
    assert run_verb("finetune", table, "fine", *parts, epochs=1) == 0
    wandb.teardown()  # W&B writes its file in a process of its own; this waits for its end
    (logged,) = (tmp_path / "fine").glob("wandb/offline-run-*/*.wandb")
    content = logged.read_bytes()
    assert b"repeat0_fold0-val/accuracy" in content
    for private in (b"secretperson", str(tmp_path).encode(), b"cohort.csv"):
        assert private not in content


@pytest.mark.slow
def test_wandb_without_a_key_is_offline_and_never_asks(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = start_wandb("auto", tmp_path, {})
    assert run.settings.mode == "offline"
    run.finish()
    assert start_wandb("disabled", tmp_path, {}) is None
