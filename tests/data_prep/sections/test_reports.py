"""Whole reports in the shapes of hospitals and of MIMIC-CXR, written by hand with the six sections they hold."""

from __future__ import annotations

import pytest

from data_prep.sections import sections

LINE = "_" * 78

# name -> (report, its sections); "last" is the fall-back of reports without a header for findings or impression
REPORTS: dict[str, tuple[str, dict[str, str]]] = {
    "one line, Capitalised": (
        "Indication: Cough. Findings: Large right effusion. Impression: Effusion.",
        {"indication": "Cough.", "findings": "Large right effusion.", "impression": "Effusion."},
    ),
    "one line, nothing but blanks where line ends stood": (
        "Clinical History: Cough Technique: PA and lateral Comparison: None Findings: Large right effusion "
        "Impression: Effusion",
        {"history": "Cough", "technique": "PA and lateral", "comparison": "None", "findings": "Large right effusion",
         "impression": "Effusion"},
    ),
    "one line with all sections": (
        "Exam: Chest 2 views. Indication: Fever. Technique: PA and lateral views of the chest. Comparison: None. "
        "Findings: The lungs are clear. Heart size is normal. Impression: 1. No pneumonia. 2. No effusion.",
        {"indication": "Fever.", "technique": "PA and lateral views of the chest.", "comparison": "None.",
         "findings": "The lungs are clear. Heart size is normal.", "impression": "1. No pneumonia. 2. No effusion."},
    ),
    "one line, all capitals": (
        "REASON FOR EXAM: COUGH FINDINGS: LARGE EFFUSION. NO PNEUMOTHORAX IMPRESSION: EFFUSION",
        {"indication": "COUGH", "findings": "LARGE EFFUSION. NO PNEUMOTHORAX", "impression": "EFFUSION"},
    ),
    "one line in small letters": (
        "indication: cough, compared with findings: stable. findings: large effusion.",
        {"indication": "cough, compared with findings: stable.", "findings": "large effusion."},
    ),
    "line ends spelt out": (
        r"INDICATION: Cough\n\nFINDINGS: Large\r\neffusion.\nIMPRESSION: Effusion.\r\n",
        {"indication": "Cough", "findings": "Large effusion.", "impression": "Effusion."},
    ),
    "html": (
        "<p><b>Indication:</b> Cough &amp; fever</p><p><b>Findings:</b><br/>Nodule &lt; 3 mm.<br>No effusion.</p>"
        "<p><strong>Impression:</strong></p><ul><li>Nodule</li></ul>",
        {"indication": "Cough & fever", "findings": "Nodule < 3 mm. No effusion.", "impression": "- Nodule"},
    ),
    "addendum on top": (
        f" ADDENDUM  Findings were conveyed to Dr. ___ at 3 p.m.\n {LINE}\n FINAL REPORT\n INDICATION:  Chest pain.\n\n"
        " FINDINGS:  Small effusion.\n\n IMPRESSION:  Effusion.\n",
        {"indication": "Chest pain.", "findings": "Small effusion.", "impression": "Effusion."},
    ),
    "addendum inside the report, before the findings": (
        " FINAL REPORT\n INDICATION:  Chest pain.\n ADDENDUM:  Comparison with ___ is now made.\n"
        " FINDINGS:  Small effusion.\n IMPRESSION:  Effusion.\n",
        {"indication": "Chest pain.", "findings": "Small effusion.", "impression": "Effusion."},
    ),
    "findings and impression in one": (
        " EXAM:  Portable chest.\n\n CLINICAL HISTORY:  ___-year-old with fever.\n\n FINDINGS AND IMPRESSION:\n\n"
        " Low lung volumes.\n\n No focal consolidation.\n",
        {"history": "year-old with fever.", "impression": "Low lung volumes. No focal consolidation."},
    ),
    "Findings/Impression": (
        "Reason for Exam: Fall\nFindings/Impression: No rib fracture.\nNo pneumothorax.\n",
        {"indication": "Fall", "impression": "No rib fracture. No pneumothorax."},
    ),
    "impression twice": (
        " FINDINGS:  Clear.\n IMPRESSION:  Preliminary: normal.\n\n IMPRESSION:  Normal.\n",
        {"findings": "Clear.", "impression": "Normal."},
    ),
    "wet read below the indication": (
        " INDICATION:  Trauma.\n WET READ:  Left pneumothorax.\n FINDINGS:  Small left pneumothorax.\n"
        " IMPRESSION:  Pneumothorax.\n",
        {"indication": "Trauma.", "findings": "Small left pneumothorax.", "impression": "Pneumothorax."},
    ),
    "wet read in the middle of a line": (
        "Indication: Trauma. Wet read: Left pneumothorax. Findings: Small left pneumothorax.",
        {"indication": "Trauma.", "findings": "Small left pneumothorax."},
    ),
    "history inside the indication": (
        " INDICATION:  History: ___M with dyspnea // edema?\n\n FINDINGS:  Mild edema.\n",
        {"indication": "History: M with dyspnea // edema?", "findings": "Mild edema."},
    ),
    "reason and history": (
        " REASON FOR EXAM:  Dyspnea.\n CLINICAL HISTORY:  CHF.\n COMPARISON:  ___.\n\n"
        " PORTABLE UPRIGHT CHEST:  There is mild edema.\n\n IMPRESSION:  Edema.\n",
        {"indication": "Dyspnea.", "history": "CHF.", "findings": "There is mild edema.", "impression": "Edema."},
    ),
    "a view in small letters below the history": (
        " HISTORY:  Cough\n PA and lateral views of the chest:  The lungs are clear.\n\n No effusion.\n"
        " IMPRESSION:  Normal.\n",
        {"history": "Cough", "findings": "The lungs are clear. No effusion.", "impression": "Normal."},
    ),
    "organs in small letters below the indication": (
        "Indication: Cough\nLungs: Clear.\nHeart: Enlarged.\nPleura: No effusion.\nImpression: Cardiomegaly.\n",
        {"indication": "Cough", "findings": "Clear. Heart: Enlarged. Pleura: No effusion.",
         "impression": "Cardiomegaly."},
    ),
    "films of the comparison are no findings": (
        " INDICATION:  Cough.\n COMPARISON:  CT of ___.\n Chest radiograph: ___ and ___.\n\n"
        " FINDINGS:  Clear.\n IMPRESSION:  Normal.\n",
        {"indication": "Cough.", "comparison": "CT of. Chest radiograph: and.", "findings": "Clear.",
         "impression": "Normal."},
    ),
    "findings in the paragraph of the comparison": (
        " HISTORY:  Fever.\n COMPARISON:  None.\n The lungs are clear. Heart size is normal.\n IMPRESSION:  Normal.\n",
        {"history": "Fever.", "comparison": "None.", "findings": "The lungs are clear. Heart size is normal.",
         "impression": "Normal."},
    ),
    "an empty comparison above unheaded findings": (
        " HISTORY:  Fever.\n\n COMPARISON:\n\n Emphysema is again noted. No pneumothorax.\n\n"
        " IMPRESSION:  Emphysema.\n",
        {"history": "Fever.", "findings": "Emphysema is again noted. No pneumothorax.", "impression": "Emphysema."},
    ),
    "the findings' first sentence is not the sure one": (
        " INDICATION:  Cough\n COMPARISON:  None.\n Cardiac contours within limits. Lungs are clear.\n"
        " IMPRESSION:  Normal.\n",
        {"indication": "Cough", "comparison": "None.", "findings": "Cardiac contours within limits. Lungs are clear.",
         "impression": "Normal."},
    ),
    "unheaded findings with names of organs and a comparison inside": (
        " INDICATION:  Cough.\n\n Chest: Clear. Comparison: unchanged. Heart: Normal.\n\n IMPRESSION:  Normal.\n",
        {"indication": "Cough.", "findings": "Chest: Clear. Comparison: unchanged. Heart: Normal.",
         "impression": "Normal."},
    ),
    "nothing but a history with findings": (
        " HISTORY:  Cough. Lungs are clear. There is no effusion.\n",
        {"history": "Cough.", "last": "Lungs are clear. There is no effusion."},
    ),
    "an indication that asks in a paragraph of its own": (
        " INDICATION:  Shortness of breath.\n \n Patient with a history of CHF. Please evaluate for edema.\n \n"
        " IMPRESSION:  Moderate edema.\n",
        {"indication": "Shortness of breath. Patient with a history of CHF. Please evaluate for edema.",
         "impression": "Moderate edema."},
    ),
    "a request, then unheaded findings": (
        " INDICATION:  Dyspnea.\n \n 60-year-old with CHF, evaluate for edema.\n \n There is mild edema."
        " No effusion.\n \n IMPRESSION:  Edema.\n",
        {"indication": "Dyspnea. 60-year-old with CHF, evaluate for edema.",
         "findings": "There is mild edema. No effusion.", "impression": "Edema."},
    ),
    "a request above headed findings": (
        " INDICATION:  SOB.\n\n Please evaluate for edema.\n\n FINDINGS:  Mild edema.\n",
        {"indication": "SOB. Please evaluate for edema.", "findings": "Mild edema."},
    ),
    "a worry": (
        " INDICATION:  There is concern for pulmonary edema. Evaluate.\n\n IMPRESSION:  Mild pulmonary edema.\n",
        {"indication": "There is concern for pulmonary edema. Evaluate.", "impression": "Mild pulmonary edema."},
    ),
    "a worry above the findings": (
        " INDICATION:  There is concern for edema.\n The lungs are clear.\n IMPRESSION:  No edema.\n",
        {"indication": "There is concern for edema.", "findings": "The lungs are clear.", "impression": "No edema."},
    ),
    "a history of what was not seen, above a comparison": (
        " HISTORY:  HIV. No infiltrate on prior study. Now febrile.\n\n COMPARISON:  ___\n\n"
        " IMPRESSION:  New infiltrate.\n",
        {"history": "HIV. No infiltrate on prior study. Now febrile.", "impression": "New infiltrate."},
    ),
    "a sure sentence above another context section stays": (
        " HISTORY:  HIV. No infiltrate. Now febrile.\n\n COMPARISON:  None.\n\n IMPRESSION:  New infiltrate.\n",
        {"history": "HIV. No infiltrate. Now febrile.", "comparison": "None.", "impression": "New infiltrate."},
    ),
    "a heart that is racing": (
        " INDICATION:  Chest pain; heart is racing. Evaluate for pneumonia.\n\n COMPARISON:  None.\n\n"
        " IMPRESSION:  Normal.\n",
        {"indication": "Chest pain; heart is racing. Evaluate for pneumonia.", "comparison": "None.",
         "impression": "Normal."},
    ),
    "a comparison that tells what was there": (
        " COMPARISON:  CT. There are bilateral effusions on that study.\n\n IMPRESSION:  Stable effusions.\n",
        {"comparison": "CT. There are bilateral effusions on that study.", "impression": "Stable effusions."},
    ),
    "a sure sentence over two lines": (
        " INDICATION:  Acute bronchitis.\n No\n pneumothorax or pleural effusion is seen.\n IMPRESSION:  Normal.\n",
        {"indication": "Acute bronchitis.", "findings": "No pneumothorax or pleural effusion is seen.",
         "impression": "Normal."},
    ),
    "a history among the findings": (
        " HISTORY:  Cough.\n FINDINGS:  Clear.\n HISTORY OF CABG: wires intact.\n IMPRESSION:  Normal.\n",
        {"history": "Cough.", "findings": "Clear. HISTORY OF CABG: wires intact.", "impression": "Normal."},
    ),
    "a history among the findings, of a report without one": (
        " FINDINGS:  Clear.\n HISTORY OF CABG: wires intact.\n IMPRESSION:  Normal.\n",
        {"findings": "Clear. HISTORY OF CABG: wires intact.", "impression": "Normal."},
    ),
    "a reason among the findings": (
        " INDICATION:  Cough.\n FINDINGS:  Clear.\n SECOND INDICATION: wires intact.\n IMPRESSION:  Normal.\n",
        {"indication": "Cough.", "findings": "Clear. SECOND INDICATION: wires intact.", "impression": "Normal."},
    ),
    "one short sure sentence that compares": (
        " COMPARISON:  May.\n\n No effusion compared to May.\n\n IMPRESSION:  Normal.\n",
        {"comparison": "May.", "findings": "No effusion compared to May.", "impression": "Normal."},
    ),
    "one short sure sentence": (
        " INDICATION:  Cough.\n\n COMPARISON:  None.\n\n The lungs are clear.\n\n IMPRESSION:  Normal.\n",
        {"indication": "Cough.", "comparison": "None.", "findings": "The lungs are clear.", "impression": "Normal."},
    ),
    "one short finding": (
        " COMPARISON:  None.\n\n Small left effusion.\n\n IMPRESSION:  Effusion.\n",
        {"comparison": "None.", "findings": "Small left effusion.", "impression": "Effusion."},
    ),
    "short names of the images": (
        " COMPARISON:  None.\n\n Portable chest radiograph at 5 pm.\n\n IMPRESSION:  Normal.\n",
        {"comparison": "None.", "impression": "Normal."},
    ),
    "two images are no finding": (
        " COMPARISON:  None.\n\n Two images.\n\n IMPRESSION:  Normal.\n",
        {"comparison": "None.", "impression": "Normal."},
    ),
    "a short title on top is no finding": (
        " Cardiac clinic\n INDICATION:  Cough.\n IMPRESSION:  Normal.\n",
        {"indication": "Cough.", "impression": "Normal."},
    ),
    "a short request below the comparison is no finding": (
        " COMPARISON:  None.\n\n Evaluate for edema.\n\n IMPRESSION:  Normal.\n",
        {"comparison": "None.", "impression": "Normal."},
    ),
    "a finding beside a request": (
        " INDICATION:  Dyspnea.\n \n Large left effusion. Please evaluate.\n \n IMPRESSION:  Effusion.\n",
        {"indication": "Dyspnea.", "findings": "Large left effusion. Please evaluate.", "impression": "Effusion."},
    ),
    "a finding about the patient beside a request": (
        " INDICATION:  Dyspnea.\n \n Patient has no effusion. Follow-up for evaluation in May.\n \n"
        " IMPRESSION:  Normal.\n",
        {"indication": "Dyspnea.", "findings": "Patient has no effusion. Follow-up for evaluation in May.",
         "impression": "Normal."},
    ),
    "a paragraph that asks for nothing": (
        " HISTORY:  Dyspnea.\n \n Status post sternotomy. Known nodule at the left base.\n \n IMPRESSION:  Nodule.\n",
        {"history": "Dyspnea.", "findings": "Status post sternotomy. Known nodule at the left base.",
         "impression": "Nodule."},
    ),
    "a Capitalised impression right behind the findings' header": (
        "FINDINGS: Impression: Effusion", {"impression": "Effusion"},
    ),
    "a comparison packed behind the impression": (
        "IMPRESSION: COMPARISON: ___. Stable effusion.", {"impression": "Stable effusion."},
    ),
    "a comparison right below the findings' header": (
        " FINDINGS:\n COMPARISON:  None.\n The lungs are clear.\n IMPRESSION:  Normal.\n",
        {"comparison": "None.", "findings": "The lungs are clear.", "impression": "Normal."},
    ),
    "no findings between their header and the comparison": (
        " FINDINGS:\n\n COMPARISON:  CT of May. Films of June.\n\n IMPRESSION:  Normal.\n",
        {"comparison": "CT of May. Films of June.", "impression": "Normal."},
    ),
    "findings were discussed": (
        " FINDINGS:  Normal lungs.\n\n IMPRESSION:  Normal.\n\n"
        " FINDINGS WERE DISCUSSED WITH DR. ___ AT: 5 pm on 3/4.\n",
        {"findings": "Normal lungs.", "impression": "Normal. FINDINGS WERE DISCUSSED WITH DR. AT: 5 pm on 3/4."},
    ),
    "findings were discussed, below a notification": (
        " FINDINGS:  Normal lungs.\n IMPRESSION:  Normal.\n NOTIFICATION:  By phone.\n"
        " CHEST FINDINGS DISCUSSED WITH DR X:  5 pm.\n",
        {"findings": "Normal lungs.", "impression": "Normal."},
    ),
    "incidental findings and small letters below the impression": (
        " FINDINGS:  Normal lungs.\n IMPRESSION:\n Normal.\n INCIDENTAL FINDINGS:  Rib lesion.\n"
        " Findings: told to Dr. X.\n",
        {"findings": "Normal lungs.",
         "impression": "Normal. INCIDENTAL FINDINGS: Rib lesion. Findings: told to Dr. X."},
    ),
    "findings told to somebody, in small letters": (
        " FINDINGS:  Clear.\n IMPRESSION:  Normal.\n NOTIFICATION:  The Findings: clear lungs, told to Dr. X.\n"
        " Impression: told too.\n",
        {"findings": "Clear.", "impression": "Normal."},
    ),
    "dashes inside the findings": (
        " INDICATION:  Fall.\n X-ray: evaluate for fracture.\n FINDINGS:  Clear.\n"
        " Comparison - none. Heart is normal.\n",
        {"indication": "Fall. X-ray: evaluate for fracture.", "findings": "Clear. Comparison - none. Heart is normal."},
    ),
    "headers without colons": (
        "CHEST X-RAY\n\nINDICATION\nCough\n\nTECHNIQUE\nTwo views\n\n"
        "FINDINGS\nLarge effusion\n\nIMPRESSION\nEffusion\n",
        {"indication": "Cough", "technique": "Two views", "findings": "Large effusion", "impression": "Effusion"},
    ),
    "Capitalised headers without colons or blank lines": (
        "Clinical history\nCough\nFindings\nLarge effusion\nImpression\nEffusion\n",
        {"history": "Cough", "findings": "Large effusion", "impression": "Effusion"},
    ),
    "headers with a dash": (
        "INDICATION - Cough\nFINDINGS - Large effusion\nImpression \u2013 Effusion - new\n",
        {"indication": "Cough", "findings": "Large effusion", "impression": "Effusion - new"},
    ),
    "numbered impression, signature": (
        " FINDINGS: Nodule.\n\n IMPRESSION:\n\n 1.  Nodule, 3.5 mm.\n\n 2.  RECOMMENDATION: CT.\n\n"
        " DICTATED BY:  Dr. ___\n SIGNED BY:  Dr. ___ on ___ 10:15\n",
        {"findings": "Nodule.", "impression": "1. Nodule, 3.5 mm. 2. RECOMMENDATION: CT."},
    ),
    "all capitals, with a comparison in a sentence": (
        " INDICATION: COUGH.\n FINDINGS: COMPARISON IS MADE TO THE STUDY OF: MAY 3.\n THE HEART IS ENLARGED.\n"
        " LUNGS: CLEAR.\n IMPRESSION: CARDIOMEGALY.\n",
        {"indication": "COUGH.",
         "findings": "COMPARISON IS MADE TO THE STUDY OF: MAY 3. THE HEART IS ENLARGED. LUNGS: CLEAR.",
         "impression": "CARDIOMEGALY."},
    ),
    "mixed case, clinical details and report": (
        "Clinical details: Cough\nReport: The lungs are clear.\nOpinion: Normal chest.\n",
        {"history": "Cough", "findings": "The lungs are clear.", "impression": "Normal chest."},
    ),
    "lists": (
        " INDICATION: Follow up.\n FINDINGS:\n - No pneumothorax\n - Moderate left effusion\n * Tube in place\n"
        " IMPRESSION:\n \u2022 Effusion\n",
        {"indication": "Follow up.", "findings": "- No pneumothorax - Moderate left effusion * Tube in place",
         "impression": "\u2022 Effusion"},
    ),
    "two reports in one cell": (
        f"FINDINGS: Old.\nIMPRESSION: Old effusion.\n{LINE}\nFINDINGS: New.\nIMPRESSION: New effusion.\n",
        {"findings": "New.", "impression": "New effusion."},
    ),
    "symptoms are no views": (
        " INDICATION: Fall.\n Chest pain: yes\n Heart failure: no\n\n FINDINGS: Clear.\n",
        {"indication": "Fall. Chest pain: yes Heart failure: no", "findings": "Clear."},
    ),
    "underscores everywhere": (
        " INDICATION: ___ y/o ___ with ___.\n\n COMPARISON: ___, ___.\n\n"
        " FINDINGS: ___ lines. Clear.\n\n IMPRESSION: ___",
        {"indication": "y/o with.", "findings": "lines. Clear."},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_falls_into_its_sections(name):
    text, expected = REPORTS[name]
    found = {section: body for section, body in sections(text).items() if body is not None}
    assert found == {"last_paragraph" if section == "last" else section: body for section, body in expected.items()}


EFFUSION = "Large right effusion"
CONTEXTS = (
    "INDICATION",
    "Indication",
    "indication",
    "HISTORY",
    "Clinical history",
    "REASON FOR EXAM",
    "Reason for exam",
)
FINDINGS = ("FINDINGS", "Findings", "IMPRESSION", "Impression", "FINDINGS AND IMPRESSION", "Findings/Impression",
            "Conclusion", "PORTABLE CHEST", "PA and lateral views of the chest", "Wet read", "Report")  # fmt: skip


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("header", FINDINGS)
@pytest.mark.parametrize("between", ["\n", "\n\n", ". ", ".\n", r"\n", r".\r\n", "<br>", "</p><p>", "; ", "? "])
def test_no_finding_stands_in_the_context(context, header, between):
    found = sections(f"{context}: Cough{between}{header}: {EFFUSION}. No pneumothorax.")
    name = "history" if "istory" in context.lower() else "indication"
    assert found[name] is not None
    assert found[name].rstrip(".?;") == "Cough"
    if header != "Wet read":  # it comments on a report, and is none
        assert sum(EFFUSION in (body or "") for body in found.values()) == 1
