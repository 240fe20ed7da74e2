"""What is done to identifiers, in DICOM headers and in sidecars: the one owner of these rules.

DICOM headers follow the Basic Application Level Confidentiality Profile of PS3.15, annex E: its table E.1-1, edition
2026c, as Kitware's dicom-anonymizer carries it. The table says what to remove; whatever it does not name goes on only
if its kind cannot hold free text, or if it is on a list of technical elements. On top of that, nothing goes on that
contains a name or number of the patient found elsewhere in the same header.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pydicom
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from .key import Key
from .words import technical

# Both would print values of headers, names among them.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

#: Ages from here on are one group (HIPAA, 45 CFR 164.514(b)(2)(i)(C): all ages over 89).
OLDEST_TOLD_YEARS = 90

#: Options of the profile by their name here: code and meaning (PS3.16, CID 7050).
OPTIONS = {
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "private": ("113111", "Retain Safe Private Option"),
}
_BASIC = ("113100", "Basic Application Confidentiality Profile")

#: Objects whose pixels a scanner makes; any other may be a picture of a screen or a form.
SCANNER_IMAGES = {
    *(MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage),
    *(CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage),
}

_MODALITIES = """
AR AU BI BMD CR CT DOC DX ECG EEG EMG EPS ES FID GM HD IO IVOCT IVUS KER KO LS MG MR NM OAM OCT OP OPT OPV OT PLAN PR PT
PX REG RESP RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SC SEG SM SMR SR SRF TG US VA XA XC
"""
#: Defined terms of Modality (PS3.3, C.7.3.1.1.1) that images and reports have; any other text there may be a name.
MODALITIES = frozenset(_MODALITIES.split())

#: Private elements of MR and CT that PS3.15, table E.3.10-1, calls safe: creator → group and last byte of the element.
SAFE_PRIVATE = {
    "SIEMENS MR HEADER": {(0x0019, 0x0C), (0x0019, 0x0D), (0x0019, 0x0E), (0x0019, 0x27)},
    "GEMS_ACQU_01": {(0x0019, 0x23), (0x0019, 0x24), (0x0019, 0x27), (0x0019, 0x9E)},
    "GEMS_SERS_01": {(0x0025, 0x07)},
    "GEMS_PARM_01": {(0x0043, 0x27), (0x0043, 0x39), (0x0043, 0x6F)},
    "GEMS_HELIOS_01": {(0x0045, 0x01), (0x0045, 0x02)},
    "PHILIPS IMAGING DD 001": {(0x2001, 0x03), (0x2001, 0x04)},
    "PHILIPS MR IMAGING DD 001": {(0x2005, 0x0D), (0x2005, 0x0E)},
}

#: Texts outside the standard's table that go on, and those inside it that the option ``descriptors`` cleans.
TECHNICAL = {
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SequenceName", "PulseSequenceName"),
    *("ReceiveCoilName", "TransmitCoilName", "ConvolutionKernel", "FilterType", "ImagedNucleus", "ResonantNucleus"),
    *("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning", "RescaleType", "StackID"),
}
DESCRIPTORS = {
    *("SeriesDescription", "ProtocolName", "StudyDescription", "PerformedProcedureStepDescription"),
    *("RequestedProcedureDescription", "AcquisitionProtocolDescription", "ContrastBolusAgent"),
}
_PIXELS = {"PixelData", "FloatPixelData", "DoubleFloatPixelData", "LUTData"}
#: Dates that are moved: of scans. Others may be known to many (a scanner's installation, an export): moved, they would
#: tell by how many days all dates of the patient are.
_SHIFTED = {
    *("StudyDate", "SeriesDate", "AcquisitionDate", "AcquisitionDateTime", "StartAcquisitionDateTime"),
    *("EndAcquisitionDateTime", "FrameAcquisitionDateTime", "FrameReferenceDateTime"),
}
_MEASURES_OF_PATIENTS = {"PatientSize", "PatientWeight", "PatientBodyMassIndex"}
#: Texts of a code. Of a scheme that a hospital made for itself (PS3.16, 8: ``L`` or ``99…``) they may be anything.
_CODE_TEXTS = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodeMeaning", "CodingSchemeVersion")
_LOCAL_SCHEME = r"(99.*|L|)"
_CURVES_AND_OVERLAYS = {0x5000, 0x6000}
#: Groups before it belong to messages, file heads and directories; old exports leave some of them in images.
_FIRST_GROUP = 0x0008

_NUMBERS = {"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT", "US or SS", "US or OW"}
_BYTES = {"OB", "OW", "OF", "OD", "OL", "OV", "OB or OW"}
_TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"}
_DUMMY = "REMOVED"

#: Keys of a sidecar that go on: physics, geometry, the kind of scanner. No free text, no serial number, no time.
SIDECAR_KEYS = (
    *("Modality", "MagneticFieldStrength", "ImagingFrequency", "Manufacturer", "ManufacturersModelName"),
    *("BodyPart", "PatientPosition", "SoftwareVersions", "MRAcquisitionType", "ScanningSequence", "SequenceVariant"),
    *("PulseSequenceType", "SequenceName", "ImageType", "NonlinearGradientCorrection", "SliceThickness"),
    *("SpacingBetweenSlices", "SAR", "EchoNumber", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle"),
    *("MTState", "SpoilingState", "SpoilingType", "PartialFourier", "BaseResolution", "PercentPhaseFOV"),
    *("PercentSampling", "EchoTrainLength", "PhaseEncodingSteps", "FrequencyEncodingSteps", "AcquisitionMatrixPE"),
    *("ReconMatrixPE", "ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane", "PixelBandwidth"),
    *("DwellTime", "PhaseEncodingAxis", "PhaseEncodingDirection", "ReceiveCoilName", "CoilString"),
    *("ImageOrientationPatientDICOM", "InPlanePhaseEncodingDirectionDICOM", "KVP", "ConvolutionKernel"),
    *("ConversionSoftware", "ConversionSoftwareVersion"),
)
_LONGEST_TEXT = 64

#: Elements that say who it is, besides names of persons: of these the whole value counts, of names every word.
_NUMBERS_OF_PEOPLE = {
    *("PatientID", "OtherPatientIDs", "IssuerOfPatientID", "AccessionNumber", "StudyID", "AdmissionID"),
    *("PatientAddress", "PatientTelephoneNumbers", "MedicalRecordLocator", "MilitaryRank"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
    *("RequestedProcedureID", "ScheduledProcedureStepID", "PerformedProcedureStepID"),
}
_SHORTEST_WORD, _SHORTEST_NUMBER, _SHORTEST_PART = 2, 4, 5
#: Fewer digits may as well be a time in milliseconds or a place in millimetres.
_SHORTEST_IN_MEASURES = 6
#: Terms of the standard, which name nobody, even a Mr Se.
_TERMS = {
    *("MR", "CT", "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "M", "NORM", "MONOCHROME1", "MONOCHROME2"),
    *("SE", "GR", "IR", "EP", "RM", "SK", "MTC", "SS", "SP", "MP", "OSP", "NONE", "2D", "3D", "YES", "NO", "Y", "N"),
    *("HFS", "HFP", "FFS", "FFP", "ROW", "COL", "BRAIN", "HEAD", "SKULL", "SIEMENS", "PHILIPS", "GE"),
}


@dataclass(frozen=True)
class Identifiers:
    """Names and numbers of one patient, in lower case. Private.

    Attributes
    ----------
    words
        Parts of names, also as they are written without accents.
    wholes
        Numbers, dates, addresses, institutions, as a whole; those of some length also without what separates.
    """

    words: frozenset[str] = frozenset()
    wholes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, header: Dataset) -> Identifiers:
        """Those that a header holds, at any depth."""
        words: set[str] = set()
        wholes: set[str] = set()
        for element in header.iterall():
            if element.VR == "PN":
                words.update(spelt for word in _words(str(element.value)) for spelt in _spellings(word))
            elif element.VR == "DA" or element.keyword in _NUMBERS_OF_PEOPLE:
                told = [str(value).strip().lower() for value in _values(element)]
                wholes.update(
                    told, (joined for value in told if len(joined := _joined(value)) >= _SHORTEST_IN_MEASURES)
                )
        return cls(
            frozenset(word for word in words if len(word) >= _SHORTEST_WORD),
            frozenset(whole for whole in wholes if len(whole) >= _SHORTEST_NUMBER),
        )

    def are_in(self, text: str) -> bool:
        """Whether a text contains one of them; short words count only as words of their own."""
        lower = text.strip().lower()
        forms = (lower, _joined(lower))
        return lower.upper() not in _TERMS and (
            any(whole in form for whole in self.wholes for form in forms)
            or not self.words.isdisjoint(_words(lower))
            or any(len(word) >= _SHORTEST_PART and word in lower for word in self.words)
        )


def patient_of(header: Dataset) -> str:
    """Identity of the patient as the inventory knows it; of the study (or series) where there is no PatientID."""
    patient, issuer = _text(header, "PatientID"), _text(header, "IssuerOfPatientID")
    if patient:
        return "^^^".join(filter(None, (patient, issuer)))
    return f"study {_text(header, 'StudyInstanceUID') or _text(header, 'SeriesInstanceUID')}"


def modality_of(text: str) -> str:
    """A value of Modality if it is a term of the standard, else nothing."""
    term = text.strip().upper()
    return term if term in MODALITIES else ""


def told_age_years(age_years: float) -> float:
    """An age as it may be told; NaN stays."""
    return OLDEST_TOLD_YEARS if age_years > OLDEST_TOLD_YEARS else age_years


def held_back(header: Dataset) -> str:
    """Why an object's pixels may show a name, so that it must stay; empty if a scanner made them."""
    types = {str(value).strip().upper() for value in _values(header["ImageType"])} if "ImageType" in header else set()
    if header.get("SOPClassUID") not in SCANNER_IMAGES:
        return "not an MR or CT image: its pixels or text may name the patient"
    if _text(header, "BurnedInAnnotation").upper() == "YES":
        return "burned-in annotation"
    if "SECONDARY" in types or _text(header, "ConversionType"):
        return "secondary image: may be a picture of a screen, with the patient's name in it"
    if header.get("SamplesPerPixel", 1) != 1 or not _text(header, "PhotometricInterpretation").startswith("MONOCHROME"):
        return "colours: may be a picture of a screen, with the patient's name in it"
    if header.get("BitsAllocated") == 8:
        return "eight bits, as no scanner's image has: may be a picture of a screen, with the patient's name in it"
    if not _has_place(header):
        return "shows no place in the patient: may be a picture of a screen, with the patient's name in it"
    if any(element.tag.group & 0xFF00 == 0x6000 and element.tag.element == 0x0102 and element.value
           for element in header):  # fmt: skip
        return "graphics in the bits of its pixels"
    return ""


