"""What is told before the imports that take seconds, and that right settings pass."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import main
from commands.runs.early_check import check_early, read_settings

TABLE = "--data.table=README.md"  # any file that exists
FINETUNE = ["finetune", "-cconfigs/finetune.yaml", TABLE]
PRETRAIN = ["pretrain", "-c", "configs/pretrain.yaml", TABLE]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*FINETUNE[:2], "--data.table=REDME.md"], "'REDME.md' does not exist.*'README.md'"),
        (["finetune", "-cconfigs/finetun.yaml"], "'configs/finetun.yaml'.*'finetune.yaml'"),
        ([*FINETUNE, "--init=nothing"], "INIT 'nothing' does not exist"),
        ([*FINETUNE, "--init", "nothing"], "INIT 'nothing' does not exist"),
        ([*FINETUNE, "--data.splits.path=nothing"], "SPLITS 'nothing' does not exist"),
        ([*PRETRAIN, "--data.splits_path=nothing"], "SPLITS 'nothing' does not exist"),
        ([*PRETRAIN, "--like=nothing"], "LIKE 'nothing' does not exist"),
        (["predict", "--run=nothing", "--data=README.md"], "RUN 'nothing' does not exist"),
        (["predict", "--run=docs", "--data=none.csv", "--out=x"], "RUN 'docs'|table 'none.csv'"),
        (["compare", "--runs=nothing else"], "RUNS 'nothing' does not exist"),
        ([*FINETUNE, "--runn=x"], "no setting --runn. Did you mean 'run'"),
        ([*FINETUNE, "--model.dropuot=0.3"], "no setting --model.dropuot. Did you mean 'dropout'"),
        ([*FINETUNE, "--data.splits.num_fold=3"], "Did you mean 'num_folds'"),
        ([*FINETUNE, "--model.finetuning.head_epoch=3"], "Did you mean 'head_epochs'"),
        ([*FINETUNE, "--trainer.max_epoch=3"], "Did you mean 'max_epochs'"),
        ([*PRETRAIN, "--model.nodes=3"], "no setting --model.nodes"),
        (["report", "--runn=x"], "Did you mean 'run'"),
        (["finetun"], "no verb 'finetun'. Did you mean 'finetune'"),
    ],
)
def test_what_is_misspelt_is_told_with_what_may_be_meant(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(main, "import_module", lambda _: pytest.fail("it was not told early"))
    assert main.main(arguments) == 2
    told = capsys.readouterr().err.splitlines()[0]
    assert re.search(words, told), told


def test_nothing_large_is_imported_for_it():
    code = "import sys, main; code = main.main(sys.argv[1:]); assert code == 2; "
    code += "assert not {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules)"
    command = [sys.executable, "-c", code, *FINETUNE, "--model.dropuot=1"]
    subprocess.run(command, check=True, capture_output=True)


def test_a_yaml_error_and_a_misspelt_name_in_a_file_are_told(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("data: {preprocessing: [1,\n")
    with pytest.raises(ValueError, match=r"own\.yaml is not YAML: .* line 2"):
        check_early("finetune", [*FINETUNE[1:], f"-c{own}"])
    own.write_text("data: {preprocessing: {spacing: [1, 1, 1]}}\n")
    with pytest.raises(ValueError, match=r"--data\.preprocessing\.spacing\. .*'spacing_mm'"):
        check_early("finetune", [*FINETUNE[1:], "--config", str(own)])
    own.write_text("- 1\n")
    with pytest.raises(ValueError, match=r"own\.yaml has no `name: value` pairs"):
        check_early("finetune", [f"-c={own}"])


def test_settings_of_another_class_take_the_place_of_those_before():
    shipped = ["-cconfigs/finetune.yaml", "-cconfigs/baseline.yaml", TABLE]
    check_early("finetune", [*shipped, "--model.num_slices=3"])
    check_early("finetune", [FINETUNE[1], TABLE, "--model.filters=3", "-cconfigs/baseline.yaml"])
    with pytest.raises(ValueError, match=r"--model\.filters"):
        check_early("finetune", [*shipped, "--model.filters=3"])


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_option_that_make_gives_is_known(verb):
    lines = Path("Makefile").read_text().splitlines()
    given = [re.findall(r"--([\w.]+)=", line) for line in lines if f"main.py {verb} " in line]
    names = {name for line in given for name in line} - {"data", "data.table"}
    takes_data = ("finetune", "learning_curve", "classical", "import_predictions")
    trains = dict.fromkeys(takes_data, FINETUNE)
    shipped = ({"pretrain": PRETRAIN} | trains).get(verb, [verb])
    check_early(verb, [*(f"--{name}=null" for name in names), *shipped[1:]])


def test_flags_and_files_are_read_in_their_order(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("model: {class_path: a.B, init_args: {lr: 1}}\ntrainer: {callbacks+: [x]}\n")
    read = read_settings(
        ["--model.lr=5", f"-c{own}", "--run", "x", "--anonymous", "--data.seed=-1"]
    )
    assert read == {
        "model.class_path": "a.B",
        "model.lr": 1,
        "trainer.callbacks": ["x"],
        "run": "x",
        "anonymous": "",
        "data.seed": "-1",
    }
