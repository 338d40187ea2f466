import time

import numpy as np
import pytest
import torch

from benchmarks import data_path, gpu, scaling
from benchmarks.__main__ import hardware, write_section
from benchmarks.__main__ import main as measure
from benchmarks.cohort import write_cohort
from benchmarks.rounds import ratio, table, take_turns
from benchmarks.training_step import training_step


def test_ways_take_turns_and_the_first_round_does_not_count(monkeypatch):
    order, clock = [], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def way(name, seconds):
        def work():
            order.append(name)
            clock[0] += seconds
            return 10

        return work

    rates = take_turns({"slow": way("slow", 0.02), "fast": way("fast", 0.005)}, 3)
    assert order == ["slow", "fast"] * 4
    assert {name: len(values) for name, values in rates.items()} == {"slow": 3, "fast": 3}
    assert rates["slow"] == pytest.approx([500] * 3)


def test_ratios_are_those_of_the_rounds():
    rates = {"a": np.array([1.0, 2.0, 4.0]), "b": np.array([3.0, 3.0, 3.0])}
    assert ratio(rates, "b", "a") == "1.5 (0.75–3)"
    assert table(rates, "items/s", "a")[2:] == [
        "| a | 2 (1–4) | 1 |",
        "| b | 3 (3–3) | 1.5 (0.75–3) |",
    ]


def test_a_section_replaces_itself_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n## By hand\n\nkept\n")
    for lines in (["one"], ["two", "three"]):
        write_section(page, "make bench", lines)
        write_section(page, "make bench-gpu", ["gpu"])
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\n## By hand\n\nkept\n\n<!-- make bench: begin -->")
    assert "one" not in text
    assert text.count("## `make bench`\n\ntwo\nthree\n<!-- make bench: end -->") == 1
    assert text.count("gpu") == 4


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert measure(["--gpu"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert "torch " in hardware()


def test_our_copies_in_the_benchmark_are_torchios(tmp_path):
    table_path = write_cohort(tmp_path, 6, 12)
    turn, deviation, _ = data_path._fresh(table_path, 12)
    assert deviation < 1e-6
    assert turn() == 5 * 6, "five epochs"


def test_a_step_is_the_same_whatever_the_memory_format():
    volume = torch.rand(2, 1, 12, 12, 8)
    for shape in ((12, 12, 8), (12, 12, 4)):
        part = volume[..., : shape[2]]
        steps = [training_step(shape, channels_last=last) for last in (False, True)]
        losses = [[float(step(part)) for _ in range(4)] for step in steps]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert losses[0][-1] < losses[0][0]


def test_opening_a_cohort_is_timed_part_by_part(tmp_path):
    found = scaling.open_cohort(write_cohort(tmp_path, 6, 8, ".nii"), 8)
    assert list(found["seconds"]) == ["table", "check", "cache", "folds and marks", "epoch"]
    assert found["peak_mb"] > 100


@pytest.mark.slow
def test_the_gpus_benchmark_works_on_a_cpu(tmp_path):
    lines = gpu.measure(tmp_path, device="cpu", size=8, num_scans=8, num_epochs=2)
    assert len([line for line in lines if line.startswith("| 3 |")]) == 3
    assert "= 4,455,000 visits a setting" in "".join(lines)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpus_benchmark_works(tmp_path):
    lines = gpu.measure(tmp_path, device="cuda", num_epochs=2)
    assert any("share of the step" in line for line in lines)