def deidentify(header: Dataset, key: Key, *, patient: str = "", options: frozenset[str] = frozenset(OPTIONS)) -> None:
    """Free a DICOM object of identifiers, in place.

    Parameters
    ----------
    header
        The object; its pixels are not looked at (:func:`held_back`).
    key
        Makes pseudonym, dates and UIDs.
    patient
        Whose it is; without it :func:`patient_of` the header.
    options
        Those of :data:`OPTIONS` to apply.
    """
    patient = patient or patient_of(header)
    rules = _Rules(key=key, patient=patient, options=options, identifiers=Identifiers.of(header))
    sop_class, series_uid = header.get("SOPClassUID", ""), header.get("SeriesInstanceUID", "")
    age = _age(header) if "characteristics" in options else ""
    rules.apply(header)
    header.PatientID = header.PatientName = key.participant(patient)
    if not header.get("StudyInstanceUID"):
        header.StudyInstanceUID = key.uid(f"study of {series_uid}")
    if age:
        header.PatientAge = age
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = "synthsr-cohort: PS3.15 annex E, 2026c"
    codes = [_BASIC, *(OPTIONS[name] for name in OPTIONS if name in options)]
    header.DeidentificationMethodCodeSequence = Sequence([_code(*code) for code in codes])
    header.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in options else "REMOVED"
    syntax = getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID") or (
        ImplicitVRLittleEndian if header.original_encoding[0] else ExplicitVRLittleEndian
    )
    # A fresh preamble and head: the old ones name the machine that sent it, and may hold anything.
    header.preamble = b"\0" * 128
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.file_meta.MediaStorageSOPClassUID = sop_class
    header.file_meta.MediaStorageSOPInstanceUID = header.get("SOPInstanceUID", "")


