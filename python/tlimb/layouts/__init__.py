"""Public archives, each with a function that finds its scans and labels; `tlimb samplesheet` writes what it finds."""

from tlimb.layouts.hcp import hcp
from tlimb.layouts.ixi import ixi
from tlimb.layouts.listed import idss
from tlimb.layouts.loni import adni, ppmi
from tlimb.layouts.oasis import oasis1, oasis3
from tlimb.layouts.openbhb import openbhb
from tlimb.layouts.ukb import ukb

LAYOUTS = {
    "adni": adni,
    "hcp": hcp,
    "idss": idss,
    "ixi": ixi,
    "oasis1": oasis1,
    "oasis3": oasis3,
    "openbhb": openbhb,
    "ppmi": ppmi,
    "ukb": ukb,
}
"""Name -> function of an Archive that returns its Scans; the name is the cohort's unless the user gives another."""
