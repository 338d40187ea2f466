"""The bytes of a NIfTI file or pair: read in bounded pieces, believed only once they add up.

Nothing here trusts a name, a length or a checksum: what a file is, is told by its first bytes;
gzip data are inflated no further than the header promises, and their checksum is compared.
"""

import stat
import struct
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import nibabel as nib

from files.open_files import refuse_too_many

VOLUMES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".mgz", ".mgh")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SUFFIXES = VOLUMES + PICTURES
MAX_BYTES = 768 * 2**20  # of one volume as stored and as float32: 512 × 512 × 512 voxels of 16 bits
CHUNK = 2**17
MAX_MEMBERS = 20_000  # of a gzip file; bgzip begins one every 64 KiB
HEADER_SIZES = {
    struct.pack(f"{order}i", size): (order, size) for order in "<>" for size in (348, 540)
}
OTHER_TYPES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x89HDF": "an HDF5 file",
    b"NRRD": "an NRRD volume",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04": "a Python pickle",
    b"<": "an HTML or XML page",
    b"version https://git-lfs": "a Git LFS pointer: its content was not fetched",
    b"/annex/objects": "a git-annex pointer: its content was not fetched",
}
FETCHED_BY = {
    b"version https://git-lfs": "Fetch it: git lfs pull",
    b"/annex/objects": "Fetch it: git annex get",
}
IMPORT_DICOM = "Import its folder: make import-dicom SRC=folder OUT=folder"


class ScanError(ValueError):
    """What is wrong with a scan, as a predicate without its subject, and how to fix it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}. {fix}.")
        self.what = what
        self.fix = fix


def printable(text: object) -> str:
    """Escape control, invisible and direction-changing characters."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text).encode("utf-8", "backslashreplace").decode()
    )


def suffix_of(path: Path) -> str:
    """The suffix as it is written, such as '.nii.gz'; '' if it is none that can be read."""
    length = max((len(end) for end in SUFFIXES if path.name.lower().endswith(end)), default=0)
    return path.name[len(path.name) - length :]


def is_picture(path: Path) -> bool:
    """Whether the name is that of a 2D picture."""
    return path.name.lower().endswith(PICTURES)


def header_file(path: Path) -> Path:
    """The file with a scan's header: of a .hdr and .img pair the .hdr, else the file itself."""
    return _sibling(path, "img", "hdr")


def voxel_file(path: Path) -> Path:
    """The file with a scan's voxels: of a .hdr and .img pair the .img, else the file itself."""
    return _sibling(path, "hdr", "img")


def _sibling(path: Path, of: str, wanted: str) -> Path:
    suffix = suffix_of(path)
    if suffix[1:4].lower() != of:
        return path
    wanted = wanted.upper() if suffix[1:4].isupper() else wanted
    return path.with_name(f"{path.name.removesuffix(suffix)}.{wanted}{suffix[4:]}")


