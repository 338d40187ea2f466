"""Read a DICOM file by pydicom, and its values as texts and numbers."""

import zlib
from functools import lru_cache
from math import isfinite, nan
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import FileDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

MAX_INFLATED_BYTES = 2**27
MAX_ELEMENT = 2**16  # larger ones are passed over: raw data, protocols


def read_dataset(path: Path, voxels: bool = False) -> FileDataset:
    """Read a DICOM file, with or without the preamble, up to its voxels or with them."""
    with path.open("rb") as file:
        everything = voxels or _is_deflated(file)  # elements of a deflated file have no place in it
        file.seek(0)
        dataset = pydicom.dcmread(
            file,
            stop_before_pixels=not voxels,
            defer_size=None if everything else MAX_ELEMENT,
            force=True,
        )
    if "TransferSyntaxUID" not in dataset.file_meta:  # no preamble, hence no such group
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _is_deflated(file: BinaryIO) -> bool:
    """Whether the data set is deflated; ValueError if it would fill the memory."""
    head = file.read(2**16)
    if DeflatedExplicitVRLittleEndian.encode() not in head:
        return False
    file.seek(144 + int.from_bytes(head[140:144], "little"))  # behind the file's meta group
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    if len(inflate.decompress(file.read(), MAX_INFLATED_BYTES)) == MAX_INFLATED_BYTES:
        raise ValueError("it inflates to more than 128 MiB")
    return True


def values_of(dataset: FileDataset, tags: dict[str, BaseTag]) -> dict[str, Any]:
    """The values of the elements by keyword, None where absent."""
    values: dict[str, Any] = dict.fromkeys(tags)
    charset = dataset.original_character_set
    charset = charset if isinstance(charset, str) else "\\".join(charset)
    for keyword, tag in tags.items():
        element = dataset.get_item(tag) if tag in dataset else None
        if isinstance(element, RawDataElement):
            values[keyword] = _convert(element._replace(value_tell=0), charset)
        elif element is not None:
            values[keyword] = element.value
    return values


@lru_cache(maxsize=2**12)  # most elements are the same in all slices
def _convert(element: RawDataElement, charset: str) -> Any:
    return convert_raw_data_element(element, encoding=charset.split("\\")).value


def text_of(value: Any) -> str:
    """A value as a text; '' where absent."""
    return "" if value is None else str(value).strip(" \0")


def number_of(value: Any) -> float | None:
    """One number; nan if it is none, None if there is nothing."""
    return (numbers_of(value, 1) or (nan,))[0] if text_of(value) else None


def numbers_of(value: Any, length: int) -> tuple[float, ...] | None:
    """The values of an element if it has so many and each is a finite number."""
    try:
        one = isinstance(value, int | float | str)
        numbers = tuple(float(number) for number in ([value] if one else value))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == length and all(map(isfinite, numbers)) else None
