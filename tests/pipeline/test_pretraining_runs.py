"""Pretrainings by each method through the command line, one started from another."""

import pytest
import torch

METHODS = ["masked", "contrastive", "hybrid", "lesions"]


@pytest.mark.slow
def test_methods_follow_each_other_and_the_target_inherits_what_they_have_seen(
    write_cohort, run_verb, tmp_path, capsys
):
    start = []
    for method in METHODS:
        table = write_cohort(6, name=method, labelled=False)
        table.write_text(table.read_text().replace("\np", f"\n{method}-p"))
        given = [f"-cconfigs/pretrain/{method}.yaml", "--data.patch_shape=[9,9,9]", *start]
        assert run_verb("pretrain", table, f"run-{method}", *given) == 0, capsys.readouterr().err
        start = [f"--init={tmp_path / f'run-{method}'}"]
        assert (tmp_path / f"run-{method}/pictures/epoch_01.png").is_file()
    checkpoint = torch.load(tmp_path / "run-lesions/best.ckpt", weights_only=True)
    everyone = sorted(f"{method}-p{number:02d}" for method in METHODS for number in range(6))
    assert checkpoint["seen_patients"] == everyone
    assert len(checkpoint["seen_scans"]) == 4
    assert run_verb("finetune", write_cohort(12), "fine", *start, "--fold=0", epochs=1) == 0
    seen = torch.load(tmp_path / "fine/repeat0_fold0/best.ckpt", weights_only=True)["seen_patients"]
    assert set(everyone) < set(seen)
    capsys.readouterr()
    masked = tmp_path / "masked.csv"
    masked.write_text(masked.read_text().replace("image", "image,label").replace(".gz", ".gz,a", 3))
    masked.write_text(masked.read_text().replace(".gz\n", ".gz,b\n"))
    assert run_verb("finetune", masked, "own", *start, "--fold=0", epochs=1) == 2
    assert "was pretrained on" in capsys.readouterr().err
