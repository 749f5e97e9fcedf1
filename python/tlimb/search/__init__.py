"""From a sweep to trials: the space, its points, their splits and the trainings they need."""
