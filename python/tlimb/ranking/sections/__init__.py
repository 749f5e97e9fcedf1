"""The parts of the report, a file each: what the page's templates draw, made of ranking.json and other files."""
