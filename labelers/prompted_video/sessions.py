"""A clip's session: what the model remembers of its objects, frame by frame, and no more than it reads again.

The library keeps every frame and every output of a clip; here a frame is dropped once it is done, and outputs once they
are older than what the model's memory reaches back to. The numbers are those of the library's own streaming.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maskmill.data_contracts import Uint8Array
from maskmill.labelers.promptable.prompts import Prompt
from maskmill.vision.pretrained import Precision, check_family, library_class, load_model, load_part

Size = tuple[int, int]  # height, width
CORNERS = (2, 3)  # what the models call the points that are a box's corners

FAMILIES = {  # model, session, processor of frames
    "sam2_video": ("Sam2VideoModel", "Sam2VideoInferenceSession", "Sam2ImageProcessor"),
    "edgetam_video": ("EdgeTamVideoModel", "EdgeTamVideoInferenceSession", "Sam2ImageProcessor"),
    "sam3_tracker_video": ("Sam3TrackerVideoModel", "Sam3TrackerVideoInferenceSession", "Sam3ImageProcessor"),
    "sam3_video": ("Sam3TrackerVideoModel", "Sam3TrackerVideoInferenceSession", "Sam3ImageProcessor"),
}


@dataclass(frozen=True, eq=False)
class VideoModel:
    """A loaded model; `reach` frames back its memory goes."""

    model: Any
    processor: Any
    session_class: Any
    reach: int

    def pixels(self, image: Uint8Array) -> Tensor:
        """The model's input (3, S, S) of a frame uint8 (H, W, 3)."""
        found = self.processor(images=np.array(image), return_tensors="pt", input_data_format="channels_last")
        pixels: Tensor = found["pixel_values"][0]
        return pixels

    def start(self, prompts: Sequence[Prompt], size: Size) -> "Session":
        """A session for the objects that are prompted in the first frame, which has this size."""
        device, kind = self.model.device, self.model.dtype
        places = dict.fromkeys(("inference_device", "inference_state_device", "video_storage_device"), device)
        session = self.session_class(video_height=size[0], video_width=size[1], dtype=kind, **places)
        side = self.processor.size
        factor = np.array([side["width"] / size[1], side["height"] / size[0]], np.float32)
        for number, prompt in enumerate(prompts):
            corners = np.array([] if prompt.box is None else prompt.box, np.float32).reshape(-1, 2)
            at = np.concatenate([corners, prompt.on, prompt.off]) * factor
            signs = [*CORNERS[: len(corners)], *[1] * len(prompt.on), *[0] * len(prompt.off)]
            given = {"point_coords": torch.from_numpy(at)[None, None], "point_labels": torch.tensor(signs)[None, None]}
            session.add_point_inputs(session.obj_id_to_idx(number), 0, given)
        session.obj_with_new_inputs = list(range(len(prompts)))
        return Session(self, session)


@dataclass(eq=False)
class Session:
    """One clip on its way."""

    owner: VideoModel
    state: Any  # the library's session
    number: int = field(default=0)  # of the next frame

    def step(self, pixels: Tensor) -> tuple[Tensor, list[float]]:
        """Logits float32 (O, h, w) of the objects in the next frame, and how likely each is seen there."""
        model = self.owner.model
        with torch.inference_mode():
            frame = pixels[None].to(model.device, model.dtype)
            found = model(inference_session=self.state, frame=frame, frame_idx=self.number)
        self._forget()
        self.number += 1
        scores: list[float] = found.object_score_logits.float().sigmoid().flatten().tolist()
        return found.pred_masks[:, 0].float(), scores

    def _forget(self) -> None:
        self.state.processed_frames.pop(self.number, None)
        for outputs in self.state.output_dict_per_obj.values():
            for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
                for one in outputs[kind].values():
                    one.pop("high_res_masks", None)  # read while the frame is encoded, and never again
            old = [n for n in outputs["non_cond_frame_outputs"] if n <= self.number - self.owner.reach]
            for n in old:
                del outputs["non_cond_frame_outputs"][n]
        for tracked in self.state.frames_tracked_per_obj.values():
            for n in [n for n in tracked if n <= self.number - self.owner.reach]:
                del tracked[n]


def restore(logits: Tensor, size: Size) -> Tensor:
    """Logits (h, w) at the frame's size, as the library enlarges them: float32 (H, W)."""
    return F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def load_video_model(folder: Path, device: object, precision: Precision) -> VideoModel:
    """The video model of a folder.

    Raises:
        ModelError: a model that follows nothing, or weights that do not fit.
    """
    model_name, session_name, processor = FAMILIES[check_family(folder, FAMILIES, "clips from a first frame")]
    model = load_model(model_name, folder, device, precision)
    reach = max(int(model.config.num_maskmem), int(model.config.max_object_pointers_in_encoder))
    return VideoModel(model, load_part(processor, folder), library_class(session_name), reach)