class ByteSource:
    """Bytes of a plain or gzip file in bounded pieces; a gzip file's checksum is verified.

    Args:
        path: File to open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BufferedReader = _open(path)
        start = self.file.read(132)
        self.file.seek(0)
        self.size = path.stat().st_size
        self.is_gzip = start.startswith(b"\x1f\x8b")
        self._inflater = zlib.decompressobj(31)
        self._pending = b""
        self._members = 1
        if self.is_gzip != path.name.lower().endswith((".gz", ".mgz")):
            self.file.close()
            _refuse_name(start)

    def __enter__(self) -> "ByteSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def take(self, wanted: int) -> bytearray:
        """Read up to `wanted` bytes; fewer only at the end of the file."""
        taken = bytearray()
        while len(taken) < wanted:
            room = min(wanted - len(taken), CHUNK)
            piece = self._inflate(room) if self.is_gzip else self.file.read(room)
            if not piece:
                break
            taken += piece
        return taken

    def refuse_more(self, promised: int) -> None:
        """Raise if the file goes on; reaching the end of gzip data compares their checksum."""
        if self.take(1):
            raise ScanError(
                f"goes on after the {promised} bytes that its header promises",
                "Its header or its voxels are wrong: export it again",
            )

    def _inflate(self, room: int) -> bytes:
        while True:
            if self._inflater.eof:
                rest = (self._inflater.unused_data or self.file.read(CHUNK)).lstrip(b"\0")
                while not rest:  # padding
                    more = self.file.read(CHUNK)
                    if not more:
                        return b""
                    rest = more.lstrip(b"\0")
                self._members += 1
                if not rest.startswith(b"\x1f") or self._members > MAX_MEMBERS:
                    raise ScanError("has garbage after its gzip data", "Replace the file")
                self._inflater, self._pending = zlib.decompressobj(31), rest
            source = self._pending or self.file.read(CHUNK)
            try:
                piece = self._inflater.decompress(source, room)
            except zlib.error as error:
                raise ScanError(
                    f"is damaged gzip data ({str(error).split(': ')[-1]})", "Copy it again"
                ) from error
            self._pending = self._inflater.unconsumed_tail
            if piece:
                return piece
            if not source and not self._inflater.eof:
                raise ScanError("is truncated: its gzip data stop short", "Copy it again")


def parse_header(source: ByteSource, *, single: bool) -> tuple[Any, bytearray]:
    """Read a NIfTI-1 or NIfTI-2 header of either byte order by its content.

    Args:
        source: The file, at its beginning.
        single: Whether voxels are expected in the same file.

    Returns:
        nibabel's header, as it is, and what was read of the file.
    """
    start = source.take(348)
    if not start:
        raise ScanError("is empty", "Export it again")
    if bytes(start[:4]) not in HEADER_SIZES:
        raise _no_nifti(start)
    order, size = HEADER_SIZES[bytes(start[:4])]
    kind, magic = {
        348: (nib.Nifti1Header, slice(344, 348)),
        540: (nib.Nifti2Header, slice(4, 12)),
    }[size]
    start += source.take(size - 348)
    if len(start) < size:
        raise ScanError("is truncated inside its header", "Copy it again")
    _refuse_magic(bytes(start[magic]), single=single)
    return kind(bytes(start), endianness=order, check=False), start


def _refuse_name(start: bytes) -> None:
    if not start:
        raise ScanError("is empty", "Export it again")
    if start.startswith(b"\x1f\x8b"):
        raise ScanError("is gzip data, but its name does not end in .gz", "Rename it")
    if start[:4] in HEADER_SIZES:
        raise ScanError("is not compressed, but its name ends in .gz", "Rename it")
    raise _no_nifti(start)


def _refuse_magic(magic: bytes, *, single: bool) -> None:
    if magic[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2") or magic[3:] not in (
        b"\0",
        b"\0\r\n\x1a\n",
    ):
        raise ScanError(
            f"has no NIfTI magic but {printable(magic.decode('latin-1'))!r}, as an Analyze 7.5 "
            "file does, which knows no orientation",
            "Convert it to NIfTI",
        )
    if (magic[1:2] == b"+") != single:
        where = "in the same file" if not single else "in an .img file"
        raise ScanError(f"says that its voxels are {where}, unlike its name", "Export it again")


def _no_nifti(start: bytes | bytearray) -> ScanError:
    """What a file is in place of a NIfTI file, and what to do."""
    is_dicom = bytes(start[128:132]) == b"DICM"
    fix = IMPORT_DICOM if is_dicom else "Convert or replace it"
    fix = next((how for magic, how in FETCHED_BY.items() if start.startswith(magic)), fix)
    return ScanError(f"is no NIfTI file: {_describe(start)}", fix)


def _describe(start: bytes | bytearray) -> str:
    if bytes(start[128:132]) == b"DICM":
        return "it is a DICOM file"
    for magic, name in OTHER_TYPES.items():
        if start.startswith(magic):
            return f"it is {name}"
    if len(start) < 348:
        return f"{len(start)} bytes are fewer than a header has"
    return f"it begins with {bytes(start[:4]).hex(' ')}"


def _open(path: Path) -> BufferedReader:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ScanError("is no regular file", "List a file")
        return path.open("rb")
    except FileNotFoundError as error:
        raise ScanError(f"lacks {printable(path.name)!r}", "Copy both files of a pair") from error
    except OSError as error:
        refuse_too_many(error)
        raise ScanError(f"cannot be opened ({error.strerror})", "Check its permissions") from error
