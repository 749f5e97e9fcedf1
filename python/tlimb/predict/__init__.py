"""`tlimb predict`: new scans through a trained model's own preprocessing to a table of predictions."""
