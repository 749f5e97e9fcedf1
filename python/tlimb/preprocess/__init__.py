"""One scan -> one array: orientation, bias field, registration, brain mask, intensity, and numbers on its quality."""
