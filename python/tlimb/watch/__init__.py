"""How far a run is: in the terminal, and as a page that each round rewrites."""
