"""Every mistake that a command answers: the catalogue, the files that it plants, and the page that lists it."""
