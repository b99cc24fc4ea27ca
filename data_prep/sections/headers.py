"""The names under which the sections of a radiology report stand, and what else a header can be known by.

The names follow the counts of MIMIC-CXR's own section code (https://github.com/MIT-LCP/mimic-cxr, folder txt), which
splits at capitals after a line break alone, so that its numbers of sections differ by some hundred. Two of its names
mean something else here: PFI (provisional findings, there a history) and NDICATION (there an impression).
"""

from __future__ import annotations

import re

SECTIONS = ("findings", "impression", "indication", "history", "technique", "comparison")

HEADERS: dict[str, str] = {
    name: section
    for section, names in {
        "findings": "findings|finding|report|description|discussion|reference findings|findins|findindgs|findgings|"
        "findngs|findnings|finidngs|fidings|findigs",
        "impression": "impression|impressions|conclusion|conclusions|opinion|summary|interpretation|"
        "final impression|impresson|imression|imprression|imoression|impressoin|imprssion|impresion|imperssion|"
        "mpression|impession|impressions and recommendations|impression and recommendations",
        "combined": "findings and impression|findings/impression|impression and findings|impression/findings|"
        "findings & impression|findings, impression|findings and impressions",
        "indication": "indication|indications|clinical indication|clinical indications|reason for exam|"
        "reason for examination|reason for this examination|reason for this exam|reason for study|reason for the study|"
        "reason|indication/history|indication and history|clinical question|indicaton|ndication|idication|indcation",
        "history": "history|clinical history|clinical information|clinical info|patient history|medical history|"
        "clinical data|clinical details|clinical notes|clinical presentation|clinical statement|past medical history|"
        "medical condition|underlying medical condition|history of present illness",
        "technique": "technique|techniques|method|methods|procedure comments",
        "comparison": "comparison|comparisons|comparison exam|comparison study|comparison studies|comparison film|"
        "comparison films|prior studies|prior study|reference exam|comparision|comparisions|comparsion|comparrison|"
        "comparion|comparisson",
        "other": "examination|exam|exams|study|studies|procedure|procedures|type of exam|type of examination|exam type|"
        "date|date of exam|time|notification|notifications|recommendation|recommendations|recommendation(s)|dose|"
        "radiation dose|contrast|wet read|wetread|addendum|addenda|final addendum|pfi|provisional findings|"
        "provisional findings impression (pfi)|preliminary report|"
        "attending|referring physician|dictated by|signed by|communication",
    }.items()
    for name in names.split("|")
}

CONTEXT = frozenset({"indication", "history", "technique", "comparison", "other"})
CLINICAL_SECTIONS = frozenset({"indication", "history"})  # what is asked and known before the images are read
TELLING = frozenset({"findings", "impression", "combined"})  # sections that describe the images
# A header in capitals with one of these words heads findings although no table knows it ("PORTABLE CHEST, AP:").
FINDING_WORDS = (
    "chest", "pa and lat", "portable", "frontal", "lateral", "upright", "supine", "view", "radiograph", "x-ray",
    "lungs", "heart", "pleura", "mediastin", "ribs", "bones", "bone window", "lines and tubes",
)  # fmt: skip
# What an unknown header in capitals is when it contains a word, first come first served. The second lot does not count
# inside findings and impression: "REASON FOR CHEST X-RAY:" is an indication, "CLINICAL CORRELATION:" part of the text.
TELLING_WORDS = {
    "impression": "impression", "comparison": "comparison", "indication": "indication", "history": "history",
    "technique": "technique", "addendum": "other", "findings": "findings",
}  # fmt: skip
TELLING_IN_CONTEXT = {
    "reason": "indication", "clinical": "history", "prior": "comparison", "compared": "comparison",
    "recommend": "other",
}  # fmt: skip
# A name with one of these is no name but a sentence with a colon in it ("FINDINGS WERE DISCUSSED WITH DR X AT: 5 pm").
SPOKEN = re.compile(
    r"\b(?:was|were|is|are|has|have|had|been|will|discussed|communicated|conveyed|relayed|telephoned|called|paged|"
    r"notified|informed)\b"
)

