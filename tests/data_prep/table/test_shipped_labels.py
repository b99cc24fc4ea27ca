"""What the shipped mappings make of label words: every word by hand, and counts on real collections."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from cogaze.observations import OBSERVATIONS
from data_prep import table
from data_prep.records import Quarantine
from data_prep.table.labels import labels_of
from data_prep.table.mapping_file import load_mapping

REAL = Path(os.environ.get("COGAZE_REAL_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
SHORT = {
    "EC": "Enlarged Cardiomediastinum", "CM": "Cardiomegaly", "LO": "Lung Opacity", "LL": "Lung Lesion", "ED": "Edema",
    "CO": "Consolidation", "PN": "Pneumonia", "AT": "Atelectasis", "PX": "Pneumothorax", "PE": "Pleural Effusion",
    "PO": "Pleural Other", "FX": "Fracture", "SD": "Support Devices", "NF": "No Finding",
}  # fmt: skip
ALL = set(SHORT)


def of(mapping: str, words: list[str]) -> tuple[set[str], set[str]]:
    """(positive, unknown) by the letters above; all others are 0."""
    spec = load_mapping(mapping).labels
    assert spec is not None
    text = repr(words) if mapping == "padchest" else spec.separator.join(words)
    labels = labels_of(spec, lambda _: text)
    assert set(labels.values()) <= {0, 1}
    positive = {short for short, name in SHORT.items() if labels.get(name) == 1}
    return positive, {short for short, name in SHORT.items() if name not in labels}


# ------------------------------------------------------------------------------------------------ PadChest
# what a word says is present / what it leaves open. Enlarged Cardiomediastinum is open after all of them, but after
# those with EC even in a normal report.
PADCHEST = {
    "CM/EC": "cardiomegaly", "EC/": "mediastinal enlargement, superior mediastinal enlargement",
    "CO LO/PN": "consolidation", "LO/CO PN AT": "air bronchogram", "LO/CO PN AT ED": "alveolar pattern, infiltrates",
    "LO/CO PN AT LL": "increased density", "LO/CO PN ED": "ground glass pattern",
    "LO/PN ED": "interstitial pattern, reticular interstitial pattern",
    "LO/PN ED LL": "reticulonodular interstitial pattern", "LO/PN LL": "miliary opacities",
    "LL/LO CO": "lepidic adenocarcinoma", "LL/LO": "lung metastasis, multiple nodules, nodule, pulmonary mass",
    "ED/LO": "pulmonary edema", "PN/LO CO": "pneumonia, atypical pneumonia",
    "AT/LO": "atelectasis, atelectasis basal, laminar atelectasis, lobar atelectasis, segmental atelectasis, "
             "total atelectasis",
    "AT/LO LL": "round atelectasis",
    "PX/": "pneumothorax", "PX PE/": "hydropneumothorax",
    "PE/": "pleural effusion, loculated pleural effusion, hemothorax",
    "PE/PO": "loculated fissural effusion", "PE/PO PN": "empyema",
    "PO/": "pleural thickening, apical pleural thickening, calcified pleural thickening, pleural plaques, "
           "calcified pleural plaques",
    "PO/LL": "pleural mass",
    "FX/": "fracture, rib fracture, callus rib fracture, clavicle fracture, humeral fracture, vertebral fracture",
    "SD/": "pacemaker, dai, electrical device, dual chamber device, single chamber device, endotracheal tube, "
           "tracheostomy tube, NSG tube, gastrostomy tube, nephrostomy tube, chest drain tube, double J stent, "
           "ventriculoperitoneal drain tube, catheter, central venous catheter, reservoir central venous catheter, "
           "central venous catheter via jugular vein, central venous catheter via subclavian vein, "
           "central venous catheter via umbilical vein, artificial heart valve, artificial mitral heart valve, "
           "artificial aortic heart valve, endoprosthesis, aortic endoprosthesis",
    "/": "COPD signs, Chilaiditi sign, air trapping, aortic atheromatosis, axial hyperostosis, azygos lobe, "
         "blastic bone lesion, bone metastasis, breast mass, calcified fibroadenoma, cervical rib, "
         "costochondral junction hypertrophy, diaphragmatic eventration, emphysema, flattened diaphragm, gynecomastia, "
         "heart valve calcified, hemidiaphragm elevation, hyperinflated lung, kyphosis, lung vascular paucity, "
         "lytic bone lesion, mastectomy, non axial articular degenerative changes, obesity, osteopenia, osteoporosis, "
         "pectum carinatum, pectum excavatum, pneumoperitoneo, pulmonary artery hypertension, sclerotic bone lesion, "
         "scoliosis, soft tissue mass, sternoclavicular junction hypertrophy, subacromial space narrowing, "
         "subcutaneous emphysema, vertebral degenerative changes",
    "/EC": "adenopathy, aortic aneurysm, aortic button enlargement, aortic elongation, ascendent aortic elongation, "
           "azygoesophageal recess shift, calcified adenopathy, calcified mediastinal adenopathy, dextrocardia, "
           "descendent aortic elongation, esophagic dilatation, goiter, hiatal hernia, lipomatosis, "
           "mediastinic lipomatosis, pneumomediastinum, pulmonary artery enlargement, right sided aortic arch, "
           "supra aortic elongation, tracheal shift, vascular hilar enlargement",
    "/LL EC": "hilar enlargement, mediastinal mass", "/AT EC": "mediastinal shift", "/CM EC": "pericardial effusion",
    "/LL": "bullas, cyst, pseudonodule, nipple shadow, end on vessel",
    "/AT": "hypoexpansion, hypoexpansion basal", "/CM ED": "heart insufficiency",
    "/ED": "hilar congestion, vascular redistribution, central vascular redistribution, pulmonary hypertension, "
           "pulmonary venous hypertension",
    "/ED LO": "kerley lines, bronchovascular markings", "/LO": "bronchiectasis, pulmonary fibrosis",
    "/LO LL": "granuloma, calcified granuloma", "/LO LL ED": "lymphangitis carcinomatosa",
    "/LO LL PN": "cavitation", "/LO LL PN CO": "abscess", "/LO LL PN CO PO": "tuberculosis",
    "/LO LL PO": "tuberculosis sequelae", "/LO LL PO EC": "mass", "/LO CO PN ED": "respiratory distress",
    "/LO AT PO": "fibrotic band", "/LO AT": "volume loss",
    "/LO PO": "asbestosis signs, chronic changes, post radiotherapy changes",
    "/LL PO": "calcified densities",
    "/PE PO": "costophrenic angle blunting, fissure thickening, major fissure thickening, minor fissure thickening",
    "/PE PX LL": "air fluid level",
    "/FX": "thoracic cage deformation, vertebral compression, vertebral anterior compression",
    "/FX SD": "bone cement, humeral prosthesis, osteosynthesis material, surgery humeral",
    "/SD": "abnormal foreign body, external foreign body, mammary prosthesis, metal, prosthesis, sternotomy, surgery, "
           "surgery breast, surgery heart, surgery lung, surgery neck, suture material",
}  # fmt: skip
CODES = [(code, word.strip()) for code, words in PADCHEST.items() for word in words.split(",")]


@pytest.mark.parametrize(("code", "word"), CODES)
def test_each_word_of_padchest(code, word):
    """Alone; beside another finding; and after `normal`, which speaks only where nothing is named or left open."""
    present, opened = (set(part.split()) for part in code.split("/"))
    findings, unknown = present - {"SD"}, (opened | {"EC"}) - present
    assert of("padchest", [word]) == (present, unknown if findings else unknown | {"NF"})
    assert of("padchest", ["rib fracture", f" {word.upper()} "]) == (present | {"FX"}, unknown - {"FX"})
    if findings:
        assert of("padchest", ["normal", word]) == (present, unknown)
    elif opened <= {"SD"}:
        assert of("padchest", ["normal", word]) == (present | {"NF"}, opened)
    else:
        assert of("padchest", ["normal", word]) == (present, unknown | {"NF"})


def test_padchest_knows_no_other_words():
    spec = load_mapping("padchest").labels
    assert spec is not None
    known = {word.lower() for _, word in CODES} | {"normal", "unchanged", "suboptimal study", "exclude"}
    assert {*spec.names, *spec.open, *spec.void} == known
    assert len(known) == 194


@pytest.mark.parametrize(
    ("words", "positive", "unknown"),
    [
        (["normal"], {"NF"}, set()),
        (["normal", "pacemaker"], {"NF", "SD"}, set()),
        (["normal", "sternotomy"], {"NF"}, {"SD"}),
        (["normal", "scoliosis"], {"NF"}, set()),
        (["exclude"], set(), ALL),
        (["exclude", "normal"], set(), ALL),
        (["normal", "exclude", "pleural effusion"], set(), ALL),
        (["unchanged"], set(), ALL),
        (["unchanged", "cardiomegaly"], {"CM"}, ALL - {"CM", "NF"}),
        (["suboptimal study", "normal"], set(), ALL),
        (["pleural effusion", "a word of a later version"], {"PE"}, ALL - {"PE", "NF"}),
        (["normal", "loc left"], set(), ALL),
        (["consolidation", "pneumonia"], {"CO", "LO", "PN"}, {"EC"}),  # what one leaves open, another names
        ([" pleural effusion ", "", "NSG tube"], {"PE", "SD"}, {"EC"}),
        ([], set(), ALL),
        ([""], set(), ALL),
    ],
)
def test_lists_of_padchest(words, positive, unknown):
    assert of("padchest", words) == (positive, unknown)


# ------------------------------------------------------------------------------------------------ NIH, COVID
NEVER = {"EC", "FX", "SD"}  # not looked for by the publisher


@pytest.mark.parametrize("mapping", ["nih_chestxray14", "nih_chestxray14_benchx"])
@pytest.mark.parametrize(
    ("words", "positive", "unknown"),
    [
        ("Atelectasis", {"AT"}, {"LO"}),
        ("Cardiomegaly", {"CM"}, set()),
        ("Consolidation", {"CO"}, {"LO"}),
        ("Edema", {"ED"}, {"LO"}),
        ("Effusion", {"PE"}, set()),
        ("Emphysema", set(), {"NF"}),
        ("Fibrosis", set(), {"LO", "NF"}),
        ("Hernia", set(), {"NF"}),
        ("Infiltration", {"LO"}, set()),
        ("Mass", {"LL"}, {"LO"}),
        ("Nodule", {"LL"}, {"LO"}),
        ("Pleural_Thickening", {"PO"}, set()),
        ("Pneumonia", {"PN"}, {"LO"}),
        ("Pneumothorax", {"PX"}, set()),
        ("No Finding", {"NF"}, set()),
        ("Effusion|Infiltration|Pneumonia", {"PE", "LO", "PN"}, set()),
    ],
)
def test_each_word_of_nih(mapping, words, positive, unknown):
    assert of(mapping, words.split("|")) == (positive, unknown | NEVER)


def test_nih_knows_its_15_words_and_refuses_others():
    for mapping in ("nih_chestxray14", "nih_chestxray14_benchx"):
        spec = load_mapping(mapping).labels
        assert spec is not None
        assert len({*spec.names, *spec.open, *spec.void}) == 15
        with pytest.raises(ValueError, match=r"'pleural thickening' is not in labels\.names"):
            of(mapping, ["Pleural Thickening"])


def test_the_words_of_the_covid_collection():
    others = ALL - {"PN", "NF"}
    for word in ("COVID-19", "SARS", "Streptococcus", "Pneumocystis", "Legionella", "Lipoid", "Klebsiella", "Influenza",
                 "Pneumonia", "COVID-19, ARDS", "Pneumonia/Viral/COVID-19", "Pneumonia/Bacterial/E.Coli"):  # fmt: skip
        assert of("covid_chestxray", [word]) == ({"PN"}, others), word
    assert of("covid_chestxray", ["No Finding"]) == ({"NF"}, others)
    for word in ("ARDS", "Tuberculosis", "Pneumonia/Unheard of"):
        assert of("covid_chestxray", [word]) == (set(), ALL), word
    spec = load_mapping("covid_chestxray").labels
    assert spec is not None
    for word, present in spec.names.items():
        assert present == (("No Finding",) if word == "no finding" else ("Pneumonia",)), word


def test_chexpert_plus_takes_each_observation_from_its_own_column():
    spec = load_mapping("chexpert_plus").labels
    assert spec is not None
    for name in OBSERVATIONS:
        row = {**dict.fromkeys(OBSERVATIONS, ""), name: "1.0"}
        assert labels_of(spec, row.__getitem__) == {**dict.fromkeys(OBSERVATIONS), name: 1}


# ------------------------------------------------------------------------------------------------ real collections
# positive, negative of each observation, counted by hand from the publishers' words; the rest is unknown
COUNTS = {
    "nih_chestxray14_benchx": ("nih_chestxray14", {
        "CM": (62, 683), "LO": (113, 488), "LL": (54, 691), "ED": (12, 733), "CO": (35, 710), "PN": (11, 734),
        "AT": (68, 677), "PX": (30, 715), "PE": (115, 630), "PO": (25, 720), "NF": (352, 359),
    }),
    "covid_chestxray": ("covid_chestxray", {"PN": (109, 3), "NF": (3, 109)}),
    "mhh_covid19": ("mhh_covid19", {}),
}  # fmt: skip


@pytest.mark.parametrize("mapping", COUNTS)
def test_counts_on_the_real_collections(mapping):
    """No observation has positives alone: a loss would learn to call it everywhere."""
    folder, expected = COUNTS[mapping]
    if not (REAL / folder).is_dir():
        pytest.skip(f"no {REAL / folder} (set COGAZE_REAL_DATA)")
    counts = Counter(
        (name, value)
        for record in table.read(REAL / folder, Quarantine(), mapping=mapping)
        for name, value in record.labels.items()
    )
    assert {
        short: (counts[name, 1], counts[name, 0]) for short, name in SHORT.items() if counts[name, 1] + counts[name, 0]
    } == expected
    assert sum(counts.values()) == sum(map(sum, expected.values()))
