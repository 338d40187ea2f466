"""2D pictures: PNG, JPEG and TIFF in the place of volumes."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.augmentation import Augmentation
from datamodules.batches.warp import rotated_extent, voxel_map
from datamodules.changes import apply_torchio
from datamodules.checks.scan_check import check_scan
from datamodules.fingerprint import Fingerprint, plan_preprocessing
from datamodules.preprocessing import Preprocessing, preprocess
from datamodules.reading.cohort_table import read_cohort_table
from datamodules.reading.nifti import Reading, read_volume
from datamodules.reading.nifti_bytes import ScanError

SHAPE = 7, 9  # H, W


@pytest.fixture
def grey():
    smooth = np.add.outer(np.arange(SHAPE[0]) * 20, np.arange(SHAPE[1]) * 10)
    return smooth.astype(np.uint8)


def _upright(path):
    """What is read, as (H, W) from the top."""
    return read_volume(path).voxels[..., 0].T[::-1]


def test_grey_pixels_of_every_kind_are_read_as_they_are(tmp_path, grey):
    wide = grey.astype(np.uint16) * 300
    for name, array in {
        "a.png": grey,
        "b.PNG": wide,
        "c.tif": wide,
        "d.tiff": wide.astype(np.int32),
        "e.tif": wide.astype(np.float32) / 7,
        "f.png": grey > 90,
    }.items():
        Image.fromarray(array).save(tmp_path / name)
        scale = 255 if array.dtype == bool else 1
        np.testing.assert_array_equal(_upright(tmp_path / name), array.astype(np.float32) * scale)
    Image.fromarray(grey).save(tmp_path / "g.jpg", quality=100)
    assert np.abs(_upright(tmp_path / "g.jpg") - grey).max() <= 3
    geometry = read_volume(tmp_path / "a.png").geometry
    assert (geometry.shape, geometry.orientation) == ((9, 7, 1), "RAS")
    assert not geometry.spacing_known


def test_colours_become_their_brightness_and_this_is_told_once_a_picture(tmp_path, grey):
    colours = np.stack([grey, grey[::-1], grey // 2], axis=2)
    luma = (colours @ [0.299, 0.587, 0.114]).round()
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "palette.png"
    )
    opaque = np.dstack([colours, np.full(SHAPE, 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "rgba.tif")
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "grey.png")
    for name in ("rgb.png", "palette.png", "rgba.tif"):
        assert np.abs(_upright(tmp_path / name) - luma).max() <= 1
        ((what, _),) = read_volume(tmp_path / name).geometry.warnings
        assert "has colours" in what
    np.testing.assert_array_equal(_upright(tmp_path / "grey.png"), grey)
    assert not read_volume(tmp_path / "grey.png").geometry.warnings


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_turned_picture_is_read_upright(tmp_path, grey, name):
    turned = {  # EXIF orientation: where row 0 and column 0 of what is stored are on the screen
        1: grey,
        2: grey[:, ::-1],
        3: grey[::-1, ::-1],
        4: grey[::-1],
        5: grey.T,
        6: grey.T[::-1],
        7: grey.T[::-1, ::-1],
        8: grey.T[:, ::-1],
    }
    for orientation, stored in turned.items():
        picture, exif = Image.fromarray(np.ascontiguousarray(stored)), Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / name, exif=exif, quality=100)
        assert np.abs(_upright(tmp_path / name) - grey).max() <= 3, orientation


def _chunk(kind, data):
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def _deep_png(kind, numbers):
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    lines = b"".join(b"\0" + bytes(range(SHAPE[1] * numbers * 2)) for _ in range(SHAPE[0]))
    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], 16, kind, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines)), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _saved(image, path, **how):
    image.save(path, **how)
    return path.read_bytes()


def _faults(grey, folder):
    image = Image.fromarray(grey)
    big = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    png, jpeg = _saved(big, folder / "1.png"), _saved(big, folder / "1.jpg")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 1
    half = np.dstack([grey, grey, grey, grey])
    white = _saved(Image.fromarray(grey.astype(np.uint16)), folder / "w.tif", tiffinfo={262: 0})
    pages = {"save_all": True, "append_images": [image]}
    return {
        "pages.tif": (_saved(image, folder / "2.tif", **pages), "holds 2 pictures. Save one page"),
        "moving.png": (_saved(image, folder / "2.png", **pages), "holds 2 pictures"),
        "glass.png": (_saved(Image.fromarray(half), folder / "3.png"), "has transparent pixels"),
        "deep.png": (_deep_png(2, 3), "has 16 bits a colour, which would be cut to 8"),
        "deep_alpha.png": (_deep_png(4, 2), "has 16 bits a colour"),
        "print.jpg": (_saved(image.convert("CMYK"), folder / "4.jpg"), "of the kind CMYK"),
        "white.tif": (white, "stores white as 0"),
        "short.png": (png[: len(png) // 2], "cannot be decoded"),
        "short.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "flipped.png": (bytes(flipped), "cannot be decoded"),
        "words.jpg": (b"patient,image\n", "is no PNG, JPEG or TIFF picture"),
        "empty.png": (b"", "is no PNG, JPEG or TIFF picture"),
        "even.png": (_saved(Image.new("L", (9, 9), 7), folder / "5.png"), "is constant (7)"),
        "thin.png": (_saved(Image.new("L", (9, 2)), folder / "6.png"), "has 9 × 2 pixels"),
    }


def test_what_would_be_read_wrongly_is_refused_in_one_line(tmp_path, grey):
    (tmp_path / "made").mkdir()
    for name, (content, words) in _faults(grey, tmp_path / "made").items():
        (tmp_path / name).write_bytes(content)
        check = check_scan(tmp_path / name, Reading(), tmp_path / "cache")
        assert check.fault is not None, name
        what, fix = check.fault
        assert words in f"{what}. {fix}.", name
        assert "\n" not in what, name
    with pytest.raises(ScanError, match="2 pictures"):
        read_volume(tmp_path / "pages.tif")


def test_pictures_and_volumes_in_one_table_are_refused(tmp_path, write_scan, grey):
    write_scan("a.nii")
    Image.fromarray(grey).save(tmp_path / "b.png")
    (tmp_path / "cohort.csv").write_text("patient_id,image\n1,a.nii\n2,b.png\n")
    with pytest.raises(ValueError, match="names 1 pictures and 1 volumes"):
        read_cohort_table(tmp_path / "cohort.csv")


def test_a_picture_is_planned_turned_and_shown_in_its_plane(tmp_path, grey):
    shapes = np.tile([90, 70, 1], (3, 1))
    pictures = Fingerprint(shapes, np.ones((3, 3)), np.zeros(3, bool), np.ones(3, bool))
    plan, why = plan_preprocessing(pictures, Preprocessing(voxel_budget=1600, margin_degrees=10))
    assert (plan.spatial_shape, plan.fit) == ((45, 35, 1), "resize")
    assert "Pictures do not say their pixel size; it counts as 1 × 1 × 1 mm." in why
    given = Preprocessing(voxel_budget=6300, assume_spacing_mm=(0.5, 0.5, 1.0))
    plan, _ = plan_preprocessing(pictures, given)
    assert (plan.spatial_shape, plan.spacing_mm) == ((90, 70, 1), (0.5, 0.5, 1.0))
    turn, shift = np.array([9.0, 8.0, 7.0]), np.array([1.0, 2.0, 3.0])
    flat = voxel_map(1.1, turn, shift, np.zeros(3, bool), np.ones(3), (9, 7, 1))
    only = voxel_map(
        1.1, turn * [0, 0, 1], shift * [1, 1, 0], np.zeros(3, bool), np.ones(3), (9, 7, 9)
    )
    np.testing.assert_allclose(flat[:2], only[:2] - only[:2, 2:3] * [0, 0, 1, 0])
    np.testing.assert_allclose(flat[2, [0, 1, 3]], 0, atol=1e-12)
    assert rotated_extent(np.array([9.0, 7.0, 1.0]), np.array([0.0, 0.0, 10.0]))[2] == 1
    Image.fromarray(grey).save(tmp_path / "a.png")
    volume = preprocess(tmp_path / "a.png", Preprocessing(spatial_shape=(9, 7, 1), fit="resize"))
    assert volume.volume.shape == (1, 9, 7, 1)
    with pytest.raises(ValueError, match=r"has 9 × 7 × 1 voxels, but volumes of 9 × 7 × 8"):
        preprocess(tmp_path / "a.png", Preprocessing(spatial_shape=(9, 7, 8)))


def test_torchios_transforms_keep_a_picture_in_its_plane():
    elastic = Augmentation(mode="fresh", elastic_mm=2.0)
    even = torch.ones(2, 1, 30, 24, 1)
    torch.testing.assert_close(apply_torchio(even, np.ones((2, 3)), elastic, [1, 2]), even)
    ramp = torch.arange(30.0)[:, None, None].expand(1, 1, 30, 24, 1)
    moved = apply_torchio(ramp, np.ones((1, 3)), elastic, [1])
    assert 0.1 < (moved - ramp).abs().mean() < 4
