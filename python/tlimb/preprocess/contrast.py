"""Whether a scan's contrast is that of its stated modality, from the signal of grey matter, white matter and fluid."""

LOOKS = {
    "T1w": "white matter brighter than grey, fluid dark",
    "T2w": "fluid brightest, grey matter brighter than white",
    "PDw": "grey matter brighter than white, fluid about as bright",
    "FLAIR": "fluid dark, grey matter brighter than white",
}
"""How the modalities look whose contrast is known; of any other nothing is said."""


def contrast_doubts(grey_white: float | None, fluid_white: float | None, modality: str) -> list[str]:
    """At most one text: the stated modality and the one that the scan looks like.

    grey_white, fluid_white: median signal over that of white matter, in places that are pure tissue in the template.
    T2w and PDw differ by echo time alone and are not told apart.
    """
    if modality not in LOOKS or grey_white is None or fluid_white is None:
        return []
    seen = looks_like(grey_white, fluid_white)
    if seen is None or modality in seen:
        return []
    ratios = f"grey matter {grey_white:.2f} and fluid {fluid_white:.2f} of white matter"
    return [f"not the contrast of {modality} ({LOOKS[modality]}) but of {' or '.join(seen)}: {ratios}"]


def looks_like(grey_white: float, fluid_white: float) -> tuple[str, ...] | None:
    """The modalities that show tissues so; None between them."""
    if grey_white < 0.95:
        return ("T1w",)
    if grey_white > 1.02:
        return ("FLAIR",) if fluid_white < 0.8 else ("T2w", "PDw") if fluid_white > 0.95 else None
    return None
