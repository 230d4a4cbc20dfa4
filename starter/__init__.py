"""The small models that ship, how each is made (`clip_training`, `generator_training`, `promptable_training`), and the
`drawn` world.
"""
