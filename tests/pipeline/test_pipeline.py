"""The main job through the command line, on cohorts of a few tiny scans."""

import json
import shutil

import pandas as pd
import pytest
import torch
import yaml
from lightning import Trainer

import main
from evaluation.predictions import read_predictions


@pytest.fixture
def pretrained(write_cohort, run_verb, tmp_path):
    table = write_cohort(6, name="source", labelled=False)
    # patients of another hospital: their ids must not look like the target's
    table.write_text(table.read_text().replace("\np", "\nsource-p"))
    assert run_verb("pretrain", table, "pre") == 0
    return tmp_path / "pre"


def test_a_cohort_table_becomes_ranked_out_of_fold_predictions(
    write_cohort, run_verb, pretrained, tmp_path, capsys
):
    table = write_cohort(12)
    validating = "--data.splits.val_fraction=0.2"
    assert run_verb("finetune", table, "fine", f"--init={pretrained}", validating, epochs=3) == 0
    out = capsys.readouterr().out
    assert "'unhealthy' counts as positive" in out
    run = tmp_path / "fine"
    predictions = read_predictions(run / "predictions.csv")
    assert sorted(predictions["patient_id"]) == [f"p{n:02d}" for n in range(12)]
    splits = pd.read_csv(run / "splits.csv")
    assert list(splits.columns) == ["repeat", "fold", "patient_id", "part"]
    tested = splits[splits["part"] == "test"].set_index("patient_id")["fold"]
    assert tested.loc[predictions["patient_id"]].tolist() == predictions["fold"].tolist()
    validation = read_predictions(run / "validation.csv")
    assert list(validation.columns) == list(predictions.columns)
    chosen = splits[splits["part"] == "val"]
    pairs = sorted(zip(validation["fold"], validation["patient_id"], strict=True))
    assert pairs == sorted(zip(chosen["fold"], chosen["patient_id"], strict=True))
    ranking = pd.read_csv(run / "ranking.csv")
    assert ranking["confidence"].is_monotonic_increasing
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_patients"] == 12
    assert 0 <= metrics["mean"]["auroc"] <= 1
    facts = json.loads((run / "run.json").read_text())
    for key in ("command", "commit", "versions", "seed", "data_hash", "wall_time_s"):
        assert key in facts
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["num_classes"] == 2
    report = (run / "report.md").read_text()
    for picture in ("roc", "confusion", "accuracy_by_coverage", "learning_curves"):
        assert (run / f"{picture}.png").stat().st_size > 1000
        assert f"({picture}.png)" in report
    assert (pretrained / "pictures" / "epoch_01.png").is_file()


@pytest.mark.slow
def test_the_classifier_starts_from_the_pretrained_encoder(
    write_cohort, run_verb, pretrained, tmp_path
):
    table = write_cohort(12)
    frozen = ["--model.freeze_encoder=true", "--fold=0"]
    assert run_verb("finetune", table, "fine", f"--init={pretrained}", *frozen) == 0
    source = torch.load(pretrained / "best.ckpt", weights_only=True)
    target = torch.load(tmp_path / "fine/repeat0_fold0/best.ckpt", weights_only=True)
    names = [name for name in target["state_dict"] if name.startswith("encoder.")]
    assert len(names) == 2 * (2 + 5), "two convolutions and their norms"
    for name in names:
        # an average of equal weights is equal but for rounding
        torch.testing.assert_close(target["state_dict"][name], source["state_dict"][name])
    splits = pd.read_csv(tmp_path / "fine/splits.csv").query("fold == 0 and part != 'test'")
    assert set(target["seen_patients"]) == set(splits["patient_id"]) | set(source["seen_patients"])
    assert all(patient.startswith("source-") for patient in source["seen_patients"])


