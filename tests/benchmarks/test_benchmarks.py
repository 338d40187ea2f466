import time

import numpy as np
import pytest
import torch

from benchmarks import data_path, gpu, scaling
from benchmarks.__main__ import hardware, measured, write_section
from benchmarks.__main__ import main as measure
from benchmarks.cohort import write_cohort
from benchmarks.rounds import TimeUpError, ratio, table, take_turns
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
    assert table(rates, "items/s", "a")[0] == "| | items/s, median of 3 (range) | × a |"
    assert table(rates, "items/s", "a")[2:] == [
        "| a | 2 (1–4) | 1 |",
        "| b | 3 (3–3) | 1.5 (0.75–3) |",
    ]


def test_rounds_end_before_the_time_is_up_and_one_always_counts(monkeypatch):
    clock = [0.0]
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: clock[0])

    def work():
        clock[0] += 10.0
        return 1

    assert len(take_turns({"way": work}, 9, until=45.0)["way"]) == 3
    assert clock[0] == 40.0, "a round that counts for nothing, three that count"
    assert len(take_turns({"way": work}, 9, until=0.0)["way"]) == 1


@pytest.mark.slow
def test_a_budget_is_kept_and_what_it_leaves_out_is_named(tmp_path):
    def slow(folder, until):
        yield "one row"
        time.sleep(60)
        yield "never measured"

    def stuck(folder, until):
        time.sleep(60)
        yield "never measured"

    def fast(folder, until):
        yield "all rows"

    started = time.monotonic()
    chosen = {"Slow": slow, "Stuck": stuck, "Fast": fast}
    after = list(measured(chosen, tmp_path, started + 1.5))
    assert time.monotonic() - started < 10
    assert after[0][:3] == ["### Slow", "", "one row"]
    assert after[0][-1].endswith("Not measured yet: Stuck, Fast.")
    assert after[-1] == [
        *("### Slow", "", "one row", "", "### Fast", "", "all rows", ""),
        "Left out, the time was up: Slow (in part), Stuck (nothing).",
    ]


def test_larger_cohorts_are_left_out_where_the_last_one_says_that_time_is_up(tmp_path):
    assert list(scaling._affordable((1, 2), time.monotonic() + 60)) == [1, 2]
    numbers = scaling._affordable((1, 1000), time.monotonic() + 5)
    assert next(numbers) == 1
    time.sleep(0.02)
    with pytest.raises(TimeUpError):
        next(numbers)


def test_a_section_replaces_itself_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Benchmarks\n\n## By hand\n\nkept\n")
    for lines in (["one"], ["two", "three"]):
        write_section(page, "make bench", lines)
        write_section(page, "make bench GPU=1", ["gpu"])
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\n## By hand\n\nkept\n\n<!-- make bench: begin -->")
    assert "one" not in text
    assert text.count("## `make bench`\n\ntwo\nthree\n<!-- make bench: end -->") == 1
    assert text.count("gpu") == 1
    assert text.count("make bench GPU=1") == 3, "heading and two comments"


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
    assert list(found["seconds"]) == ["table", "check", "cache", "folds and fingerprints", "epoch"]
    assert found["peak_mb"] > 100


@pytest.mark.slow
def test_the_gpus_benchmark_works_on_a_cpu(tmp_path):
    lines = [*gpu.measure(tmp_path, 0.0, device="cpu", size=8, num_scans=8, num_epochs=2)]
    assert len([line for line in lines if line.startswith("| 3 |")]) == 3
    assert "= 4,455,000 visits a setting" in "".join(lines)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpus_benchmark_works(tmp_path):
    lines = gpu.measure(tmp_path, 0.0, device="cuda", num_epochs=2)
    assert any("share of the step" in line for line in lines)
