from collections import Counter

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import (
    SPACING,
    enhanced_dataset,
    only_scan,
    save,
    shift,
    slice_dataset,
    voxels_of,
    write_series,
)
from pydicom.data import get_testdata_file
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from datamodules.reading.cohort_table import read_cohort_table


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


def _jpeg(kind, after=b""):
    """Write 32 × 32 voxels packed by SimpleITK's encoder, in a series of our own.

    Args:
        kind: Its name of the encoder.
        after: What follows the end mark of each JPEG.
    """

    def write(folder):
        folder.mkdir()
        voxels = np.random.default_rng(0).integers(0, 2000, (4, 32, 32)).astype(np.uint16)
        frames, syntax = _packed(voxels, kind, folder)
        for index, frame in enumerate(frames):
            dataset = slice_dataset(voxels[index], index)
            dataset.RescaleSlope, dataset.RescaleIntercept = 2, -7
            _set_packed(dataset, [frame + after], syntax)
            save(dataset, folder / f"{index}.dcm")
        return voxels.astype(int) * 2 - 7

    return write


def _packed(voxels, kind, folder):
    """The JPEG of each plane, and its transfer syntax."""
    writer = sitk.ImageFileWriter()
    writer.SetFileName(folder / "packed.dcm")
    writer.UseCompressionOn()
    writer.SetCompressor(kind)
    frames = []
    for plane in voxels:
        writer.Execute(sitk.GetImageFromArray(plane[np.newaxis]))
        packed = pydicom.dcmread(folder / "packed.dcm")
        frames.append(next(pydicom.encaps.generate_frames(packed.PixelData, number_of_frames=1)))
    (folder / "packed.dcm").unlink()
    return frames, packed.file_meta.TransferSyntaxUID


def _set_packed(dataset, frames, syntax):
    dataset.PixelData = pydicom.encaps.encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax


def _jpeg_ls(folder):
    """pydicom's own sample of JPEG-LS, with padding that no decoder should mind."""
    folder.mkdir()
    for index in range(3):
        sample = pydicom.dcmread(get_testdata_file("MR_small_jpeg_ls_lossless.dcm"))
        frame = next(pydicom.encaps.generate_frames(sample.PixelData, number_of_frames=1))
        dataset = slice_dataset(np.zeros((64, 64)), index)
        dataset.PixelRepresentation = sample.PixelRepresentation
        _set_packed(dataset, [frame + b"\xff\xff\0\0"], sample.file_meta.TransferSyntaxUID)
        save(dataset, folder / f"{index}.dcm")
    plane = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    return np.stack([plane] * 3).astype(int)


def _packed_enhanced(kind, after=b""):
    """Frames out of order, each with a slope of its own, signed, packed into one file."""

    def write(folder):
        folder.mkdir()
        voxels = np.random.default_rng(0).integers(-900, 900, (4, 32, 32)).astype(np.int16)
        dataset = enhanced_dataset(voxels.view(np.uint16), [(0, 0, 3.0 * n) for n in (1, 0, 3, 2)])
        dataset.PixelRepresentation = 1
        frames, syntax = _packed(voxels, kind, folder)
        _set_packed(dataset, [frame + after for frame in frames], syntax)
        save(dataset, folder / "one.dcm")
        factors = np.arange(4)[:, None, None]
        return (voxels.astype(int) * (factors + 1) - factors)[[1, 0, 3, 2]]

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
    return write_series(folder, edit=shift(z=lambda index: 0.004 * (-1) ** index))


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
        pytest.param(_jpeg("JPEG", after=bytes(64)), marks=pytest.mark.slow),
        pytest.param(_jpeg("JPEG", after=b"\xff\xff\xff\0"), marks=pytest.mark.slow),
        pytest.param(_jpeg("JPEG2000", after=b"  padding"), marks=pytest.mark.slow),
        pytest.param(_jpeg_ls, marks=pytest.mark.slow),
        pytest.param(_packed_enhanced("JPEG"), marks=pytest.mark.slow),
        pytest.param(_packed_enhanced("JPEG2000", after=b"\0\xff"), marks=pytest.mark.slow),
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
    image = only_scan(tmp_path)
    np.testing.assert_array_equal(image.dataobj, expected.transpose(2, 1, 0))
    assert image.get_data_dtype() in (np.int16, np.float32)


def test_an_enhanced_file_has_the_geometry_of_its_frames(importing, tmp_path):
    _enhanced(tmp_path / "src")
    assert importing() == (0, [])
    expected = np.diag([-SPACING[1], -SPACING[0], 3.0, 1.0])
    np.testing.assert_allclose(only_scan(tmp_path).affine, expected, atol=1e-6)


def _unknown_packing(folder):
    def edit(dataset, index):
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f garbled \xff\xd9"])
        dataset["PixelData"].is_undefined_length = True
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.202"  # high-throughput JPEG 2000

    write_series(folder, edit=edit)


@pytest.mark.slow
def test_an_unknown_packing_is_named_with_what_to_install(importing, tmp_path):
    _unknown_packing(tmp_path / "src")
    code, (line,) = importing()
    assert code == 2
    assert "'im000.dcm' is corrupt, or packed ('High-Throughput JPEG 2000" in line
    assert "Install dcmtk or gdcm" in line


@pytest.mark.slow
@pytest.mark.parametrize("write", [_jpeg("JPEG"), _packed_enhanced("JPEG2000")])
def test_a_jpeg_without_its_end_is_refused_though_its_file_is_whole(write, importing, tmp_path):
    write(tmp_path / "src")
    path = max((tmp_path / "src").iterdir())
    dataset = pydicom.dcmread(path)
    frames = list(
        pydicom.encaps.generate_frames(
            dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames", 1))
        )
    )
    frames[-1] = frames[-1][: len(frames[-1]) // 2]
    _set_packed(dataset, frames, dataset.file_meta.TransferSyntaxUID)
    save(dataset, path)
    code, (line,) = importing()
    assert code == 2
    assert f"the voxels of {path.name!r} are cut off or corrupt. Copy it again" in line


@pytest.mark.slow
def test_a_corrupt_jpeg_is_refused_even_if_its_decoder_breaks_down(importing, tmp_path):
    _jpeg("JPEG")(tmp_path / "src")
    path = tmp_path / "src/1.dcm"
    content = bytearray(path.read_bytes())
    begin = content.rindex(b"\xff\xd8")
    content[begin + 2 : begin + 60] = bytes(58)
    path.write_bytes(content)
    code, lines = importing()
    assert (code, len(lines)) == (2, 1)
    assert "'1.dcm' is corrupt, or packed ('JPEG Lossless" in lines[0]


def test_each_file_is_opened_once_for_its_header_and_once_for_its_voxels(
    importing, tmp_path, monkeypatch
):
    for number in range(4):
        write_series(tmp_path / f"src/{number}", series=f"1.2.{number}", num_slices=9)
    for number, heights in enumerate([(0, 6, 12), (3, 9, 15)]):  # slices of two files by turns
        frames = enhanced_dataset(voxels_of(3), [(0, 0, height) for height in heights])
        frames.SOPInstanceUID += str(number)
        save(frames, tmp_path / f"src/{number}.dcm")
    opened = Counter()
    read = pydicom.dcmread

    def counting(file, *arguments, **settings):
        opened[file.name] += 1
        return read(file, *arguments, **settings)

    monkeypatch.setattr(pydicom, "dcmread", counting)
    assert importing() == (0, [])
    assert len(read_cohort_table(tmp_path / "out/cohort.csv")) == 5
    assert list(opened.values()) == [2] * (4 * 9 + 2)
