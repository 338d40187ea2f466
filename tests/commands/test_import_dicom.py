import csv
import hashlib
import hmac
import os
import re
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import (
    AXIAL,
    OBLIQUE,
    PERSON,
    SPACING,
    STEP,
    only_scan,
    set_to,
    write_series,
)

import main
from datamodules.importing.dicom_import import import_series
from datamodules.reading.cohort_table import read_cohort_table


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, [0, 1, 0, 0, 0, -1]], ids=str)
def test_affine_and_voxels_agree_with_simpleitk(orientation, importing, tmp_path):
    write_series(tmp_path / "src", orientation=orientation)
    assert importing() == (0, [])
    ours = only_scan(tmp_path)
    _agree_with_simpleitk(ours, tmp_path / "src")
    assert ours.get_data_dtype() == np.int16
    np.testing.assert_allclose(ours.header.get_zooms(), (SPACING[1], SPACING[0], STEP), rtol=1e-6)
    assert int(ours.header["sform_code"]) == int(ours.header["qform_code"]) == 1
    np.testing.assert_allclose(ours.get_qform(), ours.affine, atol=1e-4)


def _agree_with_simpleitk(ours, folder):
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(folder))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
    theirs = reader.Execute()
    np.testing.assert_array_equal(
        np.asarray(ours.dataobj), sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    )
    for index in np.ndindex(2, 2, 2):  # the corners
        corner = [i * (n - 1) for i, n in zip(index, ours.shape, strict=True)]
        x, y, z = theirs.TransformIndexToPhysicalPoint(corner)  # LPS
        np.testing.assert_allclose(ours.affine[:3] @ [*corner, 1], [-x, -y, z], atol=1e-3)


