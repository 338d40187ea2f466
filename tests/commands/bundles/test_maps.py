import nibabel as nib
import numpy as np
import pytest
from people import write_people

import main
from commands.bundles.ensemble import fold_model, input_batches, open_ensemble
from commands.bundles.maps import map_names
from datamodules.scan_space import on_scan
from evaluation.predictions import read_predictions
from lightning_modules.saliency import class_map


@pytest.mark.slow
def test_predict_writes_a_map_on_each_scan_and_the_mean_of_each_class(finished_run, tmp_path):
    table = write_people(tmp_path / "new", range(100, 104), labelled=False)
    out, cache = tmp_path / "out", tmp_path / "cache"
    places = [f"--data={table}", f"--out={out}", f"--cache_dir={cache}"]
    kind = "integrated_gradients"
    assert main.main(["predict", f"--run={finished_run}", *places, f"--maps={kind}"]) == 0
    ensemble = open_ensemble(finished_run)
    cohort, predicted = (
        ensemble.cohort(str(table), str(cache)),
        read_predictions(out / "predictions.csv")["predicted"],
    )
    ((volume, _),) = input_batches(cohort, np.arange(4))
    heats = np.zeros((4, 12, 12, 12))
    for member in ensemble.members:
        fold = fold_model(ensemble, member, finished_run)
        for row, name in enumerate(predicted):
            k = ensemble.classes.index(name)
            heats[row] += class_map(fold.model, fold.scale(volume[row : row + 1]), k, kind) / 3
    for heat, scan in zip(heats, cohort.scans, strict=True):
        image, its = nib.load(out / "maps" / scan.image), nib.load(scan.path)
        np.testing.assert_allclose(image.affine, its.affine)
        assert image.shape == its.shape
        expected = on_scan(heat, scan, cohort.preprocessing).get_fdata()
        np.testing.assert_allclose(image.get_fdata(), expected, atol=1e-5)
    for name in predicted.unique():
        mean = nib.load(out / f"maps/mean_map_{name}.nii.gz").get_fdata()
        np.testing.assert_allclose(mean, heats[predicted == name].mean(0), atol=1e-5)
    report = (out / "report.md").read_text()
    assert f"({kind}, mean over the models" in report
    assert "weights in another order" in report


def test_maps_of_images_in_folders_have_names_of_their_own():
    names = [
        "a/scan.nii.gz",
        "b/scan.nii.gz",
        "../c/scan.mgz",
        "scan.hdr",
        "a_scan.nii",
        "A/scan.nii",
    ]
    made = map_names(names)
    plain = ["a_scan.nii.gz", "b_scan.nii.gz", "c_scan.nii.gz", "scan.nii.gz"]
    assert made == [*plain, "a_scan_2.nii.gz", "A_scan_3.nii.gz"]
