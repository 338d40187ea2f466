import csv
import hashlib
import hmac
import os
import stat
import subprocess
import sys
import zlib

import nibabel as nib
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
    enhanced_dataset,
    save,
    slice_dataset,
    voxels_of,
    write_series,
)
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

import main
from datamodules.cohort_table import read_cohort_table
from datamodules.dicom_import import import_series


@pytest.fixture
def importing(tmp_path, capsys):
    """Return a function that imports tmp_path/src into tmp_path/out: exit code, error lines."""

    def run(*arguments):
        places = [f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'out'}"]
        code = main.main(["import_dicom", *places, *arguments])
        said = capsys.readouterr()
        run.out = said.out
        return code, said.err.splitlines()

    return run


def _only_scan(tmp_path):
    (scan,) = read_cohort_table(tmp_path / "out/cohort.csv")
    return nib.load(scan.path)


def _set(**elements):
    return lambda dataset, index: [setattr(dataset, *element) for element in elements.items()]


def _on(position, edit):
    return lambda dataset, index: edit(dataset, index) if index == position else None


def _drop(*keywords):
    return lambda dataset, index: [delattr(dataset, keyword) for keyword in keywords] and None


def _shift(**by):
    axes = {"x": 0, "y": 1, "z": 2}

    def edit(dataset, index):
        for axis, amount in by.items():
            dataset.ImagePositionPatient[axes[axis]] += (
                amount(index) if callable(amount) else amount
            )

    return edit


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, [0, 1, 0, 0, 0, -1]], ids=str)
def test_affine_and_voxels_agree_with_simpleitk(orientation, importing, tmp_path):
    write_series(tmp_path / "src", orientation=orientation)
    assert importing() == (0, [])
    ours = _only_scan(tmp_path)
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
    np.testing.assert_array_equal(_only_scan(tmp_path).dataobj, voxels.transpose(2, 1, 0))
    assert "1 hidden files" in importing.out
    assert "1 files that are not DICOM" in importing.out
    assert "1 directories of a medium" in importing.out


def _compress(syntax):
    def write(folder):
        voxels = write_series(folder)
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            if syntax == ExplicitVRBigEndian:
                dataset.PixelData = dataset.pixel_array.astype(">u2").tobytes()
            if syntax == RLELossless:
                dataset.compress(RLELossless, generate_instance_uid=False)
            dataset.file_meta.TransferSyntaxUID = syntax
            endianness = {
                "implicit_vr": syntax.is_implicit_VR,
                "little_endian": syntax.is_little_endian,
            }
            pydicom.dcmwrite(path, dataset, **endianness, force_encoding=True)
        return voxels

    return write


def _jpeg(kind):
    """Write 32 × 32 voxels packed by SimpleITK's encoder, in a series of our own."""

    def write(folder):
        folder.mkdir()
        voxels = np.random.default_rng(0).integers(0, 2000, (4, 32, 32)).astype(np.uint16)
        writer = sitk.ImageFileWriter()
        writer.SetFileName(folder / "packed.dcm")
        writer.UseCompressionOn()
        writer.SetCompressor(kind)
        for index, plane in enumerate(voxels):
            writer.Execute(sitk.GetImageFromArray(plane[np.newaxis]))
            packed = pydicom.dcmread(folder / "packed.dcm")
            dataset = slice_dataset(plane, index)
            dataset.RescaleSlope, dataset.RescaleIntercept = 2, -7
            dataset.PixelData = packed.PixelData
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
            save(dataset, folder / f"{index}.dcm")
        (folder / "packed.dcm").unlink()
        return voxels.astype(int) * 2 - 7

    return write


def _bare(folder):
    voxels = write_series(folder)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[:2] == b"\x08\x00"
    return voxels


def _signed_12_bit_with_an_overlay(folder):
    def edit(dataset, index):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 1
        stored = (dataset.pixel_array.astype(int) - 1000) & 0x0FFF | 0x5000
        dataset.PixelData = stored.astype("<u2").tobytes()

    return write_series(folder, edit=edit).astype(int) - 1000


