import gzip
import os
import subprocess
import sys
import zlib

import pytest
from dicom_series import (
    STEP,
    drop,
    enhanced_dataset,
    leave_out,
    on_slice,
    only_scan,
    save,
    set_to,
    shift,
    slice_dataset,
    voxels_of,
    write_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)


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


def _a_frame_too_few(folder):
    folder.mkdir()
    dataset = enhanced_dataset(voxels_of(4), [(0, 0, 3.0 * n) for n in range(4)])
    dataset.PerFrameFunctionalGroupsSequence.pop()
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
            write_series(folder / str(number), edit=set_to(**{keyword: value}))

    return write


def _repeated(times, keyword="InstanceNumber"):
    """Volumes at the same positions, as a scanner writes them: the slices numbered throughout."""

    def write(folder):
        for time in range(times):

            def edit(dataset, index, time=time):
                setattr(dataset, keyword, time * 5 + index + 1)
                dataset.SOPInstanceUID = f"1.2.3.4.{time}.{index}"

            write_series(folder / str(time), edit=edit)

    return write


def _every_other(**elements):
    """A series in which another one has overwritten every other slice."""

    def edit(dataset, index):
        if index % 2:
            set_to(**elements)(dataset, index)

    return lambda folder: write_series(folder, num_slices=12, edit=edit)


def _enhanced_echoes(folder):
    folder.mkdir()
    dataset = enhanced_dataset(voxels_of(4), [(0, 0, 3.0 * n) for n in range(4)])
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        echo = Dataset()
        echo.EffectiveEchoTime = 4.92 if number > 1 else 7.38
        frame.MREchoSequence = [echo]
    save(dataset, folder / "one.dcm")


def _uih_grid(dataset, index):
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", "36")


def _mosaic_of_36(dataset, index):
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 36)


def _edited(edit, **settings):
    return lambda folder: write_series(folder, edit=edit, **settings)


def _colour(dataset, index):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PlanarConfiguration = 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 3)


