"""What is read of a header, and that nothing of it gets out."""

from __future__ import annotations

import io
import logging
import warnings

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from data_prep.dicom import grey_pixels, read_header
from data_prep.dicom import header as header_module
from data_prep.dicom import pixels as pixels_module
from data_prep.images import ImageError
from tests.data_prep.dicom.files import ABSENT, dataset, ramp, write


def test_header(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(write(dataset(ramp(), BodyPartExamined="CHEST", AccessionNumber="A1", StudyDate="20200131")))
    header = read_header(path)
    assert (header.image_id, header.study_id, header.series_id) == ("1.2.3.3", "1.2.3.1", "1.2.3.2")
    assert (header.patient_id, header.accession, header.study_date) == ("p7", "A1", "20200131")
    assert (header.view, header.modality, header.body_part, header.photometric) == ("PA", "CR", "CHEST", "MONOCHROME2")
    assert (header.rows, header.columns, header.frames, header.bits_stored) == (20, 30, 1, 12)
    meanings = {"postero-anterior": "PA", "antero-posterior": "AP", "left lateral": "LL", "Lateral": "LATERAL",
                "left anterior oblique": "LAO", "odd": "", "": ""}  # fmt: skip
    for meaning, view in meanings.items():
        code = Dataset()
        code.CodeMeaning = meaning
        path.write_bytes(write(dataset(ramp(), ViewPosition="", ViewCodeSequence=Sequence([code]))))
        assert read_header(path).view == view
    path.write_bytes(write(dataset(ramp(), ViewPosition=ABSENT, PatientID=ABSENT)))
    assert (read_header(path).view, read_header(path).patient_id) == ("", "")
    with pytest.raises(ImageError, match="image file missing"):
        read_header(tmp_path / "none.dcm")
    path.write_text("<html>login</html>")
    with pytest.raises(ImageError, match="not a DICOM file: an HTML"):
        read_header(path)


TEXT_TAGS = sorted({*pixels_module.PIXEL_TAGS, *header_module.HEADER_TAGS} - {"PixelData", "PatientID"})
NAMES = [b"DOE", b"Doe^Jane", b"DOE\\JANE", b"Doe\x0bJane", b"1DOE", b"DOE.1", b"1.2.DOE", b"12DOE345"]


@pytest.mark.parametrize("tag", TEXT_TAGS)
def test_nothing_of_the_header_reaches_the_log_or_a_warning(tag, caplog, tmp_path):
    """A name in an element where it does not belong, as in a damaged file: pydicom warns about it and quotes it."""
    path = tmp_path / "a.dcm"
    for name in NAMES:
        for without_pixels in (False, True):
            data = dataset(ramp())
            if without_pixels:
                del data.Rows, data.Columns
            whole = pydicom.dcmread(io.BytesIO(write(data)))
            value = name + b" " * (len(name) % 2)
            number = pydicom.datadict.tag_for_keyword(tag)
            kind = pydicom.datadict.dictionary_VR(number).split(" or ")[0]
            kind = kind if kind not in ("SQ", "OW", "OB") else "UN"
            whole[number] = pydicom.dataelem.RawDataElement(
                pydicom.tag.Tag(number), kind, len(value), value, 0, False, True
            )
            stream = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pydicom.dcmwrite(stream, whole, enforce_file_format=False)
            assert name in stream.getvalue()
            path.write_bytes(stream.getvalue())
            said = []
            caplog.clear()
            with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
                warnings.simplefilter("always")
                for read in (lambda: grey_pixels(path.read_bytes()), lambda: read_header(path)):
                    try:
                        read()
                    except ImageError as error:
                        said.append(str(error))
            assert [str(warning.message) for warning in warned] == []
            assert caplog.text == ""
            assert not [text for text in said if "doe" in text.lower() or "jane" in text.lower()]
    assert logging.getLogger("pydicom").level < logging.CRITICAL