def test_files_are_found_by_content_whatever_their_names_and_order(importing, tmp_path):
    voxels = write_series(tmp_path / "src/one/two")
    for path, name in zip(
        sorted((tmp_path / "src/one/two").iterdir()),
        ["z", "IM é 1", "a.b", "3.dcm", "readme.txt"],
        strict=True,
    ):
        path.rename(path.with_name(name))
    (tmp_path / "src/notes.pdf").write_bytes(b"%PDF" + bytes(200))
    (tmp_path / "src/DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "src/one/._3.dcm").write_bytes(b"what macOS leaves on sticks")
    assert importing() == (0, [])
    np.testing.assert_array_equal(only_scan(tmp_path).dataobj, voxels.transpose(2, 1, 0))
    assert "1 hidden files" in importing.out
    assert "1 files that are not DICOM" in importing.out
    assert "1 directories of a medium" in importing.out


def test_one_patient_id_with_two_birth_dates_is_remarked_on(importing, tmp_path):
    write_series(tmp_path / "src/a", series="1.2.1")
    write_series(tmp_path / "src/b", series="1.2.2", edit=set_to(PatientBirthDate="19991231"))
    assert importing() == (0, [])
    assert "One PatientID has two dates of birth ('im000.dcm' and 'im000.dcm')" in importing.out
    assert "1999" not in importing.out


@pytest.mark.parametrize(
    ("patients", "names", "words"),
    [
        (
            ["ab 0012", "AB 0012", "AB0012", "ab-12"],
            ["", "Ann", "", "B"],
            "4 PatientIDs may be 1 p",
        ),
        (["1", "01", "2", "_2"], ["", "", "", ""], "4 PatientIDs may be 2 people: they differ by"),
        (
            ["7", "8", "9", "8"],
            ["Aa^Bb", "AA^BB^", "Cc^Dd", ""],
            "2 PatientIDs may be 1 person: th",
        ),
        (["7", "70", "A7", "17"], ["", "", "Cc^Dd", "Ee^Ff"], None),
    ],
)
def test_one_person_under_several_ids_is_remarked_on_without_a_quote(
    patients, names, words, importing, tmp_path
):
    for number, (patient, name) in enumerate(zip(patients, names, strict=True)):
        elements = {"PatientID": patient, "PatientName": name, "StudyInstanceUID": f"1.3.{number}"}
        write_series(tmp_path / f"src/{number}", series=f"1.2.{number}", edit=set_to(**elements))
    assert importing() == (0, [])
    remarks = [line for line in importing.out.splitlines() if "PatientIDs may be" in line]
    assert [words in line for line in remarks] == [True] * (words is not None)
    for line in remarks:
        assert not any(text in line for text in ("0012", "Aa", "AA", "1961"))
        (one, two) = re.search(r"such as (p\w{16}) and (p\w{16})", line).groups()
        ids = {scan.patient_id for scan in read_cohort_table(tmp_path / "out/cohort.csv")}
        assert {one, two} <= ids


def test_series_that_may_be_time_points_are_remarked_on_in_one_line(importing, tmp_path):
    for time in range(6):
        write_series(tmp_path / f"src/bold/{time}", series=f"1.2.{time}", seed=time)
    for time in range(2):
        other = set_to(PatientID="B", StudyInstanceUID="1.3")
        write_series(tmp_path / f"src/b/{time}", series=f"1.3.{time}", edit=other)
    for number, elements in enumerate(
        [{"SeriesDescription": "t2"}, {"StudyInstanceUID": "1.4"}, {"PixelSpacing": [2, 2]}]
    ):
        write_series(tmp_path / f"src/c{number}", series=f"1.4.{number}", edit=set_to(**elements))
    assert importing() == (0, [])
    (remark,) = [line for line in importing.out.splitlines() if "same geometry" in line]
    assert remark.startswith("look at: 6 series of one patient and session have the same geometry")
    assert "; 8 in 2 such groups" in remark


def test_names_that_end_in_carets_are_one_name(importing, tmp_path):
    names = ["Aa^Bb", "Aa^Bb^^", "Aa^Bb^^^ ", "Aa^Bb", "Aa^Bb^"]
    write_series(
        tmp_path / "src", edit=lambda dataset, index: set_to(PatientName=names[index])(dataset, 0)
    )
    assert importing() == (0, [])
    assert only_scan(tmp_path).shape == (8, 6, 5)


def test_folders_name_the_patients_of_series_without_patient_id(importing, tmp_path):
    for number, (folder, patient) in enumerate(
        [("anna/1", ""), ("anna/2", ""), ("ben/1", ""), ("other/1", "anna")]
    ):
        write_series(
            tmp_path / "src" / folder, series=f"1.2.{number}", edit=set_to(PatientID=patient)
        )
    mapping = f"--mapping={tmp_path / 'who.csv'}"
    code, lines = importing(mapping)
    assert (code, len(lines)) == (2, 4)
    assert "ARGS=--patient_folder=1" in lines[1]
    assert importing(mapping, "--patient_folder=1") == (0, [])
    with (tmp_path / "who.csv").open() as file:
        found = sorted((row["folder"], row["dicom_patient_id"]) for row in csv.DictReader(file))
    assert found == [("anna/1", "anna"), ("anna/2", "anna"), ("ben/1", "ben"), ("other/1", "anna")]
    assert b"anna" not in _all_bytes(tmp_path / "out")
    code, lines = importing(
        f"--out={tmp_path / 'deep'}", "--patient_folder=3"
    )  # there is none so deep
    assert code == 2
    assert "it has no PatientID" in lines[1]


def test_an_output_folder_below_the_source_is_not_read(importing, tmp_path):
    write_series(tmp_path / "src")
    for num_others in (0, 1):  # the key lies next to the output
        assert importing(f"--out={tmp_path / 'src/out'}") == (0, [])
        assert ("1 files that are not DICOM" in importing.out) == (num_others == 1)
        assert "2 files that are not DICOM" not in importing.out


def test_sessions_are_numbered_in_time_within_a_patient(importing, tmp_path):
    for number, (patient, date) in enumerate(
        [("A", "20200101"), ("B", "20180101"), ("A", "20190101"), ("A", "20210101")]
    ):
        elements = {"PatientID": patient, "StudyDate": date, "StudyInstanceUID": f"1.2.3.{number}"}
        write_series(tmp_path / f"src/{number}", series=f"1.2.{number}", edit=set_to(**elements))
    assert importing(f"--mapping={tmp_path / 'who.csv'}") == (0, [])
    with (tmp_path / "who.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["dicom_patient_id"], row["study_time"][:8]): row["session"] for row in rows}
    assert found == {
        ("A", "20190101"): "1",
        ("A", "20200101"): "2",
        ("A", "20210101"): "3",
        ("B", "20180101"): "1",
    }
    scans = read_cohort_table(tmp_path / "out/cohort.csv")
    new_id = {row["dicom_patient_id"]: row["patient_id"] for row in rows}
    assert sorted(scan.session for scan in scans if scan.patient_id == new_id["A"]) == list("123")
    assert len({scan.patient_id for scan in scans}) == 2


def test_nothing_of_the_header_is_in_the_output_but_numbers(importing, tmp_path):
    write_series(tmp_path / "src")
    assert importing(f"--mapping={tmp_path / 'who.csv'}") == (0, [])
    texts = [*PERSON.values(), "HOSP-4711", "Kowalski", "Zofia", "1.2.3.4", "src"]
    written = _all_bytes(tmp_path / "out")
    assert [text for text in texts if len(text) > 1 and text.encode() in written] == []
    header = only_scan(tmp_path).header
    for name in ("descrip", "db_name", "aux_file", "intent_name"):
        assert header[name].item() == b""
    assert b"HOSP-4711" in (tmp_path / "who.csv").read_bytes()
    assert stat.S_IMODE((tmp_path / "who.csv").stat().st_mode) == 0o600


def _all_bytes(folder):
    """Names and contents of all files, with NIfTI unpacked."""
    parts = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        parts += [path.name.encode(), content]
        if path.suffix == ".gz":
            parts.append(zlib.decompress(content, wbits=31))
    return b"\n".join(parts)


def test_a_second_import_writes_the_same_and_another_key_other_names(importing, tmp_path):
    write_series(tmp_path / "src")
    assert importing() == (0, [])
    first = _all_bytes(tmp_path / "out")
    assert importing() == (0, [])
    assert _all_bytes(tmp_path / "out") == first
    other = [f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'other'}"]
    assert main.main(["import_dicom", *other, f"--key={tmp_path / 'out.key'}"]) == 0
    assert _all_bytes(tmp_path / "other") == first
    assert main.main(["import_dicom", *other, f"--key={tmp_path / 'new.key'}"]) == 2
    (tmp_path / "other/cohort.csv").unlink()
    assert main.main(["import_dicom", *other, f"--key={tmp_path / 'new.key'}"]) == 0
    new = read_cohort_table(tmp_path / "other/cohort.csv")
    old = read_cohort_table(tmp_path / "out/cohort.csv")
    assert {scan.patient_id for scan in new}.isdisjoint(scan.patient_id for scan in old)


def test_ids_are_keyed_hashes_of_the_patient_id(importing, tmp_path):
    write_series(tmp_path / "src")
    assert importing() == (0, [])
    key = tmp_path / "out.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = bytes.fromhex(key.read_text())
    expected = hmac.new(secret, b"p\0HOSP-4711", hashlib.sha256).hexdigest()
    (scan,) = read_cohort_table(tmp_path / "out/cohort.csv")
    assert scan.patient_id == f"p{expected[:16]}"


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("00" * 32, 0o644, "is open to others. Run: chmod 600"),
        ("", 0o600, "is not one of ours (64 hexadecimal digits)"),
        ("zz" * 32, 0o600, "is not one of ours"),
        ("00" * 8, 0o600, "is not one of ours"),
    ],
)
def test_a_key_that_is_none_or_open_to_others_is_refused(content, mode, words, importing, tmp_path):
    write_series(tmp_path / "src")
    key = tmp_path / "out.key"
    key.write_text(content)
    key.chmod(mode)
    code, lines = importing()
    assert (code, len(lines)) == (2, 1)
    assert words in lines[0]
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_an_import_never_forgets_an_earlier_one(importing, tmp_path):
    write_series(tmp_path / "src/a", series="1.2.1")
    assert importing() == (0, [])
    before = _all_bytes(tmp_path / "out")
    (tmp_path / "src/a").rename(tmp_path / "elsewhere")
    write_series(tmp_path / "src/b", series="1.2.2")
    code, (line,) = importing()
    assert code == 2
    assert "has 1 scans that SRC does not give any more" in line
    (tmp_path / "out.key").rename(tmp_path / "lost.key")
    code, (line,) = importing()
    assert code == 2
    assert "its key" in line
    assert "is gone" in line
    assert not (tmp_path / "out.key").exists()
    assert _all_bytes(tmp_path / "out") == before


