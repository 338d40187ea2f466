import pytest

from datamodules.checks.cohort_problems import class_names
from datamodules.reading.cohort_table import (
    Columns,
    read_cohort_table,
)


@pytest.fixture
def table(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "cohort.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_usual_kind_of_table_is_read(table, write_scan, separator, newline, encoding):
    write_scan("a b é.nii.gz")
    lines = ["patient_id,image,label,extra", "007,a b é.nii.gz,NA,1"]
    path = table(newline.join(lines).replace(",", separator) + newline, encoding)
    (scan,) = read_cohort_table(path)
    assert (scan.patient_id, scan.label, scan.session) == ("007", "NA", "")
    assert scan.path.is_file()


def test_columns_can_have_other_names(table, write_scan):
    write_scan("a.nii")
    path = table("ID,file,diagnosis\n1,a.nii,tumour\n")
    (scan,) = read_cohort_table(path, Columns(patient_id="ID", image="file", label="diagnosis"))
    assert (scan.patient_id, scan.image, scan.label) == ("1", "a.nii", "tumour")


def test_every_bad_row_is_named_at_once(table, write_scan):
    write_scan("a.nii")
    write_scan("b.nii").rename(write_scan("b.nii").with_suffix(".nrrd"))
    path = table(
        "patient_id,image\n,a.nii\np2,\np3,none.nii\np4,b.nrrd\np5,a.nii\np6\np7,./a.nii\n"
    )
    with pytest.raises(ValueError, match="6 rows to fix") as error:
        read_cohort_table(path)
    message = str(error.value)
    for words in (
        "row 2: patient_id is empty",
        "row 3: patient 'p2': image is empty",
        "row 4: patient 'p3': image 'none.nii' does not exist",
        "row 5: patient 'p4': image 'b.nrrd' is not a NIfTI file",
        "row 8: patient 'p7': image './a.nii' is listed already in row 6",
        "row 7: 1 cells where the header has 2",
    ):
        assert words in message


def test_a_misspelt_column_gets_a_suggestion(table):
    with pytest.raises(ValueError, match=r"no column 'patient_id' \(did you mean 'patientid'\?\)"):
        read_cohort_table(table("patientid,image\na,b\n"))


def test_a_column_named_on_purpose_must_exist(table, write_scan):
    write_scan("a.nii")
    with pytest.raises(ValueError, match="no column 'Label'"):
        read_cohort_table(table("patient_id,image\n1,a.nii\n"), Columns(label="Label"))


def test_a_missing_table_and_an_empty_one_are_told_apart(table, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_cohort_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="no rows"):
        read_cohort_table(table("patient_id,image\n"))


def test_classes_are_sorted_or_as_asked_for(write_cohort):
    scans = read_cohort_table(write_cohort(4))
    assert class_names(scans) == ["healthy", "unhealthy"]
    assert class_names(scans, ["unhealthy", "healthy"]) == ["unhealthy", "healthy"]


def test_an_unknown_label_gets_a_suggestion(write_cohort):
    scans = read_cohort_table(write_cohort(4))
    with pytest.raises(ValueError, match=r"'unhealthy' is not among .* mean 'unhealty'"):
        class_names(scans, ["healthy", "unhealty"])


def test_one_class_or_no_labels_are_refused(write_cohort):
    scans = read_cohort_table(write_cohort(4))
    with pytest.raises(ValueError, match="needs two classes"):
        class_names(scans[::2])
    with pytest.raises(ValueError, match="no scan has a label"):
        class_names(read_cohort_table(write_cohort(4, name="other", labelled=False)))
