"""What a family of text-to-image models must be able to do; one module beside this one a family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from maskmill.generators.attention_masks import ClassMaps
from maskmill.generators.config import GeneratorConfig, Reading
from maskmill.generators.requests import Request
from maskmill.generators.spans import ClassPrompt

Tensors = dict[str, Any]  # tensors by the name of the pipeline's argument


class Watched(Protocol):
    """A batch that is being drawn, and what its attention shows."""

    active: bool  # maps are read only while this is set

    def maps(self) -> list[ClassMaps]:
        """What was read of each image, once the pipeline has run."""


@dataclass(frozen=True)
class Control:
    """How ControlNets of a family are loaded and called: classes in diffusers, the argument that takes the map, and
    the value of white and black in it.
    """

    model: str
    pipeline: str
    argument: str = "image"
    low: float = 0.0
    negative: bool = True  # whether the pipeline takes a negative prompt


@dataclass(frozen=True)
class Encoded:
    """A batch's texts: what the pipeline is called with, and what watching needs of each image."""

    arguments: Tensors
    classes: Any


class Family(ABC):
    """A loaded pipeline as the project uses it: words in, maps out. One object a pipeline and config.

    Raises:
        ValueError: a size, reading or layer that this model does not have; says what there is.
    """

    name: ClassVar[str]  # as provenance calls it
    pipeline_class: ClassVar[str]  # in diffusers
    control: ClassVar[Control | None]  # None: its ControlNets, if any, are not used
    readings: ClassVar[tuple[Reading, ...]]  # the first is the default
    text_encoders: ClassVar[tuple[str, ...]]
    denoiser: ClassVar[str] = "transformer"
    guidance: ClassVar[str] = "guidance_scale"  # the pipeline's argument that scales guidance
    vae_overflows: ClassVar[bool] = False  # its decoder gives NaN in float16

    def __init__(self, pipeline: Any, config: GeneratorConfig, device: str) -> None:
        self.pipeline, self.config, self.device = pipeline, config, device
        reading = config.mask.reading or self.readings[0]
        if reading not in self.readings:
            raise ValueError(f"mask.reading {reading!r}: {self.name} can be read by {', '.join(self.readings)}")
        self.reading: Reading = reading
        native, multiple = self.native_size(), self.multiple()
        self.size = (config.height or native[0], config.width or native[1])
        if self.size[0] % multiple or self.size[1] % multiple:
            raise ValueError(f"height and width {self.size}: must be multiples of {multiple} for {config.model}")
        self.choose()

    @classmethod
    def extra_parts(cls, folder: Path) -> Mapping[str, Any]:
        """Further arguments of `from_pretrained`."""
        return {}

    @property
    def guided(self) -> bool:
        """Whether a call's batch holds an unconditional half in front of the conditional one."""
        return self.config.guidance > 1

    @abstractmethod
    def native_size(self) -> tuple[int, int]:
        """(H, W) in pixels that the model was made for."""

    @abstractmethod
    def multiple(self) -> int:
        """What height and width must be multiples of, in pixels."""

    @abstractmethod
    def choose(self) -> None:
        """Choose the layers that are read."""

    @abstractmethod
    def locate(self, names: Sequence[str], class_ids: Sequence[int]) -> ClassPrompt:
        """Find the class words' tokens.

        Raises:
            ContractError: the class prompt is too long, repeats a class, or does not read as its names.
        """

    @abstractmethod
    def fit(self, prompt: str, class_prompt: str) -> tuple[str, bool]:
        """Shorten a prompt so that its class words are seen; whether words were cut."""

    @abstractmethod
    def encode(self, requests: Sequence[Request], prompts: Sequence[ClassPrompt], texts: Sequence[str]) -> Encoded:
        """Encode a batch: `texts` are drawn, `prompts` are read against."""

    @abstractmethod
    def watch(self, encoded: Encoded) -> AbstractContextManager[Watched]:
        """Watch the model while the batch is drawn; it is as before afterwards."""

    @abstractmethod
    def account(self) -> dict[str, Any]:
        """What provenance says of the reading: layers, grids, blocks."""

    def after_step(self, done: Callable[[int], None]) -> dict[str, Any]:
        """Arguments of the pipeline with which it calls `done` with the number of each step that it has taken."""

        def call(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            done(step)
            return tensors

        return {"callback_on_step_end": call}

    def unwatched(self) -> list[Any]:
        """Modules of the denoiser that may be compiled, since nothing in them is watched."""
        return []
