import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest

import main
from commands.bundles.ensemble import input_batches, open_ensemble
from commands.bundles.int8 import Int8
from commands.reporting.page import open_cohort
from commands.runs.run_folder import read_config


@pytest.mark.slow
def test_a_graph_in_8_bit_is_calibrated_on_training_scans_and_measured_on_others(
    finished_run, tmp_path, monkeypatch
):
    asked = []
    inputs = Int8._inputs
    monkeypatch.setattr(Int8, "_inputs", lambda self, row: asked.append(row) or inputs(self, row))
    out = tmp_path / "bundle"
    places = [f"--run={finished_run}", f"--out={out}", f"--cache_dir={tmp_path / 'cache'}"]
    assert main.main(["export", *places, "--int8=true"]) == 0
    ensemble, cohort = open_ensemble(finished_run), open_cohort(read_config(finished_run))
    ((volume, _),) = input_batches(cohort, np.arange(12))
    largest, num_others = 0.0, 0
    for place, member in enumerate(ensemble.members):
        seen = [patient in member.seen.patients for patient in cohort.patients]
        assert asked[12 * place :][:8] == np.flatnonzero(seen).tolist()  # calibrated on first
        held = np.flatnonzero(~np.array(seen))
        paths = [out / f"models/{name}{member.name}.onnx" for name in ("", "int8/")]
        exact, rough = (
            onnxruntime.InferenceSession(path).run(None, {"volume": volume.float().numpy()})[0]
            for path in paths
        )
        largest = max(largest, np.abs(exact - rough)[held].max())
        num_others += (exact.argmax(1) != rough.argmax(1))[held].sum()
        kinds = [node.op_type for node in onnx.load(paths[1]).graph.node]
        assert "QLinearConv" in kinds
        assert "Conv" not in kinds
    card = (out / "docs/README.md").read_text()
    stated = re.search(r"by at most ([\d.e-]+), on average .*, (\d+) of 12 with another", card)
    assert float(stated[1]) == pytest.approx(largest, rel=0.1)
    assert 0 < largest < 0.1
    assert int(stated[2]) == num_others
    assert "int8" in json.loads((out / "configs/metadata.json").read_text())["description"]


@pytest.mark.slow
def test_8_bit_without_the_scans_of_the_run_is_refused_in_one_line(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    config = (run / "config.yaml").read_text()
    table = str(finished_run.parent / "data/cohort.csv")
    (run / "config.yaml").write_text(config.replace(table, str(tmp_path / "gone.csv")))
    assert main.main(["export", f"--run={run}", "--int8=true"]) == 2
    error = capsys.readouterr().err
    assert "--int8 needs the training scans of the run, which are not at hand" in error
    assert "gone.csv" in error
    assert len(error.splitlines()) == 1
    assert not (run / "bundle").exists()