def test_an_enhanced_file_has_the_geometry_of_its_frames(importing, tmp_path):
    _enhanced(tmp_path / "src")
    assert importing() == (0, [])
    expected = np.diag([-SPACING[1], -SPACING[0], 3.0, 1.0])
    np.testing.assert_allclose(_only_scan(tmp_path).affine, expected, atol=1e-6)


def _slope_per_slice(folder):
    def edit(dataset, index):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 * (index + 1), index

    factors = np.arange(5)[:, np.newaxis, np.newaxis]
    return write_series(folder, edit=edit) * 0.5 * (factors + 1) + factors


def _large_values(folder):
    def edit(dataset, index):
        dataset.PixelData = (dataset.pixel_array * 30).astype("<u2").tobytes()

    return write_series(folder, edit=edit).astype(int) * 30


def _rounded_positions(folder):
    return write_series(folder, edit=_shift(z=lambda index: 0.004 * (-1) ** index))


def _reversed_names(folder):
    voxels = write_series(folder)
    for index, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{9 - index}")
    return voxels


def _enhanced(folder):
    folder.mkdir()
    voxels = voxels_of(4)
    save(enhanced_dataset(voxels, [(0, 0, 3.0 * n) for n in (1, 0, 3, 2)]), folder / "one.dcm")
    rescaled = voxels.astype(int) * np.arange(1, 5)[:, None, None] - np.arange(4)[:, None, None]
    return rescaled[[1, 0, 3, 2]]


@pytest.mark.parametrize(
    "write",
    [
        _compress(ImplicitVRLittleEndian),
        _compress(ExplicitVRBigEndian),
        _compress(DeflatedExplicitVRLittleEndian),
        _compress(RLELossless),
        pytest.param(_jpeg("JPEG"), marks=pytest.mark.slow),
        pytest.param(_jpeg("JPEG2000"), marks=pytest.mark.slow),
        _bare,
        _signed_12_bit_with_an_overlay,
        _slope_per_slice,
        _large_values,
        _rounded_positions,
        _reversed_names,
        _enhanced,
    ],
    ids=lambda f: f.__name__,
)
def test_odd_but_legal_series_are_imported_as_they_are(write, importing, tmp_path):
    expected = write(tmp_path / "src")
    assert importing() == (0, [])
    image = _only_scan(tmp_path)
    np.testing.assert_array_equal(image.dataobj, expected.transpose(2, 1, 0))
    assert image.get_data_dtype() in (np.int16, np.float32)


def _cut_file(index, share):
    def write(folder):
        write_series(folder)
        path = folder / f"im{index:03d}.dcm"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return write


def _replace_file(content):
    def write(folder):
        write_series(folder)
        (folder / "im004.dcm").write_bytes(content)

    return write


def _twice(folder):
    write_series(folder / "one")
    write_series(folder / "two")


def _multi_frame_without_positions(folder):
    folder.mkdir()
    dataset = enhanced_dataset(voxels_of(4), [(0, 0, 3.0 * n) for n in range(4)])
    del dataset.PerFrameFunctionalGroupsSequence
    save(dataset, folder / "one.dcm")


def _enhanced_at(*heights):
    def write(folder):
        folder.mkdir()
        voxels = voxels_of(len(heights))
        save(enhanced_dataset(voxels, [(0, 0, z) for z in heights]), folder / "one.dcm")

    return write


def _two_volumes(keyword, values):
    def write(folder):
        for number, value in enumerate(values):
            write_series(folder / str(number), edit=_set(**{keyword: value}))

    return write


def _unknown_packing(folder):
    def edit(dataset, index):
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f garbled \xff\xd9"])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.202"  # high-throughput JPEG 2000

    write_series(folder, edit=edit)


def _edited(edit, **settings):
    return lambda folder: write_series(folder, edit=edit, **settings)


