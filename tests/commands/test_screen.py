"""Screens through the command line, on cohorts of a few tiny scans."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from jsonargparse import Namespace

import main
from commands.runs.command_line import CommandLine
from commands.screen import ScreenOptions, probe_settings
from evaluation.predictions import read_predictions
from evaluation.screening import screen_table, screen_text


@pytest.fixture
def pretrained(write_cohort, run_verb, tmp_path):
    table = write_cohort(6, name="source", labelled=False)
    table.write_text(table.read_text().replace("\np", "\nsource-p"))
    assert run_verb("pretrain", table, "pre", "--model.norm=none", epochs=1) == 0
    return [f"--init={tmp_path / 'pre'}", "--model.norm=none"]


@pytest.mark.slow
def test_a_probe_is_what_finetune_trains_on_a_frozen_encoder(
    write_cohort, run_verb, tmp_path, pretrained
):
    table = write_cohort(13)  # folds of different lengths
    settings = ["--model.dropout=0.3", "--model.class_weights=balanced", "--model.lr=0.01"]
    settings += ["--data.sampling=balanced", "--model.finetuning.schedule=cosine", *pretrained]
    screened = ["--nodes=[0,8]", "--scale=fold"]
    assert run_verb("screen", table, "screen", *settings, *screened, epochs=4) == 0
    frozen = "--model.freeze_encoder=true"
    for name, nodes in (("linear", 0), ("mlp8", 8)):
        own = [frozen, f"--model.nodes={nodes}"]
        assert run_verb("finetune", table, name, *settings, *own, epochs=4) == 0
        for file in ("predictions.csv", "validation.csv"):
            alone = read_predictions(tmp_path / name / file)
            probe = read_predictions(tmp_path / "screen" / name / file)
            same = ["patient_id", "image", "repeat", "fold", "label"]
            pd.testing.assert_frame_equal(alone[same], probe[same])
            probs = ["prob_healthy", "prob_unhealthy"]
            np.testing.assert_allclose(alone[probs], probe[probs], atol=1e-3)  # float16
        for fold in range(3):
            (log,) = (tmp_path / name / f"repeat0_fold{fold}").glob("logs/*/metrics.csv")
            alone = pd.read_csv(log).groupby("epoch").last()
            log = tmp_path / f"screen/{name}/repeat0_fold{fold}/logs/version_0/metrics.csv"
            probe = pd.read_csv(log).set_index("epoch")
            pd.testing.assert_frame_equal(
                alone[probe.columns], probe, atol=1e-3, rtol=0, check_dtype=False
            )
    assert alone["train/loss"].iloc[-1] < alone["train/loss"].iloc[0]


@pytest.mark.slow
def test_a_screen_is_ranked_verified_compared_and_continued(
    write_cohort, run_verb, tmp_path, pretrained, capsys, monkeypatch
):
    table = write_cohort(12)
    arguments = ["--nodes=[0,4]", "--lrs=[0.01,0.1]", *pretrained]
    assert run_verb("screen", table, "screen", *arguments) == 0
    folder = tmp_path / "screen"
    assert len(list((tmp_path / "cache").glob("features-*"))) == 1  # once for all folds
    names = {"linear-lr0.01", "linear-lr0.1", "mlp4-lr0.01", "mlp4-lr0.1"}
    ranking = pd.read_csv(folder / "screen.csv")
    assert set(ranking["run"]) == names
    assert ranking["auroc"].is_monotonic_decreasing
    words = (folder / "screen.md").read_text()
    assert "The best of 4 settings on the same folds is optimistic" in words
    assert "main.py finetune -cconfigs/finetune.yaml" in words
    assert "--model.freeze_encoder" not in words
    assert (
        "MLP probe, 4 nodes, on a frozen encoder" in (folder / "mlp4-lr0.1/report.md").read_text()
    )
    _the_validation_patients_choose(folder, sorted(names))
    for name in ("linear-lr0.1", "chosen"):
        assert main.main(["verify", f"--run={folder / name}"]) == 0
    assert main.main(["compare", f"--runs={folder}", f"--run={tmp_path / 'cmp'}"]) == 0
    place = folder / "mlp4-lr0.1"
    whole = (place / "predictions.csv").read_bytes()
    shutil.rmtree(place / "repeat0_fold1")
    (place / "report.html").unlink()
    capsys.readouterr()
    assert run_verb("screen", table, "screen", *arguments) == 0
    assert capsys.readouterr().out.count("is finished already") == 4
    assert whole == (place / "predictions.csv").read_bytes()


def _the_validation_patients_choose(folder, names):
    chosen = read_predictions(folder / "chosen/predictions.csv")
    for fold in range(3):
        accuracy = {}
        for name in names:
            validation = read_predictions(folder / name / f"repeat0_fold{fold}/validation.csv")
            accuracy[name] = (validation["predicted"] == validation["label"]).mean()
        best = [name for name in names if accuracy[name] == max(accuracy.values())]
        own = chosen[chosen["fold"] == fold].reset_index(drop=True)
        tables = [
            read_predictions(folder / name / f"repeat0_fold{fold}/predictions.csv") for name in best
        ]
        assert any(own.equals(table) for table in tables)


@pytest.mark.slow
def test_the_features_are_the_encoders_outputs_on_the_scale_it_was_trained_with(
    write_cohort, run_verb, tmp_path, pretrained
):
    assert run_verb("screen", write_cohort(12), "screen", "--nodes=[0]", *pretrained) == 0
    (file,) = (tmp_path / "cache").glob("features-*/*.npy")
    (volumes,) = [
        path
        for path in (tmp_path / "cache").glob("volumes-*/*.npy")
        if len(np.load(path, mmap_mode="r")) == 12
    ]
    (bank,) = (tmp_path / "cache").glob("bank-*/*.npy")
    checkpoint = torch.load(tmp_path / "pre/best.ckpt", weights_only=True)
    scale = checkpoint["PatchDataModule"]["intensity"]
    weights = checkpoint["state_dict"]

    def encode(stored):  # (V, 1, D, W, H)
        volume = torch.from_numpy(stored.astype(np.float32)).permute(0, 1, 3, 4, 2)
        latent = (volume - scale["mean"]) / scale["divisor"]
        for level in range(2):
            kernel, bias = (weights[f"encoder.{level}.0.{name}"] for name in ("weight", "bias"))
            latent = torch.nn.functional.conv3d(latent, kernel, bias, padding=1).relu()
            latent = torch.nn.functional.max_pool3d(latent, 2, ceil_mode=True)
        return latent.flatten(1).numpy()

    features, plain, versions = np.load(file), np.load(volumes), np.load(bank)
    assert features.shape == (12, 3, 4 * 3**3)
    for row in range(12):
        stored = np.concatenate([plain[row][None], versions[row]])
        np.testing.assert_allclose(features[row], encode(stored), rtol=2e-3, atol=2e-4)


def test_what_a_screen_cannot_do_is_said(write_cohort):
    table = f"--data.table={write_cohort(6)}"
    shape = "--data.preprocessing.spatial_shape=[12,12,12]"
    arguments = ["-cconfigs/finetune.yaml", table, shape]
    cli = CommandLine("screen", arguments, options=ScreenOptions)
    plain = cli.config
    stopping = Namespace(class_path="lightning.pytorch.callbacks.EarlyStopping")
    for key, value, words in (
        ("fold", 1, "drop FOLD, REPEAT"),
        ("scale", "init", "say INIT="),
        ("model.init_args.mixup", 0.4, "drop --model.mixup"),
        ("data.init_args.augmentation.mode", "fresh", "mode=bank, or none"),
        ("trainer.callbacks", [stopping], "drop EarlyStopping"),
        ("trainer.gradient_clip_val", 1.0, "not trained with trainer.gradient_clip_val"),
        ("model.class_path", "lightning_modules.imagenet_baseline.ImageNetBaseline", "make rivals"),
        ("model.init_args.backbone", "resnet18", "is one linear layer: drop --nodes"),
    ):
        cli.config = plain.clone()
        cli.config["nodes"] = [16]
        cli.config[key] = value
        with pytest.raises(ValueError, match=words):
            probe_settings(cli)


def test_settings_are_named_by_what_differs(write_cohort):
    arguments = ["-cconfigs/finetune.yaml", f"--data.table={write_cohort(6)}"]
    arguments += ["--data.preprocessing.spatial_shape=[12,12,12]", "--lrs=[1e-3,1e-4]"]
    cli = CommandLine("screen", [*arguments, "--nodes=[0,16]"], options=ScreenOptions)
    settings = probe_settings(cli)
    names = ["linear-lr0.001", "linear-lr0.0001", "mlp16-lr0.001", "mlp16-lr0.0001"]
    assert list(settings) == names
    assert settings["mlp16-lr0.0001"] == {
        "nodes": 16,
        "lr": 1e-4,
        "weight_decay": 0.01,
        "dropout": 0.3,
    }


def _metrics(auroc, balanced):
    figures = {"auroc": auroc, "balanced_accuracy": balanced}
    interval = {"auroc": [auroc - 0.1, auroc + 0.1]}
    return {"mean": figures, "sd": figures, "interval_95": interval, "protocol": "paper"}


def test_settings_are_ranked_by_auroc_then_by_balanced_accuracy():
    figures = {"a": (0.6, 0.6), "b": (0.7, 0.5), "c": (0.7, 0.6)}
    metrics = {name: _metrics(*pair) for name, pair in figures.items()}
    table = screen_table({name: {"nodes": 0} for name in figures}, metrics)
    assert table["run"].tolist() == ["c", "b", "a"]
    words = screen_text(table, metrics["a"], "the command")
    assert "AUROC 0.600 (95 % interval 0.500 to 0.700)" in words
    assert "By protocol `paper` these are the test patients" in words
    assert "the command" in words
    assert "optimistic" not in screen_text(table[:1], None, "the command")
    assert json.loads(table.to_json(orient="records"))[0]["nodes"] == 0
