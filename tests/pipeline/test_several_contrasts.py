"""Rows of several contrasts, a mask and covariates, from the command line to new patients."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import main
from commands.bundles.scan_prediction import predict_scan
from evaluation.predictions import read_predictions

SHAPE = (12, 12, 12)
CONTRASTS = "--data.contrasts=[t1,flair]"
QUICK = ("--data.augmentation.mode=none", "--data.splits.num_folds=3")
PLACES = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij"), -1)


def _write(path, voxels):
    image = nib.Nifti1Image(np.asarray(voxels, np.float32), np.diag([8.0, 8.0, 8.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


@pytest.fixture(scope="module")
def combined(tmp_path_factory):
    """Patients who are unhealthy if one of two contrasts shows a blob, but not both; old if so."""
    folder, rng = tmp_path_factory.mktemp("combined"), np.random.default_rng(0)
    lines = ["patient_id,image_t1,image_flair,mask,label,age"]
    for patient in range(60):
        shows = bool(patient & 1), bool(patient & 2)
        inside = np.square(PLACES / rng.uniform(0.8, 0.95, 3)).sum(-1) < 1
        blob = np.square(PLACES - rng.uniform(-0.2, 0.2, 3)).sum(-1) < 0.15
        names = [f"p{patient:02d}_{kind}.nii.gz" for kind in ("t1", "flair", "mask")]
        for name, base, shown in zip(names, (500, 300), shows, strict=False):
            air = rng.normal(10, 3, SHAPE)
            voxels = np.where(inside, base + rng.normal(0, 20, SHAPE), air)
            _write(folder / name, voxels + shown * base * blob)
        _write(folder / names[2], blob)
        unhealthy = shows[0] != shows[1]
        age = rng.normal(60 if unhealthy else 40, 5)
        label = "unhealthy" if unhealthy else "healthy"
        lines.append(",".join([f"p{patient:02d}", *names, label, f"{age:.0f}"]))
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


def _auroc(folder):
    return json.loads((folder / "metrics.json").read_text())["mean"]["auroc"]


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["channels", "encoders"])
def test_what_only_two_contrasts_together_tell_is_learned(combined, run_verb, tmp_path, fusion):
    flags = (CONTRASTS, *QUICK, f"--model.fusion={fusion}", "--model.contrast_dropout=0")
    flags += ("--model.filters=16", "--model.nodes=32", "--model.lr=0.003")
    assert run_verb("finetune", combined, "both", *flags, epochs=40) == 0
    assert _auroc(tmp_path / "both") >= 0.95


@pytest.mark.slow
def test_one_contrast_alone_is_at_chance_and_its_columns_are_told(
    combined, run_verb, tmp_path, capsys
):
    flags = ("--data.columns.image=image_t1", *QUICK)
    assert run_verb("finetune", combined, "one", *flags, epochs=30) == 0
    assert "nothing reads: image_flair, mask.\n" in capsys.readouterr().out.replace(", age", "")
    assert _auroc(tmp_path / "one") < 0.7


@pytest.mark.slow
def test_a_run_with_all_of_a_row_is_predicted_exported_checked_and_reported(
    combined, run_verb, tmp_path, capsys
):
    table = pd.read_csv(combined, dtype=str)
    table.loc[::4, "image_flair"] = ""  # some lack a contrast, one an age
    table.loc[1, "age"] = "n/a"
    for name in ("image_t1", "image_flair", "mask"):
        paths = table[name].map(lambda cell: cell and str(combined.parent / cell))
        table[name] = paths
    table.to_csv(tmp_path / "cohort.csv", index=False)
    inputs = (CONTRASTS, "--data.covariates=[age]", "--data.preprocessing.roi_margin_mm=16")
    refused = run_verb("finetune", tmp_path / "cohort.csv", "channels", *inputs, *QUICK)
    assert refused == 2
    assert "15 of 60 scans lack a contrast (rows 2, 6, 10," in capsys.readouterr().err
    encoders = "--model.fusion=encoders"
    assert run_verb("finetune", tmp_path / "cohort.csv", "all", *inputs, *QUICK, encoders) == 0
    assert "that nothing reads" not in capsys.readouterr().out
    run, cache = tmp_path / "all", f"--cache_dir={tmp_path / 'cache'}"
    page = (run / "report.html").read_text()
    assert page.count("data:image/webp") == 60 + 2  # scans, and the mean map of each class
    new = tmp_path / "new.csv"
    table.head(6).assign(patient_id=lambda rows: "n" + rows["patient_id"]).to_csv(new, index=False)
    assert main.main(["export", f"--run={run}", f"--out={tmp_path / 'bundle'}", cache]) == 0
    for source in ("all", "bundle"):
        flags = [
            f"--run={tmp_path / source}",
            f"--data={new}",
            f"--out={tmp_path / f'{source}-out'}",
        ]
        assert main.main(["predict", *flags, cache]) == 0
    ours, theirs = (
        read_predictions(tmp_path / f"{source}-out/predictions.csv") for source in ("all", "bundle")
    )
    np.testing.assert_allclose(ours["prob_unhealthy"], theirs["prob_unhealthy"], atol=1e-6)
    first = table.iloc[0]
    probs = predict_scan([first["image_t1"], None], run, {"age": first["age"]}, first["mask"])
    assert probs["unhealthy"] == pytest.approx(ours["prob_unhealthy"][0], abs=1e-5)
    with pytest.raises(ValueError, match="has no column 'age', which is a covariate"):
        predict_scan([first["image_t1"], None], run, mask=first["mask"])
    with pytest.raises(ValueError, match="trained on t1, flair; 1 images are given"):
        predict_scan(first["image_t1"], run)
    for verb in (["verify"], ["sanity", "--random_labels=false"], ["report"]):
        assert main.main([verb[0], f"--run={run}", *verb[1:]]) == 0
    assert "Is the label in the mask's volume?" in capsys.readouterr().out


@pytest.mark.slow
def test_covariates_reach_the_head_and_a_comparison_tells_what_the_image_adds(
    combined, run_verb, tmp_path, capsys
):
    flags = ("--data.columns.image=image_t1", "--data.covariates=[age]", *QUICK)
    assert run_verb("finetune", combined, "age", *flags, epochs=60) == 0
    assert _auroc(tmp_path / "age") > 0.9
    methods = "--methods=[covariates,mask-features,logistic-regression]"
    assert run_verb("classical", combined, "classical", *flags, methods) == 0
    assert _auroc(tmp_path / "classical/covariates") > 0.95
    assert (tmp_path / "classical/mask-features/report.html").is_file()
    names = f"--runs={tmp_path / 'classical/covariates'} {tmp_path / 'age'}"
    assert main.main(["compare", names, f"--run={tmp_path / 'compared'}"]) == 0
    words = "The image adds nothing to age that could be told from chance"
    assert words in capsys.readouterr().out
    assert words in (tmp_path / "compared/report.md").read_text()
