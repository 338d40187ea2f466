import csv
import shutil

import numpy as np
import pytest

import main
from datamodules.checks.cohort_problems import class_names
from datamodules.reading.cohort_table import read_cohort_table, read_other_columns

PARTICIPANTS = (
    "participant_id\tage\tsex\tgroup\nsub-01\t31\tF\tpatient\nsub-02\tn/a\tM\tcontrol\n"
    "sub-03\t40\tF\tpatient\n"
)


@pytest.fixture
def tree(tmp_path, write_scan):
    """Three patients, the first with two visits and two runs at one of them."""
    for name in (
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii.gz",
        "sub-02/anat/sub-02_acq-mprage_T1w.nii",
        "sub-03/anat/sub-03_T1w.nii.gz",
        "derivatives/masks/sub-03/anat/sub-03_T1w.nii.gz",
    ):
        write_scan(f"tree/{name}", np.zeros((3, 3, 3), np.uint8))
    (tmp_path / "tree/sub-03/anat/sub-03_T1w.json").write_text("{}")
    (tmp_path / "tree/participants.tsv").write_text(PARTICIPANTS)
    return tmp_path / "tree"


@pytest.fixture
def importing(tree, capsys):
    """Return a function that imports the tree: exit code, error lines."""

    def run(out, *arguments, src=tree):
        code = main.main(["import_bids", f"--src={src}", f"--out={out}", *arguments])
        said = capsys.readouterr()
        run.out = said.out
        return code, said.err.splitlines()

    return run


def test_every_scan_of_the_suffix_is_a_row_with_its_patients_columns(tree, importing):
    assert importing(tree, "--label=group") == (0, [])
    scans = read_cohort_table(tree / "cohort.csv")
    assert [(scan.patient_id, scan.session, scan.label) for scan in scans] == [
        ("sub-01", "ses-a", "patient"),
        ("sub-01", "ses-a", "patient"),
        ("sub-01", "ses-b", "patient"),
        ("sub-02", "", "control"),
        ("sub-03", "", "patient"),
    ]
    assert class_names(scans) == ["control", "patient"]
    others = read_other_columns(tree / "cohort.csv")
    assert others == {"age": ["31", "31", "31", "", "40"], "sex": ["F", "F", "F", "M", "F"]}
    assert "1 visits have several scans (first: sub-01_ses-a_run-1_T1w.nii.gz, " in importing.out


@pytest.mark.parametrize("place", ["tree", "tree/flair.csv", ".", "cohorts.csv"])
def test_in_the_tree_or_above_it_the_table_points_at_the_scans(place, tree, importing, tmp_path):
    before = sorted(tmp_path.rglob("*.nii*"))
    assert importing(tmp_path / place, "--suffix=FLAIR") == (0, [])
    table = tmp_path / place if place.endswith(".csv") else tmp_path / place / "cohort.csv"
    (scan,) = read_cohort_table(table)
    assert scan.path == tree / "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii.gz"
    assert ".." not in scan.image
    assert sorted(tmp_path.rglob("*.nii*")) == before
    assert "2 patients have no FLAIR scan (first: 'sub-02')" in importing.out


def test_a_folder_elsewhere_gets_copies(tree, importing, tmp_path):
    assert importing(tmp_path / "out") == (0, [])
    scans = read_cohort_table(tmp_path / "out/cohort.csv")
    assert len(scans) == 5
    for scan in scans:
        assert scan.path.is_relative_to(tmp_path / "out")
        assert scan.path.read_bytes() == (tree / scan.image).read_bytes()


def test_a_second_import_changes_nothing_and_an_edited_table_is_kept(tree, importing):
    assert importing(tree) == (0, [])
    table = tree / "cohort.csv"
    first = table.read_bytes()
    assert importing(tree) == (0, [])
    assert table.read_bytes() == first
    table.write_bytes(first.replace(b"sub-03", b"sub-3"))
    code, (line,) = importing(tree)
    assert code == 2
    assert "exists and says something else" in line
    assert b"sub-3" in table.read_bytes()


def test_without_participants_there_are_ids_and_images(tree, importing):
    (tree / "participants.tsv").unlink()
    shutil.rmtree(tree / "sub-01")
    assert importing(tree) == (0, [])
    with (tree / "cohort.csv").open() as file:
        assert next(csv.reader(file)) == ["patient_id", "image"]


def test_rows_without_scans_are_remarked_on(tree, importing):
    (tree / "participants.tsv").write_text(f"{PARTICIPANTS}sub-04\t1\tF\tpatient\n")
    assert importing(tree) == (0, [])
    assert "1 rows of participants.tsv have no scan here (first: 'sub-04')" in importing.out


