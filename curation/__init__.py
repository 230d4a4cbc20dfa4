"""Selection: scores (SDS), near-duplicates and decisions over stored scores."""
