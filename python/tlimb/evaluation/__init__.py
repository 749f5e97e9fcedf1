"""How good a model is: predictions, metrics and their intervals."""