@pytest.mark.slow
def test_what_a_run_needs_is_there_whatever_callbacks_are_configured(
    write_cohort, run_verb, tmp_path
):
    (tmp_path / "none.yaml").write_text("trainer: {callbacks: []}")
    none = f"-c{tmp_path / 'none.yaml'}"
    assert run_verb("finetune", write_cohort(12), "fine", none, "--fold=0", epochs=1) == 0
    fold = tmp_path / "fine/repeat0_fold0"
    assert len(read_predictions(fold / "predictions.csv")) == 4
    splits = pd.read_csv(tmp_path / "fine/splits.csv").query("fold == 0 and part != 'test'")
    checkpoint = torch.load(fold / "best.ckpt", weights_only=True)
    assert checkpoint["seen_patients"] == sorted(splits["patient_id"])


@pytest.mark.slow
def test_an_encoder_that_has_met_the_patients_is_refused(write_cohort, run_verb, capsys, tmp_path):
    table = write_cohort(12)
    assert run_verb("pretrain", table, "pre") == 0
    assert run_verb("finetune", table, "fine", f"--init={tmp_path / 'pre'}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was pretrained on" in error
    assert "p0" in error


@pytest.mark.slow
def test_an_encoder_of_each_fold_meets_its_training_patients_alone(
    write_cohort, run_verb, tmp_path
):
    table = write_cohort(12)
    assert run_verb("finetune", table, "random") == 0
    splits = f"--data.splits_path={tmp_path / 'random'}"
    assert run_verb("pretrain", table, "pre", splits, epochs=1) == 0
    assert run_verb("finetune", table, "fine", f"--init={tmp_path / 'pre'}") == 0
    (tmp_path / "pre/repeat0_fold0/finished.json").unlink()
    assert run_verb("finetune", table, "alone", f"--init={tmp_path / 'pre'}", "--fold=2") == 0
    for fold in range(3):
        name = f"repeat0_fold{fold}"
        seen = torch.load(tmp_path / "pre" / name / "best.ckpt", weights_only=True)["seen_patients"]
        table = pd.read_csv(tmp_path / "fine/splits.csv").query(f"fold == {fold}")
        assert set(seen) == set(table.query("part == 'train'")["patient_id"])
    random = pd.read_csv(tmp_path / "random/splits.csv")
    assert random.equals(pd.read_csv(tmp_path / "fine/splits.csv"))


class _Killed(BaseException):
    pass


def _kill_at(monkeypatch, fold_run, epoch, hook):
    """Let the training die in a hook of the given epoch of the given fold run."""
    from callbacks.best_checkpoint import BestValidationCheckpoint

    original = getattr(BestValidationCheckpoint, hook)

    def die(self, trainer, module):
        if trainer.current_epoch == epoch and trainer.default_root_dir.endswith(fold_run):
            raise _Killed
        original(self, trainer, module)

    monkeypatch.setattr(BestValidationCheckpoint, hook, die)


@pytest.mark.parametrize(
    ("fold_run", "epoch", "hook", "validates"),
    [
        pytest.param("repeat0_fold1", 2, "on_train_epoch_end", False, marks=pytest.mark.slow),
        pytest.param("repeat0_fold0", 0, "on_validation_end", True, marks=pytest.mark.slow),
        pytest.param("repeat0_fold1", 2, "on_validation_end", True, marks=pytest.mark.slow),
        pytest.param("repeat0_fold2", 3, "on_train_epoch_end", True, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_finetune_continues_to_the_same_predictions(
    write_cohort, run_verb, tmp_path, monkeypatch, fold_run, epoch, hook, validates
):
    table = write_cohort(12)
    settings = ["--model.dropout=0.3", "--model.mixup=0.4", "--model.class_weights=balanced"]
    settings += ["--data.sampling=balanced", "--trainer.deterministic=true"]
    strategy = {"head_epochs": 1, "layer_decay": 0.5, "schedule": "cosine", "warmup_epochs": 0.5}
    settings += [f"--model.finetuning.{name}={value}" for name, value in strategy.items()]
    settings += ["--data.splits.val_fraction=0.2"] * validates
    assert run_verb("finetune", table, "whole", *settings, epochs=4) == 0
    with monkeypatch.context() as patch:
        _kill_at(patch, fold_run, epoch, hook)
        with pytest.raises(_Killed):
            run_verb("finetune", table, "broken", *settings, epochs=4)
    assert not (tmp_path / "broken/predictions.csv").exists()
    assert run_verb("finetune", table, "broken", *settings, epochs=4) == 0
    for name in ("predictions.csv", "splits.csv", "repeat0_fold1/reference.json"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "broken" / name).read_bytes() == whole


@pytest.mark.slow
def test_early_stopping_of_a_users_yaml_ends_a_fold_before_its_last_epoch(
    write_cohort, run_verb, tmp_path
):
    own = tmp_path / "own.yaml"
    own.write_text(
        "trainer:\n  callbacks+:\n    - class_path: lightning.pytorch.callbacks.EarlyStopping\n"
        "      init_args: {monitor: val/loss, patience: 1, min_delta: 10}\n"
    )
    parts = ["--fold=0", "--data.splits.val_fraction=0.2"]
    assert run_verb("finetune", write_cohort(12), "run", f"-c{own}", *parts, epochs=9) == 0
    (log,) = tmp_path.glob("run/repeat0_fold0/logs/*/metrics.csv")
    assert pd.read_csv(log)["epoch"].max() == 1
    assert (tmp_path / "run/repeat0_fold0/predictions.csv").is_file()


@pytest.mark.slow
def test_an_interrupted_pretraining_ends_with_the_same_weights(
    write_cohort, run_verb, tmp_path, monkeypatch
):
    table = write_cohort(6, labelled=False)
    noisy = "--model.noise_std=0.1"
    assert run_verb("pretrain", table, "whole", noisy, epochs=4) == 0
    with monkeypatch.context() as patch:
        _kill_at(patch, "broken", 2, "on_train_epoch_end")
        with pytest.raises(_Killed):
            run_verb("pretrain", table, "broken", noisy, epochs=4)
    assert run_verb("pretrain", table, "broken", noisy, epochs=4) == 0
    whole, broken = (
        torch.load(tmp_path / name / "best.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


@pytest.mark.slow
def test_a_rerun_trains_nothing_again(write_cohort, run_verb, tmp_path, capsys, monkeypatch):
    table = write_cohort(12)
    assert run_verb("finetune", table, "fine") == 0
    before = (tmp_path / "fine/predictions.csv").read_bytes()
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert run_verb("finetune", table, "fine") == 0
    assert "3 of 3 folds are finished already" in capsys.readouterr().out
    assert (tmp_path / "fine/predictions.csv").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_gradients_are_clipped_in_mixed_precision_as_well(
    write_cohort, run_verb, verb, monkeypatch
):
    clipped = []
    original = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *given: clipped.append(original(*given))
    )
    mixed = ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=0.5"]
    assert run_verb(verb, write_cohort(9), "run", *mixed, epochs=1) == 0
    assert clipped


@pytest.mark.slow
def test_folds_can_be_run_one_at_a_time(write_cohort, run_verb, tmp_path, capsys):
    table = write_cohort(12)
    for fold in range(3):
        assert not (tmp_path / "single/predictions.csv").exists()
        assert run_verb("finetune", table, "single", f"--fold={fold}") == 0
    assert "1 of 3 folds remain" in capsys.readouterr().out
    assert run_verb("finetune", table, "whole") == 0
    single = (tmp_path / "single/predictions.csv").read_bytes()
    assert single == (tmp_path / "whole/predictions.csv").read_bytes()


@pytest.mark.slow
def test_a_run_is_not_mixed_with_other_settings_or_data(
    write_cohort, write_scan, run_verb, capsys, tmp_path
):
    table = write_cohort(12)
    assert run_verb("finetune", table, "fine", "--fold=0") == 0
    assert run_verb("finetune", table, "fine", "--model.lr=0.5") == 2
    assert "model.init_args.lr: 0.001 there, 0.5 here" in capsys.readouterr().err
    write_scan("cohort/p00_0.nii.gz", seed=77)
    assert run_verb("finetune", table, "fine") == 2
    assert "data_hash" in capsys.readouterr().err


@pytest.mark.slow
def test_splits_of_another_run_are_used_as_they_are(write_cohort, run_verb, tmp_path):
    table = write_cohort(12)
    assert run_verb("finetune", table, "one", "--data.splits.seed=5") == 0
    assert run_verb("finetune", table, "two", f"--data.splits.path={tmp_path / 'one'}") == 0
    one, two = ((tmp_path / run / "splits.csv").read_bytes() for run in ("one", "two"))
    assert one == two


@pytest.mark.slow
def test_the_paper_protocol_is_labelled_in_every_output(write_cohort, run_verb, tmp_path, capsys):
    table = write_cohort(12)
    assert run_verb("finetune", table, "paper", "--data.splits.protocol=paper") == 0
    assert "(optimistic: protocol paper)" in capsys.readouterr().out
    run = tmp_path / "paper"
    for name in ("report.md", "report.html"):
        assert "Optimistic:" in (run / name).read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocol"] == "paper"
    assert f"the accuracy is {metrics['optimism']:.3f} higher" in (run / "report.md").read_text()
    shutil.copytree(run, tmp_path / "again")
    runs = f"--runs={run} {tmp_path / 'again'}"
    assert main.main(["compare", runs, f"--run={tmp_path / 'compare'}"]) == 0
    assert "Optimistic:" in (tmp_path / "compare" / "report.md").read_text()
    assert set(pd.read_csv(run / "splits.csv")["part"]) == {"train", "test"}
    assert not list(run.rglob("validation.csv"))


@pytest.mark.slow
def test_three_classes_and_leave_one_patient_out(write_cohort, run_verb, tmp_path):
    table = write_cohort(9)
    lines = table.read_text().splitlines()
    relabelled = [
        line.rsplit(",", 1)[0] + f",grade{row % 3}" if row else line
        for row, line in enumerate(lines)
    ]
    table.write_text("\n".join(relabelled))
    scheme = "--data.splits.scheme=leave-one-patient-out"
    assert run_verb("finetune", table, "grades", scheme, epochs=1) == 0
    predictions = read_predictions(tmp_path / "grades/predictions.csv")
    assert [name for name in predictions if name.startswith("prob_")] == [
        "prob_grade0",
        "prob_grade1",
        "prob_grade2",
    ]
    assert predictions["fold"].tolist() == list(range(9))
    metrics = json.loads((tmp_path / "grades/metrics.json").read_text())
    assert set(metrics["repeats"][0]["per_class"]) == {"grade0", "grade1", "grade2"}


@pytest.mark.slow
def test_without_a_plan_the_fingerprint_makes_one_that_can_be_pinned(
    write_cohort, run_verb, tmp_path
):
    table = write_cohort(12)
    own = tmp_path / "own.yaml"
    own.write_text("data: {preprocessing: {spatial_shape: null}}\n")
    assert run_verb("finetune", table, "planned", f"-c{own}", epochs=1) == 0
    config = yaml.safe_load((tmp_path / "planned/config.yaml").read_text())
    preprocessing = config["data"]["init_args"]["preprocessing"]
    assert preprocessing["spatial_shape"] == [12, 12, 12]
    assert preprocessing["spacing_mm"] == [1.0, 1.0, 1.0]
    pinned = f"-c{tmp_path / 'planned/config.yaml'}"
    assert run_verb("finetune", table, "pinned", pinned, epochs=1) == 0
    planned = (tmp_path / "planned/predictions.csv").read_bytes()
    assert (tmp_path / "pinned/predictions.csv").read_bytes() == planned
