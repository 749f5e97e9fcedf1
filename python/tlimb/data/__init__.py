"""From a store to batches: which part of a volume a network sees, labels and their scaling, batch order."""