# Names that are headers in any case and anywhere in a line; the others are too common as words of a sentence.
CORE = {*SECTIONS, "indications", "comparisons", "impressions", "conclusion", "conclusions"} | {
    "clinical history", "clinical information", "clinical info", "clinical data", "clinical details",
    "clinical indication", "reason for exam", "reason for examination", "reason for this examination",
    "reason for this exam", "reason for study", "findings & impression",
    "findings and impression", "findings/impression", "impression and findings", "impression/findings",
}  # fmt: skip
# The same in capitals or Capitalised, with their colon, anywhere in a line.
PACKED = re.compile(
    r"(?<![A-Za-z/])("
    + "|".join(
        f"{name[0].upper()}(?i:{re.escape(name[1:])})".replace(r"\ ", " +").replace("/", " ?/ ?")
        for name in sorted(CORE, key=len)[::-1]
    )
    + r")\s*:"
)
# What heads findings in a context section although it is written in small letters: the name of a view, or an organ.
VIEW_NAME = re.compile(
    r"\b(?:views?|radiographs?|x-?rays?|films?|portable|frontal|lateral|upright|supine|pa and lat|ap)\b|"
    r"^(?:chest|lungs?|lungs and pleura|pleura|heart|cardiac silhouette|mediastinum|bones|lines and tubes)$"
)
NO_VIEW = re.compile(r"\b(?:prior|previous|outside|compar\w*|reason|requested|ordered|history|technique)\b")

# ------------------------------------------------------------------------------ what a text without a header speaks of
# Words of a description, and words of images; what has none of them may be anything.
DESCRIBES = re.compile(
    r"\b(?:is|are|was|were|there|no|not|without|clear|normal|unremarkable|unchanged|stable|seen|noted|demonstrat\w+|"
    r"shows?)\b",
    re.IGNORECASE,
)
IMAGES = re.compile(r"\b(?:views?|radiographs?|x-?rays?|films?|images?|compar\w+|obtained)\b", re.IGNORECASE)
SHADOWS = re.compile(r"\b(?:lungs?|silhouette)\b", re.IGNORECASE)
# Words of findings, which a sentence before the findings' first sure sentence may hold.
ANATOMY = re.compile(
    r"\b(?:lungs?|heart|cardiac|cardio\w*|mediastin\w*|hil(?:a|um|ar)|silhouettes?|contours?|vascul\w*|pulmonary|"
    r"effusions?|opacit\w+|atelectasis|granulomas?|pneumothora\w+|consolidations?|infiltrates?|edema|thorax|"
    r"diaphragms?|images?|radiographs?|views?)\b",
    re.IGNORECASE,
)
# The beginning of a sentence that describes images and can be nothing else.
STATES = re.compile(
    r"(?:(?:the|both|bilateral|right|left) )*(?:lungs?|heart(?: size)?|cardiac (?:silhouette|size|contours?)|"
    r"cardio-?mediastinal (?:silhouette|contours?)|mediastin\w+(?: \w+)?|hila|hilar contours|pleural spaces?|"
    r"costophrenic (?:angles?|sulci)|bony (?:thorax|structures)|osseous structures)"
    r" (?:(?:is|are|remains?|appears?|looks?) |(?:well )?(?:clear|normal|enlarged|unremarkable|expanded|inflated)\b)|"
    r"(?:there (?:is|are) )?no (?:\w+,? ){0,4}?(?:effusions?|pneumothora\w+|consolidations?|infiltrates?|opacit\w+)\b|"
    r"there (?:is|are) (?:\w+,? ){0,4}?(?:effusions?|pneumothora\w+|consolidations?|infiltrates?|opacit\w+|edema|"
    r"atelectasis|cardiomegaly)\b",
    re.IGNORECASE,
)
# A sentence with one of these may speak of a worry, of an earlier image or of another examination.
ELSEWHERE = re.compile(
    r"\b(?:concern\w*|question\w*|suspicion|known|prior|previous\w*|before|last|outside|ct|mri|echo\w*|ultrasound|"
    r"film|on that|racing|transplant\w*|resected)\b|\?",
    re.IGNORECASE,
)
# A sentence of an indication: how it begins, or the request it holds.
ASKS = re.compile(
    r"\b(?:please|pls|rule out|r/o|(?:evaluate|eval|assess) for|"
    r"(?:to|for) (?:evaluat\w+|eval|assess\w*|exclude))\b|"
    r"^(?:evaluate|eval|assess|exclude|query|question)\b|^\?|\?$",
    re.IGNORECASE,
)
CLINICAL = re.compile(
    r"(?:(?:the |this |an? )?(?:patient|pt)\b|(?:this is )?(?:an? )?(?:\d+|\w+)?[- ]?(?:years?|yrs?)[- ]old|"
    r"\d+ ?[FM]\b|\d+ ?y/?o\b|status[- ]post|s/p|(?:past |known )?history of|known|presents?|presenting|now with|"
    r"(?:there (?:is|was) )?(?:an? |the |some )?(?:clinical )?(?:concern|question|suspicion)|follow[- ]?up|"
    r"man|woman|male|female)",
    re.IGNORECASE,
)