SAGITTAL = [0, 1, 0, 0, 0, -1]
FAULTS = {
    "missing_slice": (
        _edited(leave_out(2)),
        "1 slice missing in between ('im001.dcm' and",
    ),
    "three_missing": (_edited(leave_out(3, 4, 5), num_slices=9), "3 slices missing in between"),
    "same_slice_twice": (
        _edited(on_slice(3, shift(z=-STEP))),
        "two slices at one position ('im002.dcm' and 'im003.dcm'), 1 to 2 at each: several",
    ),
    "whole_series_twice": (
        _twice,
        "one picture is there twice ('one/im000.dcm' and 'two/im000.dcm'). Leave one copy out",
    ),
    "uneven": (
        _edited(on_slice(2, shift(z=0.4))),
        "unevenly spaced slices ('im001.dcm' and 'im002.dcm'",
    ),
    "growing": (_edited(shift(z=lambda index: 0.1 * index**2)), "unevenly spaced slices"),
    "mixed_orientations": (
        _edited(on_slice(1, set_to(ImageOrientationPatient=SAGITTAL))),
        "mixed orientations ('im000.dcm' and 'im001.dcm')",
    ),
    "mixed_spacings": (
        _edited(on_slice(4, set_to(PixelSpacing=[1, 1]))),
        "mixed voxel sizes ('im000.dcm'",
    ),
    "mixed_sizes": (
        _edited(on_slice(4, set_to(Rows=3))),
        "two sizes, 6 × 8 and 3 × 8 ('im000.dcm'",
    ),
    "two_patients": (
        _edited(on_slice(3, set_to(PatientID="OTHER"))),
        "two patients are in it ('im000.dcm'",
    ),
    "two_names": (_edited(on_slice(3, set_to(PatientName="Else^One"))), "two patients are in it"),
    "two_births": (
        _edited(on_slice(3, set_to(PatientBirthDate="19991231"))),
        "two patients are in it",
    ),
    "two_studies": (
        _edited(on_slice(3, set_to(StudyInstanceUID="1.2.5"))),
        "two studies are in",
    ),
    "no_patient": (_edited(set_to(PatientID="")), "it has no PatientID"),
    "no_series": (_edited(drop("SeriesInstanceUID")), "no SeriesInstanceUID"),
    "no_position": (
        _edited(on_slice(2, drop("ImagePositionPatient"))),
        "missing or not a number in 'im002",
    ),
    "no_orientation": (
        _edited(drop("ImageOrientationPatient")),
        "ImageOrientationPatient is missing",
    ),
    "no_spacing": (_edited(drop("PixelSpacing")), "PixelSpacing is missing or not a number"),
    "zero_spacing": (_edited(set_to(PixelSpacing=[0, 1])), "PixelSpacing in 'im000.dcm' is abs"),
    "huge_spacing": (
        _edited(set_to(PixelSpacing=[1, 5e4])),
        "PixelSpacing in 'im000.dcm' is abs",
    ),
    "far_away": (_edited(shift(x=1e9)), "ImagePositionPatient in 'im000.dcm' is absurd"),
    "slices_far_apart": (_edited(shift(z=lambda index: 500 * index)), "slices 502.5 mm apart"),
    "skewed_axes": (
        _edited(set_to(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0])),
        "not at right angles in 'im000.dcm'",
    ),
    "null_orientation": (_edited(set_to(ImageOrientationPatient=[0] * 6)), "not at right angles"),
    "sheared": (
        _edited(shift(y=lambda index: 0.3 * index)),
        "sheared stack, by 6.8° (tilted gantry)",
    ),
    "sideways": (_edited(on_slice(2, shift(x=4.0))), "'im002.dcm' lies 4 mm off the others"),
    "colour": (_edited(_colour), "colour pictures ('3 samples' in 'im000.dcm')"),
    "palette": (
        _edited(set_to(PhotometricInterpretation="PALETTE COLOR")),
        "colour pictures ('PALETTE",
    ),
    "inverted": (_edited(set_to(PhotometricInterpretation="MONOCHROME1")), "inverted grey values"),
    "no_photometric": (
        _edited(drop("PhotometricInterpretation")),
        "PhotometricInterpretation is mis",
    ),
    "mosaics": (
        _edited(set_to(ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"])),
        "many slices in one picture (Siemens mosaic, 'im000.dcm'). Convert it with dcm2niix",
    ),
    "one_mosaic": (
        _edited(set_to(ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), num_slices=1),
        "many slices in one picture (Siemens mosaic, 'im000.dcm'). Convert it with dcm2niix",
    ),
    "one_mosaic_by_its_number": (
        _edited(_mosaic_of_36, num_slices=1),
        "many slices in one picture (Siemens mosaic of 36, 'im000.dcm'). Convert it with dcm2niix",
    ),
    "one_mosaic_of_nobody": (
        _edited(set_to(ImageType=["DERIVED", "PRIMARY", "MOSAIC"], PatientID=""), num_slices=1),
        "many slices in one picture (Siemens mosaic",
    ),
    "one_uih_grid": (
        _edited(_uih_grid, num_slices=1),
        "many slices in one picture (UIH grid of 36, 'im000.dcm'). Convert it with dcm2niix",
    ),
    "one_position": (
        _edited(shift(z=lambda index: -index * STEP)),
        "5 pictures at one position ('im000.dcm' and 'im001.dcm'), no volume",
    ),
    "slope_zero": (
        _edited(set_to(RescaleSlope=0)),
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
    "ten_times": (_repeated(10), "10 volumes in one series: 10 slices at each position. Convert"),
    "ten_trigger_times": (_repeated(10, "TriggerTime"), "10 volumes in one series: 10 slices at"),
    "overwritten_echoes": (
        _every_other(EchoTime=4.92),
        "EchoTime varies between its slices: 3.5 and 4.92 ('im000.dcm' and 'im001.dcm'; 6 of 12",
    ),
    "overwritten_inversions": (
        _every_other(InversionTime=900),
        "InversionTime varies between its slices: none and 900",
    ),
    "overwritten_flips": (_every_other(FlipAngle=15), "FlipAngle varies between its slices: none"),
    "overwritten_b_values": (_every_other(DiffusionBValue=800), "DiffusionBValue varies between"),
    "overwritten_phase": (
        _every_other(ImageType=["ORIGINAL", "PRIMARY", "P"]),
        "ImageType varies between its slices: ['ORIGINAL', 'PRIMARY', 'M'] and ['ORIGINAL', 'PRI",
    ),
    "overwritten_frames": (
        _enhanced_echoes,
        "EchoTime varies between its slices: 7.38 and 4.92 (frames 1 and 3 of 'one.dcm'; 2 of 4",
    ),
    "no_voxels": (
        _edited(on_slice(1, drop("PixelData"))),
        "the voxels of 'im001.dcm' are cut off or corrupt",
    ),
    "cut_voxels": (_cut_file(2, 0.95), "the voxels of 'im002.dcm' are cut off or corrupt"),
    "cut_header": (_cut_file(4, 0.35), "File 'im004.dcm' cannot be read"),
    "too_many_voxels": (
        _edited(set_to(Rows=4)),
        "'im000.dcm' holds 32 bytes more than Rows × Columns",
    ),
    "too_wide": (
        _edited(set_to(Rows=1, Columns=40000, PixelData=bytes(80000))),
        "the picture 'im000.dcm' is 1 × 40000",
    ),
    "too_few_voxels": (
        _edited(set_to(Rows=60000, Columns=60000)),
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
    "frames_of_one": (
        _edited(set_to(NumberOfFrames=3)),
        "ImagePositionPatient is missing or not a number in 'im000.dcm'",
    ),
    "many_frames": (
        _edited(set_to(NumberOfFrames=2**30)),
        "it has 1073741824 frames, and positions of 0",
    ),
    "frames_nowhere": (
        _multi_frame_without_positions,
        "ImagePositionPatient is missing or not a numb",
    ),
    "frames_in_part": (_a_frame_too_few, "it has 4 frames, and positions of 3 frames"),
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
    write_series(tmp_path / "src/gap", series="1.2.2", edit=leave_out(2))
    write_series(tmp_path / "src/colour", series="1.2.3", edit=_colour)
    code, (heading, *faults) = importing()
    assert code == 2
    assert "2 faults" in heading
    assert "1 series imported" in heading
    assert ["'gap'" in fault or "'colour'" in fault for fault in faults] == [True, True]
    assert only_scan(tmp_path).shape == (8, 6, 5)


def test_a_corrupt_file_holds_back_the_series_of_its_folder_alone(importing, tmp_path):
    write_series(tmp_path / "src/sound", series="1.2.1")
    _cut_file(4, 0.35)(tmp_path / "src/cut")
    code, lines = importing()
    assert code == 2
    assert len(lines) == 1
    assert "'cut/im004.dcm' cannot be read: its header is cut off" in lines[0]
    assert "the series next to it may lack this slice and is held back" in lines[0]
    assert only_scan(tmp_path).shape == (8, 6, 5)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localiser"),
        (leave_out(2, 3, 4), "fewer than 3 slices"),
        (set_to(SeriesDescription="t2_tse"), "does not match SERIES=*MPRAGE*"),
    ],
)
def test_what_is_no_scan_is_skipped_with_a_line(edit, words, importing, tmp_path):
    write_series(tmp_path / "src/sound")
    write_series(tmp_path / "src/other", series="1.2.5", edit=edit)
    assert importing("--series=*MPRAGE*") == (0, [])
    assert "skipped: Series '1.2.5' in 'other'" in importing.out
    assert words in importing.out
    assert only_scan(tmp_path).shape == (8, 6, 5)


@pytest.mark.parametrize("edit", [{}, {"ImageOrientationPatient": SAGITTAL}, {"PatientID": ""}])
@pytest.mark.parametrize(
    "description",
    ["3-Plane Localizer", "AAHead_Scout_MPR_cor", "Survey_32ch", "LOC 3 PLANE", "SmartBrain"],
)
def test_scouts_are_skipped_by_their_description(description, edit, importing, tmp_path):
    write_series(tmp_path / "src/sound", edit=set_to(SeriesDescription="t1_surveyed_local"))

    def scout(dataset, index):
        dataset.SeriesDescription = description
        if index % 2:  # slices of two planes, or without a patient
            set_to(**edit)(dataset, index)

    write_series(tmp_path / "src/other", series="1.2.5", edit=scout)
    assert importing() == (0, [])
    assert "skipped: Series '1.2.5' in 'other'" in importing.out
    assert "a scout by its description (SERIES='*scout*'" in importing.out
    assert only_scan(tmp_path).shape == (8, 6, 5)


def test_a_scout_that_is_asked_for_by_name_is_imported(importing, tmp_path):
    write_series(tmp_path / "src", edit=set_to(SeriesDescription="AAHead_Scout"))
    assert importing("--series=*scout*") == (0, [])
    assert only_scan(tmp_path).shape == (8, 6, 5)


def test_faults_of_series_that_were_not_asked_for_do_not_count(importing, tmp_path):
    write_series(tmp_path / "src/sound")

    def edit(dataset, index):
        dataset.SeriesDescription, dataset.PatientID = "t2", f"patient {index}"

    write_series(tmp_path / "src/other", series="1.2.5", edit=edit)
    assert importing("--series=t1*") == (0, [])
    assert only_scan(tmp_path).shape == (8, 6, 5)


def _no_scan(sop_class, path, **elements):
    """Write an object of another class into the folder, study and even series of a scan."""
    dataset = slice_dataset(voxels_of(1)[0], 0)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    for keyword in ("ImagePositionPatient", "PixelSpacing"):
        delattr(dataset, keyword)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    save(dataset, path)


def _segmentation(path):
    dataset = enhanced_dataset(voxels_of(5), [(0, 0, 3.0 * n) for n in range(5)])
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    save(dataset, path)


def test_what_is_no_scan_by_its_class_is_passed_over_and_counted_in_one_line(importing, tmp_path):
    write_series(tmp_path / "src")
    for name in ("one", "two", "cut_off"):
        _segmentation(tmp_path / f"src/{name}.dcm")
    cut_off = tmp_path / "src/cut_off.dcm"
    cut_off.write_bytes(cut_off.read_bytes()[:700])
    for number, sop_class in enumerate(NO_SCANS):
        _no_scan(sop_class, tmp_path / f"src/{number}.dcm")
    _no_scan("1.2.840.10008.5.1.4.1.1.4.2", tmp_path / "src/s.dcm", Rows=1, SeriesInstanceUID="")
    _no_scan("1.2.840.10008.5.1.4.1.1.7", tmp_path / "src/screenshot.dcm", NumberOfFrames=9)
    assert importing() == (0, [])
    assert only_scan(tmp_path).shape == (8, 6, 5)
    (line,) = [line for line in importing.out.splitlines() if "no scan" in line]
    assert line.startswith(f"passed over: {len(NO_SCANS) + 5} DICOM files that are no scan (3 Segm")
    assert "1 MR Spectroscopy" in line
    assert "1 Encapsulated PDF" in line
    assert "1 Secondary Capture Image" in line


NO_SCANS = [
    "1.2.840.10008.5.1.4.1.1.66",  # raw data
    "1.2.840.10008.5.1.4.1.1.66.7",  # label map, newer than pydicom's dictionary
    "1.2.840.10008.5.1.4.1.1.88.11",  # basic text report
    "1.2.840.10008.5.1.4.1.1.88.59",  # key objects
    "1.2.840.10008.5.1.4.1.1.11.1",  # presentation state
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT structures
    "1.2.840.10008.5.1.4.1.1.481.2",  # RT dose
    "1.2.840.10008.5.1.4.1.1.104.1",  # PDF
    "1.3.12.2.1107.5.9.1",  # Siemens' own
]


def test_a_segmentation_alone_is_no_scan(importing, tmp_path):
    (tmp_path / "src").mkdir()
    _segmentation(tmp_path / "src/one.dcm")
    code, (line,) = importing()
    assert code == 2
    assert "Nothing to import under" in line
    assert "1 DICOM files that are no scan (1 Segmentation)" in line


@pytest.mark.parametrize("name", ["im002.dcm.gz", "im002"])
def test_a_gzipped_slice_holds_back_its_series_and_is_told_with_what_to_type(
    name, importing, tmp_path
):
    write_series(tmp_path / "src")
    path = tmp_path / "src/im002.dcm"
    (tmp_path / "src" / name).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    (tmp_path / "src/t1.nii.gz").write_bytes(gzip.compress(bytes(400)))
    code, (line,) = importing()
    assert code == 2
    assert f"{name!r} is a gzipped DICOM file. Unpack such files: gunzip -r SRC; the series" in line
    assert "1 files that are not DICOM" in importing.out


def test_values_that_differ_by_rounding_alone_are_one_contrast(importing, tmp_path):
    write_series(tmp_path / "src", edit=_every_other_echo_rounded)
    assert importing() == (0, [])
    assert only_scan(tmp_path).shape == (8, 6, 5)


def _every_other_echo_rounded(dataset, index):
    dataset.EchoTime = "3.5" if index % 2 else "3.5000001"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (leave_out(0), "its lowest InstanceNumber is 2. Are slices missing before it?"),
        (set_to(SpacingBetweenSlices=STEP / 2), "slices are 2.5 mm apart, its header says 1.25."),
    ],
)
def test_what_a_geometry_cannot_show_is_remarked_on(edit, words, importing, tmp_path):
    write_series(tmp_path / "src", edit=edit)
    assert importing() == (0, [])
    assert words in importing.out