def test_windows_lines_a_bom_and_ids_without_sub_are_read(tree, importing):
    text = PARTICIPANTS.replace("sub-", "").replace("\n", "\r\n")
    (tree / "participants.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert importing(tree, "--label=group") == (0, [])
    assert {scan.label for scan in read_cohort_table(tree / "cohort.csv")} == {"patient", "control"}


def test_unnamed_empty_columns_are_ignored(tree, importing):
    header, *rows = PARTICIPANTS.splitlines()
    lines = [f"{header}\t\t", *(f"{row}\t" for row in rows)]
    (tree / "participants.tsv").write_bytes("\r\n".join([*lines, "\t\t\t\t\t", ""]).encode())
    assert importing(tree, "--label=group") == (0, [])
    assert set(read_other_columns(tree / "cohort.csv")) == {"age", "sex"}
    assert [scan.label for scan in read_cohort_table(tree / "cohort.csv")].count("patient") == 4


def _by_visit(tree, *rows, header="participant_id session_id group"):
    lines = [line.replace(" ", "\t") for line in (header, *rows)]
    (tree / "participants.tsv").write_text("\n".join(lines) + "\n")


def _labels(tree):
    """Label of the first run of each visit."""
    scans = read_cohort_table(tree / "cohort.csv")
    return {(scan.patient_id, scan.session): scan.label for scan in reversed(scans)}


@pytest.mark.parametrize("session", ["session_id", "session"])
def test_rows_of_visits_are_joined_by_session(session, tree, importing):
    rows = ["sub-01 ses-b AD", "sub-01 a CN", "sub-02 1 CN", "sub-03 n/a AD"]
    _by_visit(tree, *rows, header=f"participant_id {session} group")
    assert importing(tree, "--label=group") == (0, [])
    assert _labels(tree) == {
        ("sub-01", "ses-a"): "CN",
        ("sub-01", "ses-b"): "AD",
        ("sub-02", ""): "CN",
        ("sub-03", ""): "AD",
    }
    assert set(read_other_columns(tree / "cohort.csv")) == set()
    assert "1 visits have no row of their own (first: 'sub-02')" in importing.out


def test_a_visit_without_a_row_gets_what_its_patients_rows_agree_on(tree, importing):
    rows = ["sub-01 a AD F", "sub-01 c CN F", "sub-02 n/a CN M", "sub-03 n/a AD M"]
    _by_visit(tree, *rows, header="participant_id session_id group sex")
    assert importing(tree, "--label=group") == (0, [])
    labels = _labels(tree)
    assert (labels["sub-01", "ses-a"], labels["sub-01", "ses-b"]) == ("AD", "")
    sexes = read_other_columns(tree / "cohort.csv")["sex"]
    assert sexes == ["F", "F", "F", "M", "M"]
    assert "1 visits have no row of their own (first: 'sub-01 ses-b')" in importing.out
    assert "1 patients have no group (first: 'sub-01 ses-b'); fill them in." in importing.out


@pytest.mark.parametrize("place", ["sub-01/sub-01_sessions.tsv", "sessions.tsv"])
def test_sessions_tsv_tells_more_of_a_visit(place, tree, importing):
    rows = ["session_id\tscore\tgroup", "ses-a\t7\tn/a", "ses-b\t9\tcontrol"]
    if place == "sessions.tsv":
        rows = ["participant_id\t" + rows[0], *("sub-01\t" + row for row in rows[1:])]
    (tree / place).write_text("\n".join(rows) + "\n")
    assert importing(tree, "--label=group") == (0, [])
    labels = _labels(tree)
    assert (labels["sub-01", "ses-a"], labels["sub-01", "ses-b"]) == ("patient", "control")
    others = read_other_columns(tree / "cohort.csv")
    assert others["score"] == ["7", "7", "9", "", ""]
    assert others["sex"] == ["F", "F", "F", "M", "F"]


def test_labels_may_stand_in_sessions_tsv_alone(tree, importing):
    (tree / "participants.tsv").unlink()
    (tree / "sub-01/sub-01_sessions.tsv").write_text("session_id\tgroup\na\tx\nb\ty\n")
    assert importing(tree, "--label=group") == (0, [])
    assert [scan.label for scan in read_cohort_table(tree / "cohort.csv")] == [
        "x",
        "x",
        "y",
        "",
        "",
    ]


@pytest.mark.parametrize("ids", ["1 2 3", "sub-1 sub-2 sub-3", "1.0 2.0 3.0", "001 002 003"])
def test_ids_that_lost_their_zeros_are_matched_with_a_remark(ids, tree, importing):
    _by_visit(
        tree, *(f"{name} n/a {label}" for name, label in zip(ids.split(), "xyz", strict=True))
    )
    assert importing(tree, "--label=group") == (0, [])
    assert "3 ids of the table are matched with folders by another spelling" in importing.out
    labels = [scan.label for scan in read_cohort_table(tree / "cohort.csv")]
    assert labels == ["x", "x", "x", "y", "z"]


def test_an_id_that_may_be_two_patients_is_not_matched(tree, importing):
    _rename("sub-03/anat/sub-03_T1w.nii.gz", "sub-002/anat/sub-002_T1w.nii.gz")(tree)
    _by_visit(tree, "sub-01 n/a x", "sub-2 n/a y")
    code, (line,) = importing(tree, "--label=group")
    assert code == 2
    assert "2 patients have no row in participants.tsv (first: 'sub-002')" in line


def _participants(old, new):
    def edit(tree):
        path = tree / "participants.tsv"
        path.write_text(path.read_text().replace(old, new))

    return edit


def _rename(old, new):
    def edit(tree):
        (tree / new).parent.mkdir(parents=True, exist_ok=True)
        (tree / old).rename(tree / new)

    return edit


def _remove(name):
    return lambda tree: (tree / name).unlink()


def _broken_link(tree):
    path = tree / "sub-03/anat/sub-03_T1w.nii.gz"
    path.unlink()
    path.symlink_to("../../.git/annex/objects/x.nii.gz")


T1 = "sub-03/anat/sub-03_T1w.nii.gz"
FAULTS = {
    "other_patients_folder": (_rename(T1, "sub-02/anat/sub-03_T1w.nii.gz"), "in another patient's"),
    "other_sessions_folder": (
        _rename(T1, "sub-01/ses-a/anat/sub-01_ses-b_T1w.nii.gz"),
        "'sub-01/ses-a/anat/sub-01_ses-b_T1w.nii.gz' lies in another patient's or session's",
    ),
    "session_without_folder": (
        _rename(T1, "sub-03/anat/sub-03_ses-1_T1w.nii.gz"),
        "session's folder",
    ),
    "no_bids_name": (
        _rename(T1, "sub-03/anat/third_T1w.nii.gz"),
        "third_T1w.nii.gz' is no BIDS name",
    ),
    "scan_twice": (
        lambda tree: shutil.copy(tree / T1, tree / T1.removesuffix(".gz")),
        "have one name. Move one of them out of the tree",
    ),
    "broken_link": (_broken_link, "is a broken link. Fetch its content"),
    "no_row": (
        _participants("sub-03\t40\tF\tpatient\n", ""),
        "no row in participants.tsv (first: 'sub-03",
    ),
    "row_twice": (
        _participants("sub-03", "sub-02"),
        "has two rows of 'sub-02' that differ in 'age'. Make them agree, or give each its visit",
    ),
    "visit_twice": (
        lambda tree: _by_visit(tree, "sub-01 1 a", "sub-01 1 b"),
        "has two rows of 'sub-01 ses-1' that differ in 'group'. Make them agree.",
    ),
    "value_without_name": (
        lambda tree: _by_visit(tree, "sub-01 1 a 7", header="participant_id session_id group "),
        "the row of 'sub-01' has a value in a column without a name",
    ),
    "id_column_twice": (_participants("age", "participant_id"), "two columns 'participant_id'"),
    "session_twice": (
        lambda tree: _by_visit(tree, "sub-01 1 a", header="participant_id session_id session"),
        "would give two columns 'session'",
    ),
    "short_row": (
        _participants("\t40\tF", "\t40"),
        "the row of 'sub-03' has 3 cells where the header has 4",
    ),
    "misspelt_label": (
        _participants("group", "groups"),
        "no column LABEL=group (did you mean 'groups'?)",
    ),
    "no_ids": (_participants("participant_id", "subject"), "has no column 'participant_id'"),
    "clash": (_participants("age", "image"), "would give two columns 'image'"),
    "column_twice": (_participants("age", "sex"), "would give two columns 'sex'"),
    "label_twice": (_participants("age", "label"), "would give two columns 'label'"),
    "no_participants": (_remove("participants.tsv"), "participants.tsv' does not exist. Add it."),
    "empty": (
        lambda tree: (tree / "participants.tsv").write_text(""),
        "no column 'participant_id'",
    ),
    "latin_1": (
        lambda tree: (tree / "participants.tsv").write_bytes("participant_id\té".encode("latin-1")),
        "is not UTF-8 text",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_tree_is_refused_in_one_line(fault, tree, importing):
    edit, words = FAULTS[fault]
    edit(tree)
    code, lines = importing(tree, "--label=group")
    assert code == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert not (tree / "cohort.csv").exists()


@pytest.mark.parametrize(
    ("src", "out", "more", "words"),
    [
        ("none", "tree", [], "does not exist. Check the path in SRC="),
        ("tree/participants.tsv", "tree", [], "is a file. Give its folder in SRC="),
        ("tree/sub-01", "tree", [], "has no folders sub-…: it is no BIDS tree"),
        ("tree", "tree", ["--suffix=t1W"], "no scans that end in _t1W (did you mean 'T1w'?)"),
        ("tree", "tree", ["--suffix=bold"], "Scans there are: 5 T1w, 1 FLAIR"),
        ("tree", "else/table.csv", [], "would climb out of the table's folder. Write it to"),
        ("tree", "a_file/out", [], "Cannot write"),
    ],
)
def test_places_and_suffixes_that_do_not_fit_are_one_line(
    src, out, more, words, importing, tmp_path
):
    (tmp_path / "a_file").write_text("")
    code, lines = importing(tmp_path / out, *more, src=tmp_path / src)
    assert code == 2
    assert len(lines) == 1
    assert words in lines[0]


def test_without_a_tree_the_verb_says_what_to_give(capsys):
    assert main.main(["import_bids", "--out=somewhere"]) == 2
    assert "SRC=tree OUT=folder or table.csv" in capsys.readouterr().err
