"""Bad and odd scans and tables, each with the verdict that it must get."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (9, 10, 11)


@dataclass(frozen=True)
class ScanCase:
    """A scan: `words` are in the reason of a refusal, or in a warning; '' if all is well."""

    name: str
    write: Callable[[Path], None]
    words: str = ""
    refused: bool = True

    def __str__(self) -> str:
        return self.name


def voxels(shape=SHAPE, dtype=np.int16):
    ramp = np.random.default_rng(0).integers(0, 100, size=shape)
    return ramp.astype(dtype)


def nifti_bytes(data=None, affine=None, kind=nib.Nifti1Image, **fields):
    """A single file's bytes; fields of the header are set last, without any check."""
    data = voxels() if data is None else data
    image = kind(data, np.diag([1.0, 1.1, 1.2, 1.0]) if affine is None else affine)
    content = bytearray(image.to_bytes())
    size = 540 if kind is nib.Nifti2Image else 348
    header = type(image.header)(bytes(content[:size]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:size] = header.binaryblock
    return bytes(content)


def _patched(offset, layout, *values):
    content = bytearray(nifti_bytes())
    struct.pack_into(layout, content, offset, *values)
    return bytes(content)


def _png():
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def _bomb(promised_shape, inflated):
    """Gzip data of a header and of `inflated` zeros, written in pieces."""

    def write(path):
        header = nifti_bytes(dim=[3, *promised_shape, 1, 1, 1, 1])[:352]
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(header)
            for _ in range(inflated // 2**22):
                file.write(bytes(2**22))

    return write


def _sparse(path):
    header = nifti_bytes(dim=[3, 3000, 3000, 3000, 1, 1, 1, 1])[:352]
    with path.open("wb") as file:
        file.write(header)
        file.truncate(352 + 2 * 3000**3)


def _raw(content):
    return lambda path: path.write_bytes(content)


def _gz(content, change=lambda content: content):
    return lambda path: path.write_bytes(change(gzip.compress(content)))


def _changed_byte(position):
    def change(content):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        return bytes(changed)

    return change


def _floats(value, dtype=np.float32):
    data = voxels(dtype=dtype)
    data[4, 4, 4] = value
    return data


def _pair(path, kind=nib.Nifti1Pair, affine=None):
    nib.save(kind(voxels(), np.eye(4) if affine is None else affine), path)


def _lost_half(path):
    _pair(path)
    path.with_name(path.name.replace(".hdr", ".img")).unlink()


def _short_half(path):
    _pair(path)
    other = path.with_name(path.name.replace(".hdr", ".img"))
    other.write_bytes(other.read_bytes()[:-2])


def _mgh(dtype="float32", shape=SHAPE):
    def write(path):
        affine = nib.affines.from_matvec(np.diag([-1, 1.1, 1.2]))
        nib.save(nib.MGHImage(voxels(shape, dtype), affine), path)

    return write


def _mgh_without_axes(path):
    _mgh()(path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[28:30] = bytes(2)  # goodRASFlag
    path.write_bytes(gzip.compress(content))


def _analyze(path):
    nib.save(nib.AnalyzeImage(voxels(), np.eye(4)), path)


def _with_extension(path):
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Roe, ward 3"))
    nib.save(image, path)


def _form(sform, qform, **fields):
    return nifti_bytes(sform_code=sform, qform_code=qform, **fields)


def _sheared():
    affine = np.eye(4)
    affine[0, 1] = 0.3
    return affine


def _types() -> Iterator[ScanCase]:
    whole = (f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64))
    for name in (*whole, "float32", "float64"):
        yield ScanCase(f"type_{name}.nii", _raw(_typed(name)), refused=False)
        swapped = _typed(name, big_endian=True)
        yield ScanCase(f"big_endian_{name}.nii.gz", _gz(swapped), refused=False)


def _typed(name, *, big_endian=False, slope=2.5, intercept=-7.0):
    header = nib.Nifti1Header(endianness=">" if big_endian else "<")
    header.set_data_dtype(np.dtype(name))
    header.set_data_shape(SHAPE)
    header.set_sform(np.eye(4), 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header["scl_slope"], header["scl_inter"] = slope, intercept
    data = voxels(dtype=name).astype(header.get_data_dtype())
    return header.binaryblock + bytes(4) + data.tobytes(order="F")


GOOD = nifti_bytes()
LONG = nifti_bytes(voxels((20, 20, 20)))
SCAN_CASES = [
    # what no reader should accept
    ScanCase("empty.nii", _raw(b""), "is empty"),
    ScanCase("empty.nii.gz", _raw(b""), "is empty"),
    ScanCase("one_byte.nii", _raw(b"\x5c"), "no NIfTI file"),
    ScanCase("header_alone.nii", _raw(GOOD[:352]), "is truncated"),
    ScanCase("half_header.nii", _raw(GOOD[:200]), "truncated inside its header"),
    ScanCase("half_header_2.nii", _raw(nifti_bytes(kind=nib.Nifti2Image)[:400]), "truncated"),
    ScanCase("short.nii", _raw(GOOD[:-1]), "is truncated"),
    ScanCase("long.nii", _raw(GOOD + b"\0"), "is too long"),
    ScanCase("long.nii.gz", _gz(GOOD + b"\0"), "goes on after"),
    ScanCase("short.nii.gz", _gz(GOOD[:-1]), "is truncated"),
    ScanCase("cut_gzip.nii.gz", _gz(LONG, lambda content: content[:-900]), "is truncated"),
    ScanCase("no_trailer.nii.gz", _gz(GOOD, lambda content: content[:-8]), "is truncated"),
    ScanCase("half_trailer.nii.gz", _gz(GOOD, lambda content: content[:-3]), "is truncated"),
    ScanCase("bad_crc.nii.gz", _gz(GOOD, _changed_byte(-6)), "damaged gzip data"),
    ScanCase("bad_length.nii.gz", _gz(GOOD, _changed_byte(-2)), "damaged gzip data"),
    ScanCase("bad_middle.nii.gz", _gz(LONG, _changed_byte(2000)), "gzip data"),
    ScanCase("garbage_tail.nii.gz", _gz(GOOD, lambda content: content + b"tail"), "garbage"),
    ScanCase("gzip_header_only.nii.gz", _raw(gzip.compress(b"")[:10]), "is truncated"),
    ScanCase("gzip_of_nothing.nii.gz", _gz(b""), "is empty"),
    ScanCase("twice_gzipped.nii.gz", _gz(gzip.compress(GOOD)), "no NIfTI file"),
    ScanCase("plain.nii.gz", _raw(GOOD), "is not compressed"),
    ScanCase("gzipped.nii", _gz(GOOD), "name does not end in .gz"),
    ScanCase("picture.nii", _raw(_png()), "a PNG picture"),
    ScanCase("picture.nii.gz", _raw(_png()), "a PNG picture"),
    ScanCase("text.nii.gz", _raw(b"patient_id,image\n" * 50), "no NIfTI file"),
    ScanCase("page.nii.gz", _raw(b"<html>404 not found</html>"), "HTML"),
    ScanCase("archive.nii", _raw(b"PK\x03\x04" + bytes(500)), "a ZIP archive"),
    ScanCase("dicom.nii", _raw(bytes(128) + b"DICM" + bytes(400)), "make import-dicom SRC="),
    ScanCase("zeros.nii", _raw(bytes(5000)), "no NIfTI file"),
    ScanCase("pointer.nii.gz", _raw(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs"),
    ScanCase("annex.nii", _raw(b"/annex/objects/MD5E-s1--x.nii\n"), "git annex get"),
    ScanCase("pickle.nii", _raw(b"\x80\x04" + bytes(600)), "a Python pickle"),
    ScanCase("no_magic.nii", _raw(_patched(344, "4s", b"\0\0\0\0")), "no NIfTI magic"),
    ScanCase("other_magic.nii", _raw(_patched(344, "4s", b"abc\0")), "no NIfTI magic"),
    ScanCase("magic_of_a_pair.nii", _raw(_patched(344, "4s", b"ni1\0")), "in an .img file"),
    ScanCase("other_size.nii", _raw(_patched(0, "i", 349)), "no NIfTI file"),
    ScanCase("analyze.hdr", _analyze, "Analyze 7.5"),
    ScanCase("lost_half.hdr", _lost_half, "lacks 'lost_half.img'"),
    ScanCase("short_half.hdr", _short_half, "is truncated"),
    ScanCase("gigabytes.nii", _raw(nifti_bytes(dim=[3, 30000, 30000, 3, 1, 1, 1, 1])), "promises"),
    ScanCase(
        "gigabytes.nii.gz", _gz(nifti_bytes(dim=[3, 3000, 3000, 300, 1, 1, 1, 1])), "promises"
    ),
    ScanCase(
        "millions.nii.gz", _gz(nifti_bytes(dim=[3, 400, 400, 400, 1, 1, 1, 1])), "is truncated"
    ),
    ScanCase("sparse.nii", _sparse, "promises"),
    ScanCase("bomb.nii.gz", _bomb(SHAPE, 2**28), "goes on after"),
    ScanCase("honest_bomb.nii.gz", _bomb((512, 512, 256), 2**27), "is constant"),
    ScanCase("offset_inside_header.nii", _raw(nifti_bytes(vox_offset=100)), "begin at byte 100"),
    ScanCase("no_offset.nii", _raw(nifti_bytes(vox_offset=0)), "begin at byte 0"),
    ScanCase("offset_far.nii", _raw(nifti_bytes(vox_offset=1e12)), "begin at byte"),
    ScanCase("offset_nan.nii", _raw(nifti_bytes(vox_offset=np.nan)), "begin at byte nan"),
    ScanCase("offset_negative.nii", _raw(nifti_bytes(vox_offset=-352)), "begin at byte -352"),
    ScanCase("offset_fraction.nii", _raw(nifti_bytes(vox_offset=352.5)), "begin at byte 352.5"),
    # shapes and types
    ScanCase("four_volumes.nii", _raw(nifti_bytes(voxels((8, 8, 8, 4)))), "not that of one 3D"),
    ScanCase("vectors.nii", _raw(nifti_bytes(voxels((8, 8, 8, 1, 3)))), "not that of one 3D"),
    ScanCase("one_slice.nii", _raw(nifti_bytes(voxels((32, 32, 1)))), "fewer than 3 voxels"),
    ScanCase("two_slices.nii", _raw(nifti_bytes(voxels((2, 32, 32)))), "fewer than 3 voxels"),
    ScanCase("flat.nii", _raw(nifti_bytes(voxels((32, 32)))), "fewer than 3 voxels"),
    ScanCase("one_voxel.nii", _raw(nifti_bytes(voxels((1, 1, 1)))), "fewer than 3 voxels"),
    ScanCase("no_axes.nii", _raw(nifti_bytes(dim=[0, 9, 10, 11, 1, 1, 1, 1])), "0 axes"),
    ScanCase("nine_axes.nii", _raw(nifti_bytes(dim=[9, 9, 10, 11, 1, 1, 1, 1])), "9 axes"),
    ScanCase("zero_axis.nii", _raw(nifti_bytes(dim=[3, 9, 0, 11, 1, 1, 1, 1])), "9 × 0 × 11"),
    ScanCase("negative_axis.nii", _raw(nifti_bytes(dim=[3, 9, -10, 11, 1, 1, 1, 1])), "-10"),
    ScanCase("rgb.nii", _raw(nifti_bytes(datatype=128, bitpix=24)), "RGB"),
    ScanCase("rgba.nii", _raw(nifti_bytes(datatype=2304, bitpix=32)), "RGBA"),
    ScanCase("complex.nii", _raw(nifti_bytes(voxels(dtype=np.complex64))), "complex"),
    ScanCase("complex_128.nii", _raw(nifti_bytes(voxels(dtype=np.complex128))), "complex"),
    ScanCase("bits.nii", _raw(nifti_bytes(datatype=1, bitpix=1)), "bits"),
    ScanCase("quads.nii", _raw(nifti_bytes(datatype=1536, bitpix=128)), "128-bit"),
    ScanCase("untyped.nii", _raw(nifti_bytes(datatype=0)), "unknown type"),
    ScanCase("strange_type.nii", _raw(nifti_bytes(datatype=77)), "unknown type"),
    # intensities
    ScanCase("nan.nii", _raw(nifti_bytes(_floats(np.nan))), "NaN or infinite"),
    ScanCase("infinite.nii", _raw(nifti_bytes(_floats(np.inf))), "NaN or infinite"),
    ScanCase("minus_infinite.nii.gz", _gz(nifti_bytes(_floats(-np.inf))), "NaN or infinite"),
    ScanCase("nan_64.nii", _raw(nifti_bytes(_floats(np.nan, np.float64))), "NaN or infinite"),
    ScanCase("all_nan.nii", _raw(nifti_bytes(np.full(SHAPE, np.nan, "f4"))), "NaN or infinite"),
    ScanCase("beyond_float32.nii", _raw(nifti_bytes(_floats(1e300, np.float64))), "beyond float32"),
    ScanCase("black.nii", _raw(nifti_bytes(np.zeros(SHAPE, np.uint8))), "is constant (0)"),
    ScanCase("grey.nii.gz", _gz(nifti_bytes(np.full(SHAPE, 7, np.int16))), "is constant (7)"),
    ScanCase("rounded_away.nii", _raw(nifti_bytes(scl_slope=1e-6, scl_inter=1e6)), "is constant"),
    ScanCase("infinite_slope.nii", _raw(nifti_bytes(scl_slope=np.inf)), "slope inf"),
    ScanCase("minus_slope.nii", _raw(nifti_bytes(scl_slope=-np.inf)), "slope -inf"),
    ScanCase("nan_intercept.nii", _raw(nifti_bytes(scl_inter=np.nan)), "intercept nan"),
    ScanCase("infinite_intercept.nii", _raw(nifti_bytes(scl_inter=np.inf)), "intercept inf"),
    ScanCase("huge_slope.nii", _raw(nifti_bytes(scl_slope=3e38)), "beyond float32"),
    # geometry
    ScanCase("no_forms.nii", _raw(_form(0, 0)), "does not say its orientation"),
    ScanCase("unknown_forms.nii", _raw(_form(99, -3)), "does not say its orientation"),
    ScanCase("singular.nii", _raw(nifti_bytes(srow_z=[1, 0, 0, 0])), "singular affine"),
    ScanCase("zero_affine.nii", _raw(nifti_bytes(srow_x=[0, 0, 0, 0])), "singular affine"),
    ScanCase("nan_affine.nii", _raw(nifti_bytes(srow_x=[np.nan, 0, 0, 0])), "not finite"),
    ScanCase("infinite_origin.nii", _raw(nifti_bytes(srow_y=[0, 1.1, 0, np.inf])), "not finite"),
    ScanCase("bad_quaternion.nii", _raw(_form(0, 1, quatern_b=3)), "no valid quaternion"),
    ScanCase("nan_quaternion.nii", _raw(_form(0, 1, quatern_c=np.nan)), "no valid quaternion"),
    ScanCase("nan_offset.nii", _raw(_form(0, 1, qoffset_x=np.nan)), "not finite"),
    ScanCase("zero_pixdim.nii", _raw(nifti_bytes(pixdim=[1, 0, 1, 1, 1, 1, 1, 1])), "positive"),
    ScanCase("minus_pixdim.nii", _raw(nifti_bytes(pixdim=[1, -1, 1, 1, 1, 1, 1, 1])), "positive"),
    ScanCase("nan_pixdim.nii", _raw(nifti_bytes(pixdim=[1, 1, np.nan, 1, 1, 1, 1, 1])), "positive"),
    ScanCase("metres.nii", _raw(nifti_bytes(xyzt_units=1)), "absurd voxel size"),
    ScanCase("tiny.nii", _raw(nifti_bytes(affine=np.diag([1e-6, 1e-6, 1e-6, 1]))), "absurd"),
    ScanCase("huge.nii", _raw(nifti_bytes(affine=np.diag([1e4, 1, 1, 1]))), "absurd voxel size"),
    ScanCase("four_volumes.mgz", _mgh(shape=(8, 8, 8, 4)), "not that of one 3D"),
    ScanCase("no_ras.mgz", _mgh_without_axes, "does not say its orientation"),
    ScanCase("nifti.mgz", _gz(GOOD), "no FreeSurfer volume"),
    ScanCase("not_packed.mgz", _raw(GOOD), "is not compressed"),
    ScanCase("cut.mgz", _gz(bytes(3) + b"\1" + bytes(100)), "truncated"),
    # odd, but to be used: some with a word of warning
    *_types(),
    *(ScanCase(f"{kind}.mgz", _mgh(kind), refused=False) for kind in ("uint8", "int16", "int32")),
    ScanCase("float.mgz", _mgh(), refused=False),
    ScanCase("plain.mgh", _mgh(), refused=False),
    ScanCase("nifti_2.nii", _raw(nifti_bytes(kind=nib.Nifti2Image)), refused=False),
    ScanCase("nifti_2.nii.gz", _gz(nifti_bytes(kind=nib.Nifti2Image)), refused=False),
    ScanCase("pair.hdr", _pair, refused=False),
    ScanCase("pair_2.hdr", lambda path: _pair(path, nib.Nifti2Pair), refused=False),
    ScanCase("pair_by_voxels.img", _pair, refused=False),
    ScanCase("gzipped_pair.hdr.gz", _pair, refused=False),
    ScanCase("gzipped_pair_by_voxels.img.gz", _pair, refused=False),
    ScanCase("SHOUTING.NII", _raw(GOOD), refused=False),
    ScanCase("SHOUTING.NII.GZ", _gz(GOOD), refused=False),
    ScanCase("with space and ünïcödé 脳.nii.gz", _gz(GOOD), refused=False),
    ScanCase("dots.in.the.name.nii.gz", _gz(GOOD), refused=False),
    ScanCase("-dash, comma.nii", _raw(GOOD), refused=False),
    ScanCase(
        "members.nii.gz", _raw(gzip.compress(GOOD[:999]) + gzip.compress(GOOD[999:])), refused=False
    ),
    ScanCase("padded.nii.gz", _gz(GOOD, lambda content: content + bytes(512)), refused=False),
    ScanCase("one_volume.nii", _raw(nifti_bytes(voxels((*SHAPE, 1)))), refused=False),
    ScanCase("one_vector.nii", _raw(nifti_bytes(voxels((*SHAPE, 1, 1, 1)))), refused=False),
    ScanCase("three_slices.nii", _raw(nifti_bytes(voxels((9, 9, 3)))), refused=False),
    ScanCase("no_slope.nii", _raw(nifti_bytes(scl_slope=0, scl_inter=5)), refused=False),
    ScanCase("minus_one_slope.nii", _raw(nifti_bytes(scl_slope=-1)), refused=False),
    ScanCase("nan_slope.nii", _raw(nifti_bytes(scl_slope=np.nan)), "the slope NaN", refused=False),
    ScanCase("qform.nii", _raw(_form(0, 1, pixdim=[0, 1, 1.1, 1.2, 1, 1, 1, 1])), refused=False),
    ScanCase("mirrored.nii", _raw(nifti_bytes(affine=np.diag([-1.0, 1, 1, 1]))), refused=False),
    ScanCase(
        "micrometres.nii",
        _raw(nifti_bytes(affine=np.diag([500.0, 500, 500, 1]), xyzt_units=3)),
        refused=False,
    ),
    ScanCase("sheared.nii", _raw(nifti_bytes(affine=_sheared())), "sheared", refused=False),
    ScanCase(
        "thick.nii",
        _raw(nifti_bytes(affine=np.diag([0.5, 0.5, 6, 1]))),
        "anisotropic",
        refused=False,
    ),
    ScanCase(
        "contradiction.nii",
        _raw(nifti_bytes(pixdim=[1, 2, 2, 2, 1, 1, 1, 1])),
        "pixdim says",
        refused=False,
    ),
    ScanCase(
        "named.nii",
        _raw(nifti_bytes(descrip=b"DOE^JANE 1970-01-01")),
        "field descrip",
        refused=False,
    ),
    ScanCase("database.nii", _raw(nifti_bytes(db_name=b"Mueller")), "field db_name", refused=False),
    ScanCase(
        "auxiliary.nii", _raw(nifti_bytes(aux_file=b"roe_jane.txt")), "aux_file", refused=False
    ),
    ScanCase("software.nii", _raw(nifti_bytes(descrip=b"FSL5.0", aux_file=b"none")), refused=False),
    ScanCase("extension.nii", _with_extension, "header extension", refused=False),
]


@dataclass(frozen=True)
class TableCase:
    """A table next to the scans a.nii to f.nii; `words` are in the line that refuses or warns."""

    name: str
    content: bytes
    words: str = ""
    refused: bool = True
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name


def _table(*lines, header="patient_id,image", encoding="utf-8", end="\n"):
    return (end.join([*([header] if header else []), *lines]) + end).encode(encoding)


def _labelled(*lines, header="patient_id,image,label", **settings):
    return _table(*lines, header=header, **settings)


MISSPELT = "patient_id,image,Lable"
OK_ROWS = ("p1,a.nii,ill", "p2,b.nii,well")
OK = ("p1,a.nii", "p2,b.nii")
NA_LABEL = _labelled("p1,a.nii,ill", "p2,b.nii,NA", "p3,c.nii,NA")
PER_SCAN = ("--data.labels_per=scan",)
TABLE_CASES = [
    TableCase("empty", b"", "no rows"),
    TableCase("blank lines", b"\n\n\n", "no rows"),
    TableCase("header alone", _table(), "no rows"),
    TableCase("no patient column", _table("1,a.nii", header="id,image"), "no column 'patient_id'"),
    TableCase("misspelt column", _table("1,a.nii", header="patientid,image"), "did you mean"),
    TableCase("no image column", _table("1,a.nii", header="patient_id,file"), "no column 'image'"),
    TableCase("column twice", _table("1,a,b", header="patient_id,image,image"), "two columns"),
    TableCase("spaces as separators", _table("1 a.nii", header="patient_id image"), "no column"),
    TableCase("short row", _labelled("p1,a.nii"), "2 cells where the header has 3"),
    TableCase("long row", _table("p1,a.nii,x"), "3 cells where the header has 2"),
    TableCase("unquoted comma", _table("p1,a,b.nii"), "3 cells where the header has 2"),
    TableCase("mixed separators", _table("p1;a.nii"), "1 cells where the header has 2"),
    TableCase("open quote", _table('p1,"a.nii'), "row 2"),
    TableCase("quote inside", _table('p1,"a"x.nii'), "row 2"),
    TableCase("latin-1", _table("pä,a.nii", encoding="latin-1"), "not UTF-8"),
    TableCase("utf-16", _table(*OK, encoding="utf-16"), "not UTF-8"),
    TableCase("spreadsheet", b"PK\x03\x04\xff\xfe" + bytes(range(256)), "a spreadsheet"),
    TableCase("zero byte in path", _table("p1,a\0.nii"), "p1"),
    TableCase("empty patient", _table(",a.nii"), "patient_id is empty"),
    TableCase("blank patient", _table("  \t,a.nii"), "patient_id is empty"),
    TableCase("empty image", _table("p1,"), "image is empty"),
    TableCase("missing file", _table("p1,none.nii"), "does not exist"),
    TableCase("backslashes", _table("p1,scans\\a.nii"), "Write / instead"),
    TableCase("folder", _table("p1,folder.nii"), "is not a file"),
    TableCase("other suffix", _table("p1,a.nrrd"), "not a NIfTI file"),
    TableCase("wrong suffix", _table("p1,a.mgz"), "no FreeSurfer volume"),
    TableCase("workbook", b"PK\x03\x04\x14\0\x06\0" + bytes(30), "save it as CSV (UTF-8)"),
    TableCase("old workbook", b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(30), "an Excel workbook"),
    TableCase("pointer", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    TableCase("no header", _labelled(*OK_ROWS, header=None), "no header line"),
    TableCase("misspelt label column", _table(*OK_ROWS, header=MISSPELT), "mean 'label'?", False),
    TableCase("one class", _labelled("p1,a.nii,ill", "p2,b.nii,ill"), "needs two classes", False),
    TableCase(
        "own split", _table("p1,a.nii,test", header="patient_id,image,split"), "SPLITS=", False
    ),
    TableCase("pipe", _table("p1,pipe.nii"), "is not a file"),
    TableCase("loop", _table("p1,loop.nii"), "leads back to itself"),
    TableCase("long name", _table(f"p1,{'x' * 5000}.nii"), "has no path"),
    TableCase("climbs", _table("p1,../outside.nii"), "climbs out"),
    TableCase("climbs later", _table("p1,sub/../../outside.nii"), "climbs out"),
    TableCase("same row twice", _table("p1,a.nii", "p1,a.nii"), "listed already in row 2"),
    TableCase("same file of two", _table("p1,a.nii", "p2,a.nii"), "listed already in row 2"),
    TableCase("same file by dots", _table("p1,a.nii", "p2,./sub/../a.nii"), "listed already"),
    TableCase("same file by link", _table("p1,a.nii", "p2,link.nii"), "listed already in row 2"),
    TableCase("same file by hard link", _table("p1,a.nii", "p2,hard.nii"), "listed already"),
    TableCase("both files of a pair", _table("p1,g.hdr", "p2,g.img"), "listed already in row 2"),
    TableCase("control characters", _table("p\x1b[31m1,no\x07ne.nii"), r"\x1b"),
    TableCase("two labels", _labelled("p1,a.nii,yes", "p1,b.nii,no"), "--data.labels_per=scan"),
    TableCase("empty label", _labelled("p1,a.nii,yes", "p2,b.nii,"), "label is empty"),
    *(
        TableCase(
            f"label {word}",
            _labelled("p1,a.nii,ill", f"p2,b.nii,{word}"),
            "(3) means that it is missing",
        )
        for word in ("NA", "n/a", "N/A", "NaN", "nan", "null", "NULL", "None", "-", "?", "#N/A")
    ),
    TableCase(
        "NA and another class",
        NA_LABEL,
        "of 2 rows (3, 4) means",
        arguments=("--data.classes=[ill,well]",),
    ),
    TableCase(
        "misspelt label",
        _labelled("p1,a.nii,healthy", "p2,b.nii,healthy", "p3,c.nii,helthy", "p4,d.nii,ill"),
        "looks like 'healthy'",
    ),
    *(
        TableCase(
            f"label {one} and {other}",
            _labelled(f"p1,a.nii,{one}", "p2,b.nii,2", f'p3,c.nii,"{other}"'),
            f"labels '{one}' (row 2) and '{other}' (row 4) are one number",
        )
        for one, other in (
            *(("0", "0.0"), ("1", "1.0"), ("1", "1e0"), ("1", "+1"), ("1", "01"), ("0.50", ".5")),
            *(("1", "1,0"), ("-1", "-1."), ("0", "-0"), ("1000", "1E3")),
        )
    ),
    TableCase(
        "number of a class in another spelling",
        _labelled("p1,a.nii,0.0", "p2,b.nii,1"),
        "did you mean '0'?",
        arguments=("--data.classes=['0','1']",),
    ),
    TableCase("other case", _labelled("p1,a.nii,Healthy", "p2,b.nii,healthy"), "looks like"),
    TableCase("invisible letter", _labelled("p1,a.nii,ill\u200b", "p2,b.nii,ill"), "looks like"),
    TableCase(
        "unknown class",
        _labelled("p1,a.nii,ill", "p2,b.nii,perhaps"),
        "not among the classes",
        arguments=("--data.classes=[well,ill]",),
    ),
    TableCase(
        "class too small",
        _labelled("p1,a.nii,yes", "p2,b.nii,yes", "p3,c.nii,no"),
        "class 'no' has 1 patient, too few for 2 folds",
        arguments=("--data.splits.num_folds=2",),
    ),
    TableCase("one name in two forms", _table("é,a.nii", "e\u0301,b.nii"), "another spelling"),
    TableCase(
        "orientation",
        _table(*OK),
        "three letters",
        True,
        ("--data.preprocessing.assume_orientation=XYZ",),
    ),
    # odd, but to be used
    TableCase("plain", _table(*OK), refused=False),
    TableCase("byte order mark", _table(*OK, encoding="utf-8-sig"), refused=False),
    TableCase("windows", _table(*OK, end="\r\n"), refused=False),
    TableCase("old macintosh", _table(*OK, end="\r"), refused=False),
    TableCase("tabs", _table(*OK).replace(b",", b"\t"), refused=False),
    TableCase("semicolons", _table(*OK).replace(b",", b";"), refused=False),
    TableCase(
        "windows, semicolons, mark",
        _table(*OK, encoding="utf-8-sig", end="\r\n").replace(b",", b";"),
        refused=False,
    ),
    TableCase(
        "told separator", b"sep=;\r\n" + _table(*OK, end="\r\n").replace(b",", b";"), "", False
    ),
    TableCase(
        "quoted separator", b'"sep=;"\n' + _table(*OK).replace(b",", b";"), "", refused=False
    ),
    TableCase("told separator and a fault", b"sep=;\npatient_id;image\np;none.nii\n", "row 3: "),
    TableCase("accents apart", _table("p1,e\u0301.nii", "p2,\u00fc.nii"), refused=False),
    TableCase("no last newline", _table(*OK)[:-1], refused=False),
    TableCase("blank lines between", _table("", "p1,a.nii", "", ""), refused=False),
    TableCase("empty columns", _table("p1,a.nii,,", header="patient_id,image,,"), refused=False),
    TableCase("quotes", _table('"p1","a.nii"'), refused=False),
    TableCase("quoted comma", _table('"p,1","a.nii"'), refused=False),
    TableCase("spaces around", _table(" p1 , a.nii "), refused=False),
    TableCase("NA named as class", NA_LABEL, "", False, ("--data.classes=[ill,NA]",)),
    TableCase("names like None", _labelled("p1,a.nii,Nanning", "p2,b.nii,nonexistent"), "", False),
    TableCase("unicode", _table("Müller-脳,a.nii"), refused=False),
    TableCase("formula", _table("=1+1,a.nii"), refused=False),
    TableCase("dots inside", _table("p1,sub/../a.nii"), refused=False),
    *(
        TableCase(
            f"id {other}", _table(f"{one},a.nii", f'"{other}",b.nii'), "another spelling", False
        )
        for one, other in (
            *(("1", "001"), ("2", "2.0"), ("2", "2,0"), ("002", "2.00"), ("p2", "P2"), ("2", "２")),
            *(("sub-2", "sub-2.0"), ("p 2", "p_02"), ("2000", "2E3")),
        )
    ),
    *(
        TableCase(
            f"id {name}",
            _table(f"{name},a.nii", f"{name},b.nii", "p3,c.nii"),
            f"patient_id '{name}' of 2 rows (2, 3) may mean that it is missing, but counts as one",
            refused=False,
        )
        for name in ("NA", "n/a", "null", "NaN", "-", "unknown")
    ),
    TableCase("site.patient", _table("1.1,a.nii", "1.10,b.nii", "1.11,c.nii"), refused=False),
    TableCase("other numbers", _labelled("1.2.0,a.nii,0.1", "1.2,b.nii,0.10001"), "", False),
    TableCase("long numbers", _table(f"{10**30},a.nii", f"{10**30 + 1},b.nii"), refused=False),
    TableCase("labels per scan", _labelled("p1,a.nii,yes", "p1,b.nii,no"), "", False, PER_SCAN),
    TableCase("prefix", _labelled("p1,a.nii,healthy", "p2,b.nii,unhealthy"), "", False),
    TableCase("grades", _labelled("p1,a.nii,grade1", "p2,b.nii,grade2"), "", False),
]


def write_table_corpus(folder: Path) -> None:
    """Write the scans that the tables name, and the traps next to them."""
    for seed, name in enumerate("abcdef"):
        data = np.random.default_rng(seed).integers(0, 100, size=SHAPE).astype(np.int16)
        (folder / f"{name}.nii").write_bytes(nifti_bytes(data))
    (folder / "a.mgz").write_bytes(gzip.compress(GOOD))
    (folder / "a.nrrd").write_bytes(GOOD)
    for seed, name in enumerate(("\u00e9", "u\u0308")):  # in the table in the other form
        data = np.random.default_rng(9 + seed).integers(0, 100, size=SHAPE).astype(np.int16)
        (folder / f"{name}.nii").write_bytes(nifti_bytes(data))
    (folder / "sub").mkdir()
    (folder / "folder.nii").mkdir()
    (folder.parent / "outside.nii").write_bytes(GOOD)
    (folder / "link.nii").symlink_to("a.nii")
    (folder / "hard.nii").hardlink_to(folder / "a.nii")
    (folder / "loop.nii").symlink_to("loop.nii")
    os.mkfifo(folder / "pipe.nii")
    _pair(folder / "g.hdr")
