"""check-data: what must be refused is refused in one line that names it, the rest is accepted."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from bad_inputs import GOOD, SCAN_CASES, SHAPE, TABLE_CASES, nifti_bytes, voxels, write_table_corpus

import main
from datamodules.checks.cohort_check import check_cohort
from datamodules.checks.cohort_problems import Expectations
from datamodules.checks.scan_check import check_scan
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import Columns
from datamodules.reading.nifti import Reading, read_volume
from datamodules.reading.nifti_bytes import printable


@pytest.fixture
def check(tmp_path, capsys):
    """Return a function that runs check_data and answers exit code, output and error."""

    def run(*arguments):
        cache = f"--data.cache_dir={tmp_path / 'cache'}"
        code = main.main(["check_data", cache, f"--run={tmp_path / 'run'}", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.slow
@pytest.mark.parametrize("case", SCAN_CASES, ids=str)
def test_a_scan_gets_its_verdict_within_five_seconds(case, tmp_path):
    path = tmp_path / case.name
    case.write(path)
    started = time.monotonic()
    found = check_scan(path, Reading(), tmp_path / "cache")
    assert time.monotonic() - started < 5
    assert (found.fault is not None) == case.refused
    if case.refused:
        assert case.words in ". ".join(found.fault)
    elif case.words:
        assert case.words in " ".join(what for what, _ in found.warnings)
    else:
        assert found.warnings == []


@pytest.mark.slow
def test_a_whole_corpus_is_checked_in_one_line_each_within_a_gibibyte(tmp_path):
    lines = ["patient_id\timage"]
    for number, case in enumerate(SCAN_CASES):
        folder = tmp_path / f"case{number}"
        folder.mkdir()
        case.write(folder / case.name)
        lines.append(f"p{number}\tcase{number}/{case.name}")
    (tmp_path / "cohort.tsv").write_text("\n".join(lines) + "\n")
    arguments = [
        f"--data.table={tmp_path / 'cohort.tsv'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
    ]
    code = (
        "import re, resource, sys, main; "
        f"code = main.main({['check_data', *arguments, f'--run={tmp_path}']}); "
        "own = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]; "
        "workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss; "
        "print('most KiB:', max(int(own), workers), file=sys.stderr); sys.exit(code)"
    )  # getrusage of the process itself would count its parent's memory before the exec
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 2
    assert "Traceback" not in shown.stdout + shown.stderr
    errors = [line for line in shown.stdout.splitlines() if line.startswith("error ")]
    refused = {f"p{number}" for number, case in enumerate(SCAN_CASES) if case.refused}
    leaks = [line for line in errors if "the same voxels" in line]  # the good ones are all alike
    assert {line.split()[1] for line in errors if line not in leaks} == refused
    assert len(errors) - len(leaks) == len(refused) >= 90
    most_kib = int(shown.stderr.rpartition("most KiB:")[2])
    assert most_kib * 1024 < 2**30


@pytest.mark.slow
@pytest.mark.parametrize("case", TABLE_CASES, ids=str)
def test_a_table_gets_its_verdict(case, tmp_path, check):
    folder = tmp_path / "cohort"
    folder.mkdir()
    write_table_corpus(folder)
    (folder / "table.csv").write_bytes(case.content)
    code, out, error = check(f"--data.table={folder / 'table.csv'}", *case.arguments)
    assert code == (2 if case.refused else 0)
    problems = [line for line in out.splitlines() if line.startswith(("error ", "warning "))]
    assert all(line.isprintable() for line in [*problems, *error.splitlines()])
    assert len(error.splitlines()) == case.refused
    if case.words:
        assert len([line for line in problems if case.words in line]) == 1
    else:
        assert [line for line in problems if "too few" not in line] == []


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in SCAN_CASES
        if not case.refused and "nan_" not in case.name and not case.name.endswith(".mgh")
    ],  # nibabel leaves an .mgh open
    ids=str,
)
def test_an_accepted_scan_is_read_as_nibabel_reads_it(case, tmp_path):
    path = tmp_path / case.name
    case.write(path)
    volume = read_volume(path)
    image = nib.load(path)
    expected = np.asarray(image.dataobj, dtype=np.float64).reshape(volume.voxels.shape)
    np.testing.assert_allclose(volume.voxels, expected, rtol=1e-6)
    assert volume.voxels.dtype == np.float32
    unit = 1e-3 if case.name == "micrometres.nii" else 1
    np.testing.assert_allclose(volume.geometry.affine[:3], image.affine[:3] * unit, atol=1e-6)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_an_orientation_that_is_told_is_taken(tmp_path, check, orientation):
    (tmp_path / "a.nii").write_bytes(nifti_bytes(sform_code=0))
    geometry = read_volume(tmp_path / "a.nii", Reading(orientation)).geometry
    assert geometry.orientation == orientation
    np.testing.assert_allclose(geometry.spacing_mm, (1, 1.1, 1.2), rtol=1e-6)
    (tmp_path / "table.csv").write_text("patient_id,image\np1,a.nii\n")
    code, out, _ = check(f"--data.table={tmp_path / 'table.csv'}")
    assert code == 2
    assert "preprocessing.assume_orientation" in out
    settings = tmp_path / "own.yaml"
    settings.write_text(
        f"data: {{preprocessing: {{assume_orientation: {orientation}, fit: resize}}}}"
    )
    code, out, _ = check(f"--data.table={tmp_path / 'table.csv'}", "-c", str(settings))
    assert code == 0
    assert f"{orientation} 1" in out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("slope", [1, -2.5])
def test_nan_voxels_are_filled_where_that_is_asked_for(dtype, slope, tmp_path, check):
    data = np.random.default_rng(0).normal(50, 9, SHAPE).astype(dtype)
    data[0], data[:, :2] = np.nan, np.nan
    num_nan = int(np.isnan(data).sum())
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(data, scl_slope=slope, scl_inter=3))
    (tmp_path / "table.csv").write_text("patient_id,image\np1,a.nii\n")
    code, out, _ = check(f"--data.table={tmp_path / 'table.csv'}")
    assert code == 2
    assert (
        "holds NaN or infinite voxels (slice 0). Leave it out, or set --data.preprocessing.fill_n"
        in out
    )
    code, out, _ = check(
        f"--data.table={tmp_path / 'table.csv'}", "--data.preprocessing.fill_nan=true"
    )
    assert code == 0
    assert f"has {num_nan} NaN voxels (29 %), filled with its smallest intensity" in out
    expected = slope * data.astype(np.float64) + 3
    expected[np.isnan(expected)] = np.nanmin(expected)
    filled = read_volume(path, Reading(fill_nan=True)).voxels
    np.testing.assert_allclose(filled, expected, rtol=1e-6)
    wanted = Preprocessing(spatial_shape=SHAPE, fill_nan=True)
    assert np.isfinite(preprocess(path, wanted).volume).all()


@pytest.mark.parametrize(
    ("value", "words"), [(np.inf, "NaN or infinite voxels"), (np.nan, "is constant (nan)")]
)
def test_infinite_voxels_and_nothing_but_nan_stay_refused(value, words, tmp_path):
    data = voxels(dtype="float32")
    data[0] = np.nan
    data[1:] = value if np.isnan(value) else data[1:]
    data[1, 1, 1] = value
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(data))
    fault = check_scan(path, Reading(fill_nan=True), tmp_path / "cache").fault
    assert fault is not None
    assert words in fault[0]


def test_too_many_open_files_are_told_as_what_they_are(tmp_path, check, monkeypatch):
    (tmp_path / "a.nii").write_bytes(GOOD)
    (tmp_path / "table.csv").write_text("patient_id,image\np1,a.nii\n")
    open_path = Path.open

    def fail(path, *arguments, **settings):
        if path.name == "a.nii":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return open_path(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", fail)
    code, _, error = check(f"--data.table={tmp_path / 'table.csv'}")
    assert code == 2
    assert error.startswith(f"error: Too many open files: {tmp_path / 'a.nii'}. Raise the limit")


def test_a_run_quotes_ids_that_look_alike_before_other_warnings(tmp_path):
    (tmp_path / "a.nii").write_bytes(nifti_bytes(descrip=b"DOE^JANE 1970-01-01"))
    (tmp_path / "b.nii").write_bytes(nifti_bytes(voxels((12, 12, 12))))
    (tmp_path / "table.csv").write_text("patient_id,image\n7,a.nii\n7.0,b.nii\n")
    found = check_cohort(tmp_path / "table.csv", Columns(), Expectations(), tmp_path / "cache")
    brief = found.warnings_in_brief()
    assert brief.startswith("2 warnings about the data")
    assert "the first: warning  7.0  may be patient '7' by another spelling" in brief


def test_scans_that_stand_out_are_warned_of(write_cohort, write_scan, tmp_path):
    table = write_cohort(12)
    voxels = np.random.default_rng(5).random(SHAPE, dtype=np.float32)
    write_scan("cohort/p00_0.nii.gz", voxels, affine=np.diag([3.0, 1, 1, 1]))
    write_scan("cohort/p01_0.nii.gz", voxels[::-1] * 1000)
    write_scan("cohort/p02_0.nii.gz", shape=(40, 12, 12), seed=9)
    found = check_cohort(table, Columns(), Expectations(), tmp_path / "cache")
    assert found.errors == []
    said = {(problem.patient_id, problem.what.split(" 1")[0][:15]) for problem in found.problems}
    assert ("p00", "has the voxel s") in said
    assert ("p01", "has the intensi") in said
    assert ("p02", "has the shape 4") in said
    assert not any(problem.patient_id == "p03" for problem in found.problems)


def test_a_second_check_reads_no_scan_again(write_cohort, tmp_path, monkeypatch):
    table = write_cohort(6)
    first = check_cohort(table, Columns(), Expectations(), tmp_path / "cache")
    monkeypatch.setattr("datamodules.checks.scan_check.check_scan", None)
    again = check_cohort(table, Columns(), Expectations(), tmp_path / "cache")
    assert again.problems == first.problems
    assert again.summary() == first.summary()


def test_a_changed_scan_or_a_corrupt_cache_is_checked_again(write_cohort, write_scan, tmp_path):
    table, cache = write_cohort(6), tmp_path / "cache"
    assert check_cohort(table, Columns(), Expectations(), cache).errors == []
    for kept in cache.glob("checks-*/*.npz"):
        kept.write_bytes(kept.read_bytes()[:100])
    write_scan("cohort/p02_0.nii.gz", np.zeros((12, 12, 12), dtype=np.float32))
    found = check_cohort(table, Columns(), Expectations(), cache)
    assert [(problem.patient_id, problem.what) for problem in found.errors] == [
        ("p02", "is constant (0)")
    ]


def test_json_holds_the_problems_and_the_summary(write_cohort, tmp_path, check):
    table = write_cohort(6, scans_per_patient=2)
    (tmp_path / "cohort/p03_1.nii.gz").write_bytes(b"")
    code, out, error = check(f"--data.table={table}", "--json=true")
    content = json.loads(out)
    assert code == 2
    assert error.endswith(f"error: 1 error to fix in {table}.\n")
    (problem,) = [each for each in content["problems"] if each["severity"] == "error"]
    assert (problem["patient_id"], problem["image"]) == ("p03", "cohort/p03_1.nii.gz")
    summary = content["summary"]
    assert (summary["scans"], summary["usable"], summary["patients"]) == (12, 11, 6)
    assert summary["classes"] == {"healthy": 6, "unhealthy": 6}
    assert summary["shape"]["max"] == [12, 12, 12]


def test_the_contact_sheet_shows_every_scan_and_runs_nothing(tmp_path, check):
    (tmp_path / "a.nii").write_bytes(GOOD)
    evil = "<script>alert(1)</script>\x1b"
    (tmp_path / "table.csv").write_text(f"patient_id,image\n{evil},a.nii\n")
    assert check(f"--data.table={tmp_path / 'table.csv'}")[0] == 0
    page = (tmp_path / "run/contact_sheet.html").read_text()
    assert page.count("<figure") == page.count("data:image/png;base64,") == 1
    assert "<script" not in page
    assert "\x1b" not in page


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_training_stops_with_every_error_of_the_data(
    write_cohort, run_verb, tmp_path, capsys, verb
):
    table = write_cohort(12)
    for patient, content in (("p03", b""), ("p07", GOOD[:500])):
        (tmp_path / f"cohort/{patient}_0.nii.gz").write_bytes(content)
    assert run_verb(verb, table, "run") == 2
    error = capsys.readouterr().err
    assert "2 errors to fix" in error
    assert "p03" in error
    assert "p07" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["Labels", "Lable", "labl"])
def test_a_missing_label_column_is_one_problem_and_its_near_miss_is_named(
    name, write_cohort, tmp_path
):
    table = write_cohort(4)
    table.write_text(table.read_text().replace("label", name))
    (warning,) = check_cohort(table, Columns(), Expectations(), tmp_path).problems
    assert warning.what == f"column {name!r} is not read; did you mean 'label'?"
    missing, near = check_cohort(table, Columns(), Expectations(labelled=True), tmp_path).errors
    assert missing.what == "no scan has a label"
    assert near == replace(warning, severity="error")


def test_names_are_shown_without_control_characters():
    assert printable("a\x1b[2J\u202eb\n\udcff") == r"a\x1b[2J\u202eb\n\udcff"
    assert printable("脳 é") == "脳 é"


def test_nothing_given_says_what_to_give(check):
    code, _, error = check()
    assert code == 2
    assert "DATA=table.csv" in error
    assert os.linesep not in error.strip()


def test_synthetic_rows_are_counted_and_need_a_real_scan_of_their_patient_and_class(
    write_cohort, capsys, tmp_path
):
    table = write_cohort(6)
    header, *lines = table.read_text().splitlines()
    ends = ["", "", "", "", "no", "yes"]
    rows = [f"{line},{end}" for line, end in zip(lines, ends, strict=True)]
    rows[5] = rows[5].replace("p05,", "p04,").replace("unhealthy", "healthy")
    check = ["check_data", f"--data.table={table}", f"--run={tmp_path / 'check'}"]
    check.append(f"--data.cache_dir={tmp_path / 'cache'}")
    table.write_text("\n".join([f"{header},synthetic", *rows]) + "\n")
    main.main(check)
    assert re.search(r"synthetic +rows 1\n", capsys.readouterr().out)
    rows[5] = lines[5].replace("unhealthy", "odd") + ",yes"
    table.write_text("\n".join([f"{header},synthetic", *rows]) + "\n")
    assert main.main(check) != 0
    told = capsys.readouterr().out
    assert "p05  has synthetic rows alone. Name the patient" in told
    assert "class 'odd' has synthetic rows alone" in told
