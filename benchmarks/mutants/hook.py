"""A changed module in place of the one on disk, for one process and those that it starts; the working tree stays as
it is.

Started programs take this very file as their `sitecustomize`, from a folder at the head of PYTHONPATH.
"""

import importlib.machinery
import os
from types import CodeType
from typing import Any

WHERE = "MASKMILL_MUTANT_OF"  # real path of the module that is changed
TEXT = "MASKMILL_MUTANT_TEXT"  # path of the file with its changed text


def install() -> None:
    """Load the module at $MASKMILL_MUTANT_OF from the text at $MASKMILL_MUTANT_TEXT; it must not be imported yet."""
    wanted = os.environ[WHERE]
    with open(os.environ[TEXT], encoding="utf-8") as handle:
        text = handle.read()
    real = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: Any, fullname: str) -> CodeType | None:
        if os.path.realpath(self.path) == wanted:
            return compile(text, self.path, "exec", dont_inherit=True)
        return real(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


if __name__ == "sitecustomize":
    install()