def sidecar(content: Mapping[str, Any], identifiers: Identifiers | None = None) -> dict[str, Any]:
    """Keep only the allowed keys of a sidecar, in their order, and of those no text that names the patient."""
    known = identifiers or Identifiers()

    def may_go_on(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(map(may_go_on, value))
        if isinstance(value, str):
            return len(value) <= _LONGEST_TEXT and not known.are_in(value)
        return value is None or isinstance(value, int | float)

    return {key: content[key] for key in SIDECAR_KEYS if key in content and may_go_on(content[key])}


@dataclass(frozen=True, kw_only=True)
class _Rules:
    key: Key
    patient: str
    options: frozenset[str]
    identifiers: Identifiers

    def apply(self, dataset: Dataset) -> None:
        if re.fullmatch(_LOCAL_SCHEME, _text(dataset, "CodingSchemeDesignator").upper()):
            for keyword in _CODE_TEXTS:
                dataset.pop(keyword, None)
        safe_blocks: set[tuple[int, int]] = set()
        creators: list[int] = []
        for tag in list(dataset.keys()):
            if tag.is_private_creator:
                creators.append(tag)
                continue
            try:
                element = dataset[tag]
                stays = self._keeps_private(dataset, element) if tag.is_private else self._keeps(element)
            except Exception:  # pydicom raises nearly anything on a damaged value
                stays = False
            if not stays:
                del dataset[tag]
            elif tag.is_private:
                safe_blocks.add((tag.group, tag.element >> 8))
        for tag in creators:
            if (tag >> 16, tag & 0xFF) not in safe_blocks:
                del dataset[tag]

    def _keeps_private(self, dataset: Dataset, element: DataElement) -> bool:
        if "private" not in self.options:
            return False
        tag = element.tag
        creator = str(dataset.get((tag.group, tag.element >> 8), DataElement(0x00090010, "LO", "")).value)
        is_safe = (tag.group, tag.element & 0xFF) in SAFE_PRIVATE.get(creator.strip().upper(), ())
        if not is_safe:
            return False
        return element.VR in _NUMBERS or (element.VR in ("DS", "IS", "CS", "SH") and self._is_short(element))

    def _keeps(self, element: DataElement) -> bool:
        """Change an element as its rule says; False to remove it."""
        tag, keyword = element.tag, element.keyword
        is_of_image = tag.group >= _FIRST_GROUP and tag.group & 0xFF00 not in _CURVES_AND_OVERLAYS
        if not (is_of_image and dictionary_has_tag(tag)):
            return False
        action = _table().get(int(tag))
        if keyword in _SHIFTED and "dates" in self.options:
            # A date that is none ("***") becomes empty.
            element.value = [self.key.shifted(str(value), self.patient) for value in _values(element)]
            return True
        if keyword in DESCRIPTORS and "descriptors" in self.options and (text := self._cleaned(element)):
            element.value = text
            return True
        if keyword in _MEASURES_OF_PATIENTS:
            return "characteristics" in self.options and self._is_short(element)
        if keyword == "PatientSex" and "characteristics" in self.options:
            return element.value in ("M", "F", "O", "", None)
        return self._keeps_unlisted(element) if action is None else self._obeys(element, action)

    def _obeys(self, element: DataElement, action: str) -> bool:
        """Do what the standard's table says; where it leaves a choice, what keeps any object valid."""
        if action == "X":
            return False
        if action == "X_Z_U_STAR":
            return self._enters(element)
        if action == "U":
            return self._maps(element, every=True)
        if element.VR == "SQ" or element.VR not in {*_TEXTS, "DA", "DT", "TM", "UI"}:
            return False
        if action in ("Z", "X_Z"):
            element.value = None
            return True
        dummies = {"DA": "19000101", "DT": "19000101", "TM": "000000"}
        if element.VR == "UI":
            return self._maps(element, every=True)
        element.value = dummies.get(element.VR, _DUMMY)
        return True

    def _keeps_unlisted(self, element: DataElement) -> bool:
        vr, keyword = element.VR, element.keyword
        if vr == "SQ":
            return self._enters(element)
        if vr == "UI":
            return self._maps(element, every=False)
        if vr in _BYTES:
            return keyword in _PIXELS
        if vr in _NUMBERS:
            return True
        if vr in ("IS", "DS", "CS"):
            return self._is_short(element)
        return vr in ("LO", "SH") and keyword in TECHNICAL and self._is_short(element)

    def _enters(self, element: DataElement) -> bool:
        for item in element.value:
            self.apply(item)
        return True

    def _maps(self, element: DataElement, *, every: bool) -> bool:
        """Replace UIDs; of elements that the table does not name, those of the standard itself stay."""
        uids = [str(value) for value in _values(element)]
        element.value = [uid if not uid or (_is_of_standard(uid) and not every) else self.key.uid(uid) for uid in uids]
        return True

    def _is_short(self, element: DataElement) -> bool:
        """Whether it holds numbers or short words, none of them the patient's."""
        texts = [str(value) for value in _values(element)]
        if element.VR in ("DS", "IS"):  # the digits of a position may well contain those of an identifier
            shortest = _SHORTEST_IN_MEASURES if element.VR == "DS" else _SHORTEST_NUMBER
            names_somebody = any(len(text) >= shortest and text.strip() in self.identifiers.wholes for text in texts)
        else:
            names_somebody = any(map(self.identifiers.are_in, texts))
        pattern = {
            "DS": r"\s*[-+0-9.eE]{0,24}\s*",
            "IS": r"\s*[-+0-9]{0,12}\s*",
            "CS": r"[A-Za-z0-9 _/.+-]{0,16}",
        }.get(element.VR, r"[^^\x00-\x1f]{0,64}")
        return not names_somebody and all(re.fullmatch(pattern, text) for text in texts)

    def _cleaned(self, element: DataElement) -> str:
        """Technical words of a description that are no name of the patient."""
        words = technical(" ".join(str(value) for value in _values(element)))
        return " ".join(word for word in words if not self.identifiers.are_in(word))[:_LONGEST_TEXT].strip()


@cache
def _table() -> dict[int, str]:
    """Action by tag: X remove, Z empty, D dummy, U new UID, or what keeps the object valid, as in ``X_Z_D``."""
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as edition

    actions = ("D", "Z", "X", "U", "Z_D", "X_Z", "X_D", "X_Z_D", "X_Z_U_STAR")
    # Ranges of groups (curves, overlays) have four numbers: _CURVES_AND_OVERLAYS covers them.
    return {
        tag[0] << 16 | tag[1]: action
        for action in actions
        for tag in getattr(edition, f"{action}_TAGS")
        if len(tag) == 2
    }


def _age(header: Dataset) -> str:
    """PatientAge as it may be told, from that element or from the dates; empty where neither says."""
    given = re.fullmatch(r"(\d{3})([DWMY])", _text(header, "PatientAge").upper())
    if given:
        return f"{OLDEST_TOLD_YEARS:03d}Y" if given[2] == "Y" and int(given[1]) > OLDEST_TOLD_YEARS else given[0]
    dates = [re.fullmatch(r"(\d{4})(\d{2})(\d{2})", _text(header, name)) for name in ("PatientBirthDate", "StudyDate")]
    if not all(dates):
        return ""
    born, seen = ([int(part) for part in found.groups()] for found in dates if found)
    months = (seen[0] - born[0]) * 12 + seen[1] - born[1] - (seen[2] < born[2])
    if not 0 <= months < 120 * 12:
        return ""
    return f"{months:03d}M" if months < 24 else f"{min(months // 12, OLDEST_TOLD_YEARS):03d}Y"


def _has_place(header: Dataset) -> bool:
    groups = [
        group
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for group in header.get(name) or ()
    ]
    places = [place for group in groups for place in group.get("PlanePositionSequence") or ()]
    return any(len(place.get("ImagePositionPatient") or ()) == 3 for place in (header, *places))


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _values(element: DataElement) -> list[Any]:
    value = element.value
    if value is None:
        return []
    return list(value) if isinstance(value, pydicom.multival.MultiValue | list) else [value]


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else " ".join(str(value).replace("\0", " ").split())


def _words(text: str) -> Iterable[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _is_of_standard(uid: str) -> bool:
    """Whether the standard itself registers a UID (PS3.6, annex A); groups of codes are too many for a list."""
    return bool(UID(uid).type or re.fullmatch(r"1\.2\.840\.10008\.6\.1\.\d{1,4}", uid))


def _spellings(word: str) -> set[str]:
    """A word as it is and as scanners that know no accents write it."""
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", word) if not unicodedata.combining(letter))
    two_letters = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "å": "aa", "æ": "ae"})
    return {word, bare, word.translate(two_letters)}


def _joined(text: str) -> str:
    return re.sub(r"[\W_]", "", text)
