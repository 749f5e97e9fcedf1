"""Which candidate is best: selection on validation, test scores with intervals, comparisons and the report."""
