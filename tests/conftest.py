"""Small cohorts on disk, and the command line in this process."""

import atexit
import gc
import os
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from jaxtyping import install_import_hook

SHAPE = (12, 12, 12)
ROOT = Path(__file__).parents[1]
gc.disable()  # until all is collected, as main.py does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
# where a shape is annotated, it and all types of that file are checked at every call
install_import_hook(
    [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("datamodules", "evaluation", "lightning_modules")
        for path in (ROOT / room).rglob("*.py")
        if "from jaxtyping import" in path.read_text(encoding="utf-8")
    ],
    "type_checker.checked",
)
# what takes seconds to import is imported by fixtures: the process that only hands out tests
# needs none of it


def pytest_collection_modifyitems(items):
    """Begin with the test that takes a minute: were it the last, all but one would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_torchrun.py")


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def _own_signal_handlers():
    from callbacks.stop_signals import EXIT_CODES

    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def write_scan(tmp_path):
    """Return a function that writes random or given voxels as NIfTI."""

    def write(name="scan.nii.gz", voxels=None, affine=None, seed=0, unit="mm", shape=SHAPE):
        if voxels is None:
            voxels = np.random.default_rng(seed).random(shape, dtype=np.float32)
        image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
        if unit:
            image.header.set_xyzt_units(unit)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
        return path

    return write


@pytest.fixture
def write_cohort(tmp_path, write_scan):
    """Return a function that writes a cohort; unhealthy scans have a bright cube in the middle."""

    def write(num_patients=10, scans_per_patient=1, name="cohort", labelled=True):
        lines = ["patient_id,image" + ",label" * labelled]
        for patient in range(num_patients):
            for visit in range(scans_per_patient):
                place = () if name == "cohort" else tuple(name.encode())  # other people elsewhere
                generator = np.random.default_rng((patient, visit, *place))
                voxels = generator.random(SHAPE, dtype=np.float32)
                unhealthy = patient % 2 == 1
                voxels[4:8, 4:8, 4:8] += 2.0 * unhealthy
                image = f"{name}/p{patient:02d}_{visit}.nii.gz"
                write_scan(image, voxels)
                label = f",{'unhealthy' if unhealthy else 'healthy'}" if labelled else ""
                lines.append(f"p{patient:02d},{image}{label}")
        table = tmp_path / f"{name}.csv"
        table.write_text("\n".join(lines) + "\n")
        return table

    return write


@pytest.fixture
def run_verb(tmp_path):
    """Return a function that runs a verb with a tiny model and answers its exit code."""

    def run(verb, table, run_name, *arguments, epochs=2):
        tiny = [
            f"-cconfigs/{'pretrain' if verb == 'pretrain' else 'finetune'}.yaml",
            f"--data.table={table}",
            f"--run={tmp_path / run_name}",
            f"--data.cache_dir={tmp_path / 'cache'}",
            f"--trainer.max_epochs={epochs}",
            "--trainer.accelerator=cpu",
            "--model.filters=4",
            "--model.depth=2",
            "--data.preprocessing.spatial_shape=[12,12,12]",
        ]
        if verb == "pretrain":
            tiny += ["--data.patch_shape=[6,6,4]", "--data.patches_per_volume=40"]
            tiny += ["--data.batch_size=32", "--data.val_patches_per_volume=10"]
        else:
            tiny += ["--model.nodes=8", "--data.batch_size=4"]
            tiny += ["--data.augmentation.num_versions=2", "--data.splits.num_repeats=1"]
            tiny += ["--data.splits.num_folds=3"]
        return _main([verb, *tiny, *arguments])

    return run


@pytest.fixture
def importing(tmp_path, capsys):
    """Return a function that imports the DICOM files in src into out: exit code, error lines."""

    def run(*arguments):
        places = [f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'out'}"]
        code = _main(["import_dicom", *places, *arguments])
        said = capsys.readouterr()
        run.out = said.out
        return code, said.err.splitlines()

    return run


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the real cohorts."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real cohorts are not next to this checkout")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run of three folds on twelve people; tests must not change it."""
    from people import write_people

    folder = tmp_path_factory.mktemp("finished")
    settings = {
        "data.table": write_people(folder / "data", range(12), labelled=True),
        "data.cache_dir": folder / "cache",
        "data.preprocessing.spatial_shape": "[12,12,12]",
        "data.preprocessing.spacing_mm": "[1,1,2]",
        "data.augmentation.mode": "none",
        "data.splits.num_folds": 3,
        "data.splits.num_repeats": 1,
        "data.batch_size": 4,
        "model.filters": 4,
        "model.norm": "none",
        "model.depth": 2,
        "model.lr": 0.01,
        "trainer.max_epochs": 3,
        "trainer.accelerator": "cpu",
        "wandb": "disabled",
        "run": folder / "run",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    assert _main(["finetune", "-cconfigs/finetune.yaml", *flags]) == 0
    return folder / "run"


def _main(arguments):
    import main

    return main.main(arguments)