def _skip(*indices):
    return lambda dataset, index: index not in indices


def _colour(dataset, index):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PlanarConfiguration = 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)


SAGITTAL = [0, 1, 0, 0, 0, -1]
FAULTS = {
    "missing_slice": (_edited(_skip(2)), "1 slice missing in between ('im001.dcm' and 'im003.dcm'"),
    "three_missing": (_edited(_skip(3, 4, 5), num_slices=9), "3 slices missing in between"),
    "same_slice_twice": (
        _edited(_on(3, _shift(z=-STEP))),
        "two slices at one position ('im002.dcm'",
    ),
    "whole_series_twice": (_twice, "two slices at one position ('one/im000.dcm' and 'two/im000"),
    "uneven": (
        _edited(_on(2, _shift(z=0.4))),
        "unevenly spaced slices ('im001.dcm' and 'im002.dcm'",
    ),
    "growing": (_edited(_shift(z=lambda index: 0.1 * index**2)), "unevenly spaced slices"),
    "mixed_orientations": (
        _edited(_on(1, _set(ImageOrientationPatient=SAGITTAL))),
        "mixed orientations ('im000.dcm' and 'im001.dcm')",
    ),
    "mixed_spacings": (
        _edited(_on(4, _set(PixelSpacing=[1, 1]))),
        "mixed voxel sizes ('im000.dcm'",
    ),
    "mixed_sizes": (_edited(_on(4, _set(Rows=3))), "two sizes, 6 × 8 and 3 × 8 ('im000.dcm' and"),
    "two_patients": (
        _edited(_on(3, _set(PatientID="OTHER"))),
        "two patients are in it ('im000.dcm'",
    ),
    "two_names": (_edited(_on(3, _set(PatientName="Else^One"))), "two patients are in it"),
    "two_births": (_edited(_on(3, _set(PatientBirthDate="19991231"))), "two patients are in it"),
    "two_studies": (_edited(_on(3, _set(StudyInstanceUID="1.2.5"))), "two studies are in it"),
    "no_patient": (_edited(_set(PatientID="")), "it has no PatientID"),
    "no_series": (_edited(_drop("SeriesInstanceUID")), "no SeriesInstanceUID"),
    "no_position": (
        _edited(_on(2, _drop("ImagePositionPatient"))),
        "missing or not a number in 'im002",
    ),
    "no_orientation": (
        _edited(_drop("ImageOrientationPatient")),
        "ImageOrientationPatient is missing",
    ),
    "no_spacing": (_edited(_drop("PixelSpacing")), "PixelSpacing is missing or not a number"),
    "zero_spacing": (_edited(_set(PixelSpacing=[0, 1])), "PixelSpacing in 'im000.dcm' is absurd"),
    "huge_spacing": (_edited(_set(PixelSpacing=[1, 5e4])), "PixelSpacing in 'im000.dcm' is absurd"),
    "far_away": (_edited(_shift(x=1e9)), "ImagePositionPatient in 'im000.dcm' is absurd"),
    "slices_far_apart": (_edited(_shift(z=lambda index: 500 * index)), "slices 502.5 mm apart"),
    "skewed_axes": (
        _edited(_set(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0])),
        "not at right angles in 'im000.dcm'",
    ),
    "null_orientation": (_edited(_set(ImageOrientationPatient=[0] * 6)), "not at right angles"),
    "sheared": (
        _edited(_shift(y=lambda index: 0.3 * index)),
        "sheared stack, by 6.8° (tilted gantry)",
    ),
    "sideways": (_edited(_on(2, _shift(x=4.0))), "'im002.dcm' lies 4 mm beside the others"),
    "colour": (_edited(_colour), "colour pictures ('3 samples' in 'im000.dcm')"),
    "palette": (
        _edited(_set(PhotometricInterpretation="PALETTE COLOR")),
        "colour pictures ('PALETTE",
    ),
    "inverted": (_edited(_set(PhotometricInterpretation="MONOCHROME1")), "inverted grey values"),
    "no_photometric": (
        _edited(_drop("PhotometricInterpretation")),
        "PhotometricInterpretation is mis",
    ),
    "mosaic": (
        _edited(_set(ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])),
        "many slices in one picture",
    ),
    "slope_zero": (
        _edited(_set(RescaleSlope=0)),
        "RescaleSlope or RescaleIntercept in 'im000.dcm'",
    ),
    "two_echoes": (
        _two_volumes("EchoTime", [10, 90]),
        "2 volumes in one series, told apart by EchoTime",
    ),
    "three_b_values": (_two_volumes("DiffusionBValue", [0, 500, 1000]), "3 volumes in one series"),
    "two_times": (
        _two_volumes("TemporalPositionIdentifier", [1, 2]),
        "by TemporalPositionIdentifier",
    ),
    "two_acquisitions": (_two_volumes("AcquisitionNumber", [1, 2]), "by AcquisitionNumber"),
    "no_voxels": (
        _edited(_on(1, _drop("PixelData"))),
        "the voxels of 'im001.dcm' are cut off or torn",
    ),
    "cut_voxels": (_cut_file(2, 0.95), "the voxels of 'im002.dcm' are cut off or torn"),
    "cut_header": (_cut_file(4, 0.35), "File 'im004.dcm' cannot be read"),
    "too_many_voxels": (
        _edited(_set(Rows=4)),
        "'im000.dcm' holds 32 bytes more than Rows × Columns",
    ),
    "too_wide": (
        _edited(_set(Rows=1, Columns=40000, PixelData=bytes(80000))),
        "the picture 'im000.dcm' is 1 × 40000",
    ),
    "too_few_voxels": (
        _edited(_set(Rows=60000, Columns=60000)),
        "promises 7200000000 bytes of voxels",
    ),
    "empty_file": (
        _replace_file(b""),
        "File 'im004.dcm' is no DICOM file, though its name ends in",
    ),
    "text_file": (_replace_file(b"hello " * 99), "File 'im004.dcm' is no DICOM file"),
    "only_a_preamble": (
        _replace_file(bytes(128) + b"DICM"),
        "File 'im004.dcm' cannot be read: its hea",
    ),
    "no_number": (_edited(_set(NumberOfFrames=3)), "it has 3 frames, and positions of 0 frames"),
    "frames_nowhere": (
        _multi_frame_without_positions,
        "it has 4 frames, and positions of 0 frames",
    ),
    "missing_frame": (
        _enhanced_at(0, 3, 6, 12, 15),
        "1 slice missing in between (frames 3 and 4 of",
    ),
    "frame_twice": (
        _enhanced_at(0, 3, 3, 6),
        "two slices at one position (frames 2 and 3 of 'one.dcm'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_series_are_refused_in_one_line_that_names_file_and_fault(
    fault, importing, tmp_path
):
    write, words = FAULTS[fault]
    write(tmp_path / "src")
    code, lines = importing()
    assert code == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert lines[0].startswith(("error: Series '1.2.", "error: File '"))
    assert not list(tmp_path.rglob("*.nii.gz"))
    assert not (tmp_path / "out/cohort.csv").exists()
    for private in ("Kowalski", "19610203", "HOSP-4711"):
        assert private not in lines[0] + importing.out