def test_an_interrupted_import_leaves_no_half_file(tmp_path, monkeypatch):
    write_series(tmp_path / "src")
    write_whole = Path.write_bytes

    def interrupted(path, content):
        write_whole(path, content[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_series(tmp_path / "src", tmp_path / "out", tmp_path / "key")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_links_out_of_the_folder_and_pipes_are_not_followed(importing, tmp_path):
    write_series(tmp_path / "src")
    write_series(tmp_path / "secret", series="1.2.99")
    (tmp_path / "src/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "src/file.dcm").symlink_to(tmp_path / "secret/im000.dcm")
    (tmp_path / "src/again.dcm").symlink_to(tmp_path / "src/im000.dcm")
    (tmp_path / "src/loop").symlink_to(tmp_path / "src")
    (tmp_path / "src/gone.dcm").symlink_to(tmp_path / "src/nowhere")
    os.mkfifo(tmp_path / "src/pipe.dcm")
    assert importing() == (0, [])
    assert only_scan(tmp_path).shape == (8, 6, 5)
    assert "2 links to folders" in importing.out
    assert "1 links out of the folder" in importing.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give the folder to import and where to: SRC=folder OUT=folder."),
        (["--src={0}/none", "--out={0}/out"], "does not exist. Check the path in SRC=."),
        (["--src={0}/src/im000.dcm", "--out={0}/out"], "is a file. Give its folder in SRC=."),
        (["--src={0}/empty", "--out={0}/out"], "Nothing to import under"),
        (["--src={0}/src", "--out={0}/src"], "is no place to import into"),
        (["--src={0}/src", "--out={0}/a_file"], "is no place to import into"),
        (["--src={0}/src", "--out={0}/a_file/out"], "Cannot write"),
        (["--src={0}/src", "--out={0}/out", "--key={0}/out/key"], "KEY="),
        (["--src={0}/src", "--out={0}/out", "--mapping={0}/out/who.csv"], "MAPPING="),
        (["--src={0}/src", "--out={0}/out", "--mapping={0}/a_file"], "is no mapping of ours"),
        (["--src={0}/src", "--out={0}/taken"], "is no import of ours. Give another folder in OUT="),
    ],
)
def test_places_that_cannot_be_used_are_refused_in_one_line(arguments, words, tmp_path, capsys):
    write_series(tmp_path / "src")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a_file").write_text("my labels\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/cohort.csv").write_text("patient_id,image\n")
    (tmp_path / "taken.key").write_text("00" * 32)
    (tmp_path / "taken.key").chmod(0o600)
    filled = [argument.format(tmp_path) for argument in arguments]
    assert main.main(["import_dicom", *filled]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert (tmp_path / "a_file").read_text() == "my labels\n"
    assert not list(tmp_path.rglob("*.nii.gz"))


@pytest.mark.real_data
def test_a_real_series_agrees_with_simpleitk_and_tells_nothing_of_its_person(
    shared_data, tmp_path, importing
):
    (tmp_path / "src").symlink_to(shared_data / "dicom_studyforrest")
    assert importing() == (0, [])
    folder = shared_data / "dicom_studyforrest/dicoms"
    image = only_scan(tmp_path)
    assert image.shape == (274, 384, 384)
    _agree_with_simpleitk(image, folder)
    written = _all_bytes(tmp_path / "out")
    texts = set()
    for path in sorted(folder.iterdir())[::48]:
        for element in pydicom.dcmread(path, stop_before_pixels=True).iterall():
            if element.VR in ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "TM", "UI"):
                texts |= set(str(element.value).split("\\")) | set(str(element.value).split("^"))
    texts = {text for text in texts if len(text) > 3}
    assert {"Jane_Doe", "19660101", "anat-T1w", "20130717"} <= texts
    assert [text for text in texts if text.encode() in written] == []


TIMED = """
import sys
from pathlib import Path
from time import process_time
import pydicom
from datamodules.importing.dicom_import import import_series

source, out = map(Path, sys.argv[1:])
headers, imports = [], []
for number in range(3):
    times = [process_time()]
    for path in source.rglob("*.dcm"):
        pydicom.dcmread(path, stop_before_pixels=True)
    times.append(process_time())
    assert len(import_series(source, out / str(number), out / "key").rows) == 5
    times.append(process_time())
    headers.append(times[1] - times[0])
    imports.append(times[2] - times[1])
print(min(imports) / min(headers))
"""


@pytest.mark.slow
def test_an_import_takes_less_than_five_times_as_long_as_reading_the_headers(tmp_path):
    for number in range(5):
        write_series(tmp_path / f"src/{number}", num_slices=100, series=f"1.2.{number}")
    command = [sys.executable, "-c", TIMED, tmp_path / "src", tmp_path / "out"]  # no types checked
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 5
