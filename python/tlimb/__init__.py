"""tlimb: transfer learning for brain MRI, from a samplesheet and a sweep to a ranked report."""

__version__ = "0.1.0"