def test_a_faulty_series_does_not_stop_the_others(importing, tmp_path):
    write_series(tmp_path / "src/sound", series="1.2.1")
    write_series(tmp_path / "src/gap", series="1.2.2", edit=_skip(2))
    write_series(tmp_path / "src/colour", series="1.2.3", edit=_colour)
    code, (heading, *faults) = importing()
    assert code == 2
    assert "2 faults" in heading
    assert "1 series imported" in heading
    assert ["'gap'" in fault or "'colour'" in fault for fault in faults] == [True, True]
    assert _only_scan(tmp_path).shape == (8, 6, 5)


def test_a_torn_file_holds_back_the_series_of_its_folder_alone(importing, tmp_path):
    write_series(tmp_path / "src/sound", series="1.2.1")
    _cut_file(4, 0.35)(tmp_path / "src/torn")
    code, lines = importing()
    assert code == 2
    assert len(lines) == 1
    assert "'torn/im004.dcm' cannot be read: its header is cut off" in lines[0]
    assert "the series beside it may lack this slice and is held back" in lines[0]
    assert _only_scan(tmp_path).shape == (8, 6, 5)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localiser"),
        (_skip(2, 3, 4), "fewer than 3 slices"),
        (_set(SeriesDescription="t2_tse"), "does not match SERIES=*MPRAGE*"),
    ],
)
def test_what_is_no_scan_is_skipped_with_a_line(edit, words, importing, tmp_path):
    write_series(tmp_path / "src/sound")
    write_series(tmp_path / "src/other", series="1.2.5", edit=edit)
    assert importing("--series=*MPRAGE*") == (0, [])
    assert "skipped: Series '1.2.5' in 'other'" in importing.out
    assert words in importing.out
    assert _only_scan(tmp_path).shape == (8, 6, 5)


