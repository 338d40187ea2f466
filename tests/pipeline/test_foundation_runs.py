"""A run that starts from an encoder of other people, from a local file."""

from dataclasses import replace

import pytest
import torch

from commands.runs.foundations import FOUNDATIONS
from lightning_modules.backbones import build_backbone


@pytest.mark.slow
def test_data_sets_that_weights_have_seen_are_warned_of_and_passed_on(
    write_cohort, run_verb, tmp_path, monkeypatch, capsys
):
    medicalnet = FOUNDATIONS["medicalnet-resnet10"]
    seen = replace(medicalnet, data_sets=("IXI", "ADNI"), commercial=False)
    monkeypatch.setitem(FOUNDATIONS, "seen", seen)
    network = build_backbone("resnet10", (16, 16, 16)).network
    weights = {f"encoder.{name}": weight for name, weight in network.state_dict().items()}
    torch.save({"model_state_dict": weights}, tmp_path / "weights.pth")
    table = write_cohort(12, name="ixi")
    given = ["--init=hf:seen", f"--model.weights_path={tmp_path / 'weights.pth'}", "--fold=0"]
    given += ["--data.preprocessing.spatial_shape=[16,16,16]"]
    assert run_verb("finetune", table, "refused", *given, epochs=1) == 2
    assert "--accept_licence=true" in capsys.readouterr().err
    assert run_verb("finetune", table, "first", *given, "--accept_licence=true", epochs=1) == 0
    said = capsys.readouterr().out
    assert "INIT hf:seen (https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet10)" in said
    assert "warning: hf:seen was trained on IXI, which the paths of this cohort name" in said
    checkpoint = torch.load(tmp_path / "first/repeat0_fold0/best.ckpt", weights_only=True)
    assert checkpoint["seen_data_sets"] == ["ADNI", "IXI"]
    assert checkpoint["hyper_parameters"]["backbone"] == "resnet10"
    again = [f"--init={tmp_path / 'first'}", "--model.backbone=resnet10", "--fold=0", given[-1]]
    assert run_verb("finetune", table, "second", *again, epochs=1) == 0
    assert "was trained on IXI, which the paths" in capsys.readouterr().out
