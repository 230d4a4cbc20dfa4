"""Options of the dense CRF, wherever something is refined by one. Imports no scipy and no OpenCV."""

import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, SerializationInfo, SerializerFunctionWrapHandler, WrapSerializer

CrfBackend = Literal["auto", "pydensecrf", "mean_field"]
CrfImage = Literal["rgb", "wrapped_bgr"]


@dataclass(frozen=True)
class CrfOptions:
    """What `refine_many` is asked for, as one value that travels to workers and into config hashes.

    `image` is what the CRF sees: the picture, or (`wrapped_bgr`) what the release of CLIP-ES hands it. Widths are
    standard deviations in pixels and in grey levels; the rest is as in `dense_crf`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    iterations: int = 10
    gaussian_sxy: float = 1
    gaussian_weight: float = 3
    bilateral_sxy: float = 67
    bilateral_srgb: float = 3
    bilateral_weight: float = 4
    backend: CrfBackend = "mean_field"
    image: CrfImage = "rgb"


def laid_over(default: CrfOptions) -> BeforeValidator:
    """For a field of type CrfOptions: what is given is laid over the field's default, so that {backend: pydensecrf}
    changes nothing else.
    """

    def fill(given: Any) -> Any:
        return {**asdict(default), **given} if isinstance(given, Mapping) else given

    return BeforeValidator(fill)


def _without_image(options: Any, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
    dumped = dump(options)
    if isinstance(dumped, dict) and (info.context or {}).get("for_hash") and dumped.get("image") == "rgb":
        del dumped["image"]
    return dumped


WITHOUT_IMAGE = WrapSerializer(_without_image)
"""For options that were hashed before they had `image`: in a dump for a hash `rgb` is left out."""


def crf_stamp(options: CrfOptions) -> tuple[str, ...]:
    """What a stage's hash must hold beside the options: the backend that they come down to on this machine; nothing
    for the default one, which is the same everywhere.
    """
    backend = crf_backend(options.backend)
    return () if backend == "mean_field" else (backend,)


def crf_backend(name: str = "auto") -> Literal["pydensecrf", "mean_field"]:
    """The backend that `name` stands for on this machine: `auto` is pydensecrf where it is installed, else mean_field.

    The two agree on about 99.7 % of pixels, not on all, so a stage puts this answer, not "auto", into its config hash.
    `mean_field` is as fast and the same on every machine, hence the default everywhere.

    Raises:
        ValueError: unknown name. ImportError: pydensecrf asked for by name and not installed.
    """
    if name == "mean_field":
        return "mean_field"
    if name not in ("auto", "pydensecrf"):
        raise ValueError(f"CRF backend {name!r} is unknown; choose auto, pydensecrf or mean_field")
    if importlib.util.find_spec("pydensecrf") is not None:
        return "pydensecrf"
    if name == "auto":
        return "mean_field"
    raise ImportError(
        "pydensecrf is not installed: `pip install pydensecrf2` (needs g++), or set crf.backend to mean_field"
    )