def test_reports_and_screenshots_are_passed_over(importing, tmp_path):
    write_series(tmp_path / "src")
    report = slice_dataset(voxels_of(1)[0], 0, series="1.2.7")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    save(report, tmp_path / "src/report.dcm")
    screenshot = slice_dataset(voxels_of(1)[0], 0, series="1.2.8")
    screenshot.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    del screenshot.ImagePositionPatient
    save(screenshot, tmp_path / "src/screenshot.dcm")
    assert importing() == (0, [])
    assert "2 DICOM files without a volume (reports, screenshots)" in importing.out


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_skip(0), "its lowest InstanceNumber is 2. Are slices missing before it?"),
        (_set(SpacingBetweenSlices=STEP / 2), "slices are 2.5 mm apart, its header says 1.25."),
    ],
)
def test_what_a_geometry_cannot_show_is_remarked_on(edit, words, importing, tmp_path):
    write_series(tmp_path / "src", edit=edit)
    assert importing() == (0, [])
    assert words in importing.out


def test_one_patient_id_with_two_birth_dates_is_remarked_on(importing, tmp_path):
    write_series(tmp_path / "src/a", series="1.2.1")
    write_series(tmp_path / "src/b", series="1.2.2", edit=_set(PatientBirthDate="19991231"))
    assert importing() == (0, [])
    assert "One PatientID has two dates of birth ('im000.dcm' and 'im000.dcm')" in importing.out
    assert "1999" not in importing.out


def test_a_name_that_would_break_the_line_is_escaped(importing, tmp_path):
    write_series(tmp_path / "src", edit=_skip(2))
    (tmp_path / "src/im000.dcm").rename(tmp_path / "src" / os.fsdecode(b"a\n\x1b[31m\xff"))
    code, lines = importing()
    assert (code, len(lines)) == (2, 1)
    assert r"first file 'a\n\x1b[31m\udcff'" in lines[0]


def test_an_output_folder_below_the_source_is_not_read(importing, tmp_path):
    write_series(tmp_path / "src")
    for num_others in (0, 1):  # the key lies beside the output
        assert importing(f"--out={tmp_path / 'src/out'}") == (0, [])
        assert ("1 files that are not DICOM" in importing.out) == (num_others == 1)
        assert "2 files that are not DICOM" not in importing.out


