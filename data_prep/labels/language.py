"""Is a report in English? The rules read nothing else, and a report they cannot read says nothing, not "No Finding".

Words are counted: those that English alone has, those that other languages alone have (and any with a letter beyond
a-z), and the Latin ones that all share. A report is English where the first outweigh the second and known words are not
rare; a few words without any that is English alone ("Cardiomegaly.") are where most of them are known. Words that stand
in two languages with other meanings ("no", "in", "am", "la", "et", an endotracheal tube) count for neither.
"""

from __future__ import annotations

import re

ENGLISH = frozenset(
    """
    the there this these those that which with without within of and or is are was were has have had been be not from
    for by at to on as it its an both may might could would should can cannot but however although than then now also
    again since when after before between over under above below into through compared unchanged stable mild mildly
    moderate moderately severe small large tiny minimal slight slightly minimally trace new newly old left right upper
    lower middle mid low high clear clearing cleared normal normally unremarkable seen noted identified visualized
    present absent evidence finding findings impression study examination exam image images view views radiograph
    radiographs film chest heart lung lungs size cardiac pulmonary mediastinum mediastinal contour contours
    lobe lobes base bases basilar bibasilar rib ribs bone bones bony spine osseous structures effusion effusions
    fracture fractures opacity opacities consolidation infiltrate infiltrates pneumonia atelectasis cardiomegaly nodule
    nodules mass masses disease acute chronic active process abnormality abnormalities abnormal limits volumes
    vascular vascularity vasculature congestion failure enlarged enlargement thickening scarring granuloma airspace air
    space soft tissue tissues line lines tube tubes tip catheter place placement device devices pacemaker port wires
    leads prior previous previously interval change changes changed increased increasing decreased decreasing improved
    improving worsening worsened resolved resolution removal removed removed persistent possible possibly probable
    probably likely unlikely suspected question concerning suggest suggests suggesting suggestive represent represents
    representing evaluate exclude excluded recommend follow followup correlate clinical clinically patient patients
    otherwise negative none free status post age healed degenerative limited good adequate all well see read
    lesion lesions resection enlargement granulomas hyperexpanded hyperinflated hyperinflation emphysematous tortuous
    """.split()
)  # fmt: skip
SHARED = frozenset(
    """
    normal pneumothorax hydropneumothorax edema oedema emphysema thorax pleural hilar lateral apical basal interstitial
    bilateral perihilar diffuse focal scoliosis kyphosis fibrosis sternotomy hernia sinus diaphragm trachea aorta carina
    ptx ett chf copd picc svc ivc icd aicd nad wnl neg no pa ap ct pna fx cxr cabg xxxx silhouette abdomen fibrothorax hemothorax stable
    """.split()
)  # fmt: skip
OTHERS = frozenset(
    """
    de der das dem den eines einer gross grosser unauffaellig und kein keine keinen keiner nicht mit ohne ist sind wird rechts links rechte linke beidseits beide
    im zum zur bei nach vom auf als auch oder sowie lunge lungen herz erguss pleuraerguss verschattung unauffällig
    el los las una uno del con sin ni y se observa observan derrame corazón pulmones pulmón izquierdo derecho izquierda
    derecha sobre para como más hay imagen imágenes conclusión tórax silueta cardíaca silhueta sem não dos na nos nas
    uma com ao pelo pelos pulmão pulmões direito esquerdo coração achados alterações il lo gli di della dello delle dei
    degli nel nella nei senza versamento destra destro sinistra sinistro polmonare polmonari cuore ombra reperti
    cardiaque pulmonaire pleurale normale taille les une du au aux pas sans avec sur est sont dans ou épanchement droite droit gauche poumon poumons cœur
    cliché pneumopathie het een geen en van aan bij hart longen och inte utan ingen inga med
    ikke uten uden av af til ei oikea vasen brak bez nie jest oraz prawy lewy serce płuca bir ve yok sağ sol kalp
    """.split()
)  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+")
_BEYOND = re.compile(r"[^\x00-\x7f]")
MIN_KNOWN, MIN_KNOWN_ALONE = 0.25, 0.6  # shares of known words; the second where none is English alone


def is_english(text: str) -> bool:
    """Whether `text` reads as English. False for a text without any word."""
    words = [word for word in _WORD.findall(text.lower()) if len(word) > 1]
    if not words:
        return False
    english = sum(word in ENGLISH and word not in SHARED for word in words)
    others = sum(word in OTHERS or _BEYOND.search(word) is not None for word in words)
    known = english + sum(word in SHARED for word in words)
    if others >= english and others:
        return False
    return known / len(words) >= (MIN_KNOWN if english else MIN_KNOWN_ALONE)
