"""maskmill: segmentation training data that you can trust. `import maskmill as mm`; docs/python.md shows what it gives.

This package is the one that people import and the one that a wheel installs. In a checkout its rooms
(`data_contracts/`, `vision/` …) lie at the top level and are linked in here, so that every module has one name,
`maskmill.ROOM.…`, wherever it is imported from.
"""

from maskmill import _checkout  # noqa: F401 - one module under one name, also where a checkout is on the path
