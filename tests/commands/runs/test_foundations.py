"""Encoders of other people by name; nothing is downloaded."""

import sys
from types import SimpleNamespace

import pytest

from commands.compare import init_name
from commands.runs.early_check import check_early
from commands.runs.foundations import (
    FOUNDATIONS,
    data_set_warnings,
    foundation_lines,
    start_from_foundation,
    weights_file,
)

FINETUNE = ["-cconfigs/finetune.yaml", "--data.table=README.md"]


class _Model(SimpleNamespace):
    def get(self, name):
        return getattr(self, name, None)


def _config(init, accept_licence=False, **settings):
    settings = {"backbone": "mctl", "weights_path": None} | settings
    model = _Model(class_path="a.Model", init_args=settings)
    return SimpleNamespace(init=init, accept_licence=accept_licence, model=model)


def test_a_name_that_does_not_exist_is_told_early_with_what_may_be_meant():
    with pytest.raises(ValueError, match=r"'hf:brainiak' is none of .*Did you mean 'brainiac'"):
        check_early("finetune", [*FINETUNE, "--init=hf:brainiak"])
    check_early("finetune", [*FINETUNE, "--init=hf:brainiac"])


def test_a_name_sets_the_network_and_takes_a_local_file():
    config = _config("hf:medicalnet-resnet18", weights_path="weights.pth")
    start_from_foundation(config)
    assert config.model.init_args == {"backbone": "resnet18", "weights_path": "weights.pth"}
    other = _config("some-run")
    start_from_foundation(other)
    assert other.model.init_args["backbone"] == "mctl"
    assert init_name({"init": "hf:brainiac"}) == "brainiac"


def test_what_a_name_cannot_start_is_refused():
    with pytest.raises(ValueError, match=r"hf:medicalnet-resnet18 is a resnet18, not a vit"):
        start_from_foundation(_config("hf:medicalnet-resnet18", backbone="vit"))
    config = _config("hf:medicalnet-resnet18")
    config.model.init_args = {"depth": 3}
    with pytest.raises(ValueError, match=r"a\.Model cannot start from hf:medicalnet-resnet18"):
        start_from_foundation(config)


def test_a_licence_that_forbids_commercial_use_needs_a_yes():
    with pytest.raises(ValueError, match=r"may not be used commercially.*--accept_licence=true"):
        start_from_foundation(_config("hf:brainiac", weights_path="a.safetensors"))
    config = _config("hf:brainiac", accept_licence=True, weights_path="a.safetensors")
    start_from_foundation(config)
    assert config.model.init_args["backbone"] == "vit-tokens"


def test_weights_come_from_the_hub_and_its_failure_is_one_line(tmp_path, monkeypatch):
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return str(tmp_path / file)

    hub = SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    for name, foundation in FOUNDATIONS.items():
        if foundation.repository:
            assert weights_file(f"hf:{name}") == tmp_path / foundation.file
    assert ("TencentMedicalNet/MedicalNet-Resnet18", "resnet_18_23dataset.pth", None) in asked
    with pytest.raises(ValueError, match=r"not on the Hugging Face hub.*set --model.weights_path"):
        weights_file("hf:3d-neuro-simclr")

    def fail(*_, **__):
        raise OSError("no\nnetwork")

    hub.hf_hub_download = fail
    with pytest.raises(ValueError, match=r"could not be downloaded from .* \(no network\)\. Down"):
        weights_file("hf:medicalnet-resnet10")


def test_licence_preparation_and_unknown_data_sets_are_told():
    said, warning = foundation_lines("hf:medicalnet-resnet18", ["knees/cohort.csv"])
    assert "licence: MIT" in said
    assert warning.startswith("warning: which data sets hf:medicalnet-resnet18 has seen")
    (said,) = foundation_lines("hf:3d-neuro-simclr", ["knees/cohort.csv"])
    assert "licence: none stated" in said


@pytest.mark.parametrize(
    ("path", "met"),
    [
        ("data/ixi_t1.csv", ["IXI"]),
        ("scans/IXI002-Guys-0828-T1.nii.gz", ["IXI"]),
        ("scans/habs_hd/a.nii.gz", ["HABS-HD"]),
        ("ADNI/oasis3.csv", ["ADNI", "OASIS"]),
        ("pixis/cohort.csv", []),
        ("oasisland.csv", []),
    ],
)
def test_a_cohort_whose_paths_name_a_seen_data_set_is_warned_of(path, met):
    warnings = data_set_warnings("INIT a", {"IXI", "OASIS", "ADNI", "HABS-HD"}, [path])
    assert len(warnings) == bool(met)
    if met:
        assert f"INIT a was trained on {', '.join(met)}, which the paths" in warnings[0]
