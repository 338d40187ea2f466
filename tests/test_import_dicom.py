
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import (
    AXIAL,
    OBLIQUE,
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
