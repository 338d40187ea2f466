"""INIT's scans and the cohort's are compared, and LIKE makes them alike."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

import main
from commands.pretrain import PretrainOptions
from commands.runs.init_match import as_prepared, compare
from commands.runs.prepare import prepare
from commands.runs.pretrain_target import read_target, target_settings, with_target
from datamodules.cohort import Cohort
from datamodules.fingerprint import Fingerprint, voxel_size_mm
from datamodules.preprocessing import Preprocessing
from datamodules.reading.cohort_table import Columns

HERE = {
    "spacing_mm": [1.0, 1.0, 3.0],
    "spatial_shape": [72, 72, 32],
    "fit": "crop_or_pad",
    "window_percentiles": [0.5, 99.5],
    "divide_by": "sd",
    "voxel_budget": 64_000,
    "voxel_mm": [1.0, 1.0, 3.0],
}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"voxel_mm": (1.2, 1.0, 3.5), "spatial_shape": [9, 9, 9], "voxel_budget": None}, None),
        ({"voxel_mm": (1.0, 1.0, 4.0)}, "voxels 1.33 times as long along an axis"),
        ({"voxel_mm": (0.7, 1.0, 3.0)}, "voxels 1.43 times as long along an axis"),
        ({"window_percentiles": [2.5, 97.5]}, "window_percentiles 2.5–97.5 there, 0.5–99.5 here"),
        ({"window_percentiles": None}, "window_percentiles none there, 0.5–99.5 here"),
        ({"divide_by": "range"}, "divide_by range there, sd here"),
        ({"fit": "resize"}, "fit resize there, crop_or_pad here"),
    ],
)
def test_what_differs_enough_to_matter_is_warned_of(there, words):
    lines = compare("collection", HERE | there, HERE, "runs/knees")
    assert lines[0].startswith("INIT collection saw ")
    assert "; this run sees 1 × 1 × 3 mm, fit crop_or_pad, window_percentiles 0.5–99.5" in lines[0]
    assert len(lines) == (1 if words is None else 2)
    if words is not None:
        assert lines[1].startswith("warning: INIT collection was pretrained on scans prepared in")
        assert words in lines[1]
        assert "LIKE=runs/knees" in lines[1]


def test_settings_that_come_later_are_compared_as_well():
    new = HERE | {"window_over": "foreground"}
    (_, warning) = compare("a", HERE | {"window_over": "everything"}, new, "b")
    assert "window_over everything there, foreground here" in warning
    assert len(compare("a", HERE, new, "b")) == 1  # INIT is older than the setting


def test_unknown_voxel_sizes_are_told_and_not_compared():
    (line,) = compare("a", HERE | {"voxel_mm": None}, HERE, "b")
    assert "INIT a saw unknown voxel size, fit" in line
    assert line.endswith("The voxel size of INIT a is unknown: it is not compared.")
    (line,) = compare("a", HERE | {"voxel_mm": None}, HERE | {"voxel_mm": None}, "b")
    assert line.endswith("The voxel size of INIT a and this run is unknown: it is not compared.")


def test_checkpoints_of_older_versions_are_compared_by_their_spacing():
    settings = {name: value for name, value in HERE.items() if name != "voxel_mm"}
    assert as_prepared({"preprocessing": settings})["voxel_mm"] == (1.0, 1.0, 3.0)
    assert as_prepared({"preprocessing": settings})["window_over"] == "everything"
    assert as_prepared({"preprocessing": settings | {"fit": "resize"}})["voxel_mm"] is None
    assert as_prepared({"preprocessing": settings, "voxel_mm": (2, 2, 2)})["voxel_mm"] == (2, 2, 2)


@pytest.fixture
def cohort(tmp_path):
    """Return a function that writes three scans and plans them."""

    def write(shape, mm, settings=Preprocessing(), unit="mm"):
        lines = ["patient_id,image"]
        for number in range(3):
            voxels = np.random.default_rng(number).random(shape, dtype=np.float32)
            image = nib.Nifti1Image(voxels, np.diag([*mm, 1]))
            if unit:
                image.header.set_xyzt_units(unit)
            nib.save(image, tmp_path / f"{number}.nii")
            lines.append(f"p{number},{number}.nii")
        (tmp_path / "table.csv").write_text("\n".join(lines))
        planned = Cohort(str(tmp_path / "table.csv"), Columns(), settings, str(tmp_path))
        planned.plan()
        return planned

    return write


def test_the_voxel_size_of_prepared_scans_is_known_where_it_follows_from_theirs(cohort):
    assert cohort((10, 12, 8), (2, 2, 3)).voxel_mm == (2, 2, 3)
    resized = Preprocessing(fit="resize", spatial_shape=(5, 6, 8))
    assert cohort((10, 12, 8), (2, 2, 3), resized).voxel_mm == (4, 4, 3)
    own = Preprocessing(spatial_shape=(5, 6, 8), fit="crop_or_pad")
    assert cohort((10, 12, 8), (2, 2, 3), own).voxel_mm == (2, 2, 3)


def test_placeholders_are_no_voxel_size():
    shapes = np.array([[10, 12, depth] for depth in range(8, 48, 4)])
    ones, known = np.ones(shapes.shape), np.ones(len(shapes), dtype=bool)
    resized = Preprocessing(fit="resize", spatial_shape=(5, 6, 8))
    assert voxel_size_mm(Fingerprint(shapes, ones, known, known), resized) is None
    assert voxel_size_mm(Fingerprint(shapes, ones, ~known, ~known), resized) is None
    most = known & (shapes[:, 2] > 8)  # the first scan gets the median of the others
    assert voxel_size_mm(Fingerprint(shapes, 2 * ones, most, ~known), resized) == (4, 4, 6.5)


def test_like_takes_the_voxel_size_in_mm_and_leaves_the_shape_to_the_collection():
    taken = target_settings(HERE | {"assume_orientation": "LPS"})
    assert taken["spacing_mm"] == [1.0, 1.0, 3.0]
    assert taken["spatial_shape"] is None
    assert taken["divide_by"] == "sd"
    assert "assume_orientation" not in taken
    resized = target_settings(HERE | {"fit": "resize", "spacing_mm": None})
    assert resized["spatial_shape"] == [72, 72, 32]


def test_like_comes_behind_the_shipped_yaml_and_before_the_users_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        Path(name).write_text("{}")
    run = tmp_path / "run"
    run.mkdir()
    config = {"data": {"init_args": {"preprocessing": HERE | {"window_over": "everything"}}}}
    del config["data"]["init_args"]["preprocessing"]["voxel_mm"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for shipped in (["-ca.yaml"], ["-c", "a.yaml"], ["--config=a.yaml"]):
        rest = ["-cb.yaml", "--x=1", f"--like={run}"]
        given = with_target([*shipped, *rest])
        assert [*given[: len(shipped)], *given[len(shipped) + 2 :]] == [*shipped, *rest]
        flag, taken = given[len(shipped) :][:2]
        assert flag == "-c"
        assert (
            json.loads(taken)["data"]["preprocessing"]
            | {
                "spacing_mm": [1, 1, 3],
                "spatial_shape": None,
                "window_over": "everything",
            }
            == json.loads(taken)["data"]["preprocessing"]
        )
    assert with_target(["-ca.yaml", "--x=1"]) == ["-ca.yaml", "--x=1"]
    Path("b.yaml").write_text(f"like: {run}")
    given = with_target(["-ca.yaml", "-cb.yaml"])
    assert json.loads(given[2])["data"]["preprocessing"]["spacing_mm"] == [1, 1, 3]
    with pytest.raises(ValueError, match=r"LIKE 'nothing' is neither a run nor a cohort table"):
        read_target("nothing")


def test_a_pretraining_like_a_cohort_table_is_planned_at_its_voxel_size(cohort, write_cohort):
    target = cohort((16, 16, 16), (1, 1, 3))
    collection = write_cohort(6, name="collection", labelled=False)
    arguments = ["-cconfigs/pretrain.yaml", f"--data.table={collection}", f"--like={target.table}"]
    own = [*arguments, "--data.preprocessing.divide_by=range"]
    run = prepare("pretrain", with_target(own), PretrainOptions)
    planned = run.data.cohort.preprocessing
    assert planned.spacing_mm == (1, 1, 3)
    assert planned.spatial_shape == (12, 12, 4)  # the collection's 12³ mm
    assert planned.window_percentiles == target.preprocessing.window_percentiles
    assert planned.divide_by == "range"


@pytest.mark.slow
def test_a_mismatch_is_said_at_the_start_and_like_removes_it(
    write_cohort, run_verb, tmp_path, capsys
):
    table = write_cohort(12)
    collection = write_cohort(6, name="collection", labelled=False)
    collection.write_text(collection.read_text().replace("\np", "\nother-p"))
    target = ["--data.preprocessing.spacing_mm=[2,2,2]", "--fold=0"]
    assert run_verb("pretrain", collection, "a", epochs=1) == 0
    assert run_verb("finetune", table, "fine", f"--init={tmp_path / 'a'}", *target, epochs=1) == 0
    said = capsys.readouterr().out
    assert "saw 1 × 1 × 1 mm" in said
    assert "this run sees 2 × 2 × 2 mm" in said
    assert "voxels 2.00 times as long along an axis" in said
    like = [
        "pretrain",
        "-cconfigs/pretrain.yaml",
        f"--data.table={collection}",
        f"--data.cache_dir={tmp_path / 'cache'}",
        f"--run={tmp_path / 'b'}",
        f"--like={tmp_path / 'fine'}",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--model.filters=4",
        "--model.depth=2",
        "--data.patches_per_volume=20",
        "--data.val_patches_per_volume=10",
    ]
    assert main.main(like) == 0
    assert main.main(like) == 0  # the same command continues
    capsys.readouterr()
    assert run_verb("finetune", table, "new", f"--init={tmp_path / 'b'}", *target, epochs=1) == 0
    said = capsys.readouterr().out
    assert "saw 2 × 2 × 2 mm" in said
    assert "prepared in another way" not in said
    state = torch.load(tmp_path / "b/best.ckpt", weights_only=True)["PatchDataModule"]
    assert tuple(state["voxel_mm"]) == (2, 2, 2)