def test_a_name_that_would_break_the_line_is_escaped(importing, tmp_path):
    write_series(tmp_path / "src", edit=leave_out(2))
    (tmp_path / "src/im000.dcm").rename(tmp_path / "src" / os.fsdecode(b"a\n\x1b[31m\xff"))
    code, lines = importing()
    assert (code, len(lines)) == (2, 1)
    assert r"first file 'a\n\x1b[31m\udcff'" in lines[0]


def test_a_folder_of_scouts_alone_is_skipped_with_a_line_and_is_no_fault(importing, tmp_path):
    write_series(tmp_path / "src/1", edit=set_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    write_series(
        tmp_path / "src/2", series="1.2.5", edit=set_to(SeriesDescription="AAHead_Scout_MPR")
    )
    assert importing() == (0, [])
    assert "first file 'im000.dcm'): a localiser" in importing.out
    assert "a scout by its description" in importing.out
    assert "0 series imported: all 2 under" in importing.out
    assert not (tmp_path / "out").exists()
    code, (line,) = importing("--series=flair*")
    assert code == 2
    assert "Nothing to import under" in line
    assert "does not match SERIES=flair*" in line


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
    write_series(source / "plain", series="1.2.68", edit=set_to(Rows=65535, Columns=65535))
    code = (
        "import re, sys, time, main\n"
        "code = main.main(sys.argv[1:])\n"
        "peak = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
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
    for name in ("'deflate.dcm'", "'rle/im000.dcm' (and 4 next to it)", "'plain/im000.dcm' (and 4"):
        assert sum(name in line for line in lines) == 1
