"""Weights from elsewhere and to elsewhere: read, matched by name and shape, described, exported."""
