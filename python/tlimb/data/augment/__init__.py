"""Augmentation of training batches, on the device: each image changed by numbers drawn for it alone."""
