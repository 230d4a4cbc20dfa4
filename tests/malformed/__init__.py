"""Input that nobody should have made: hundreds of malformed files, and what is said of each."""