def test_a_folder_of_localisers_alone_says_so(importing, tmp_path):
    write_series(tmp_path / "src", edit=_set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    code, (line,) = importing()
    assert code == 2
    assert "Nothing to import under" in line
    assert "first file 'im000.dcm'): a localiser" in line


def test_sessions_are_numbered_in_time_within_a_patient(importing, tmp_path):
    for number, (patient, date) in enumerate(
        [("A", "20200101"), ("B", "20180101"), ("A", "20190101"), ("A", "20210101")]
    ):
        elements = {"PatientID": patient, "StudyDate": date, "StudyInstanceUID": f"1.2.3.{number}"}
        write_series(tmp_path / f"src/{number}", series=f"1.2.{number}", edit=_set(**elements))
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
    header = _only_scan(tmp_path).header
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
    (tmp_path / "out/scans/.part-of-an-interrupted-import").write_bytes(b"")
    (tmp_path / "out/scans/.part-of-an-interrupted-import").unlink()
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
    save_whole = nib.save

    def interrupted(image, path):
        save_whole(image, path)
        path.write_bytes(path.read_bytes()[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", interrupted)
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
    assert _only_scan(tmp_path).shape == (8, 6, 5)
    assert "2 links to folders" in importing.out
    assert "1 links out of the folder" in importing.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Say which folder to import, and where to: SRC=folder OUT=folder."),
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


@pytest.mark.slow
def test_bombs_are_refused_in_seconds_and_without_the_memory_they_ask_for(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    bomb = slice_dataset(voxels_of(1)[0], 0, series="1.2.66")
    bomb.PixelData = bytes(2**20)
    bomb.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(bomb, source / "deflate.dcm")
    whole = (source / "deflate.dcm").read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    squeeze = zlib.compressobj(9, wbits=-15)
    packed = squeeze.compress(zlib.decompress(whole[start:], wbits=-15))
    packed += b"".join(squeeze.compress(bytes(2**24)) for _ in range(70)) + squeeze.flush()
    (source / "deflate.dcm").write_bytes(whole[:start] + packed)  # 1.1 GiB inflated

    def edit(dataset, index):
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.Rows = dataset.Columns = 65535

    write_series(source / "rle", series="1.2.67", edit=edit)
    write_series(source / "plain", series="1.2.68", edit=_set(Rows=65535, Columns=65535))
    code = (
        "import resource, sys, time, main\n"
        "code = main.main(sys.argv[1:])\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(code, time.process_time(), peak / 2**20)"
    )
    arguments = ["import_dicom", f"--src={source}", f"--out={tmp_path / 'out'}"]
    shown = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    exit_code, seconds, gibibytes = map(float, shown.stdout.split()[-3:])
    assert exit_code == 2
    assert seconds < 5
    assert gibibytes < 1
    lines = shown.stderr.splitlines()
    assert len(lines) == 4
    for name in ("'deflate.dcm'", "'rle/im000.dcm' (and 4 beside it)", "'plain/im000.dcm' (and 4"):
        assert sum(name in line for line in lines) == 1


@pytest.mark.slow
def test_an_unknown_packing_is_named_with_what_to_install(importing, tmp_path):
    _unknown_packing(tmp_path / "src")
    code, (line,) = importing()
    assert code == 2
    assert "'im000.dcm' is torn, or packed ('High-Throughput JPEG 2000" in line
    assert "Install dcmtk or gdcm" in line


@pytest.mark.slow
def test_a_torn_jpeg_is_refused_even_if_its_decoder_breaks_down(importing, tmp_path):
    _jpeg("JPEG")(tmp_path / "src")
    path = tmp_path / "src/1.dcm"
    content = bytearray(path.read_bytes())
    begin = content.rindex(b"\xff\xd8")
    content[begin + 2 : begin + 60] = bytes(58)
    path.write_bytes(content)
    code, lines = importing()
    assert (code, len(lines)) == (2, 1)
    assert "'1.dcm' is torn, or packed ('JPEG Lossless" in lines[0]


@pytest.mark.real_data
def test_a_real_series_agrees_with_simpleitk_and_tells_nothing_of_its_person(
    shared_data, tmp_path, importing
):
    (tmp_path / "src").symlink_to(shared_data / "dicom_studyforrest")
    assert importing() == (0, [])
    folder = shared_data / "dicom_studyforrest/dicoms"
    image = _only_scan(tmp_path)
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
