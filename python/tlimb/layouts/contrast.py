"""What scanners, and tables made by hand, call a contrast."""

import re

CONTRASTS = (
    (r"LOCALI|SCOUT|FIELD.?MAP|FMRI|RSFMRI|EPI|DTI|DWI|PERFUSION|ASL|HIPPO|FA.?MAP|CALIB", ""),
    (r"FLAIR", "FLAIR"),
    (r"T2.?(STAR|\*)", "T2starw"),
    (r"^(?!.*PD).*\bT2(?!\d)(?!.*T1W)", "T2w"),
    (r"MP.?RAGE|MPR\b|SPGR|\bT1(?!\d)|\bT1W", "T1w"),
    (r"^(?!.*T2).*\bPDW?\b", "PDw"),
)
"""What a description says of the contrast, first match; none: passed over. Underscores and hyphens count as blanks."""


def contrast(description: str) -> str:
    """The modality that a description names, such as T1w for Sagittal_3D_MPRAGE; "" for none."""
    text = description.upper().replace("_", " ").replace("-", " ")
    return next((modality for pattern, modality in CONTRASTS if re.search(pattern, text)), "")
