"""A throw-away example of each kind of thing that can be added: what stands in these files is all that it takes."""
