"""Train the starter generators, turn by turn.

    python -m maskmill.starter.generator_training autoencoder --work DIR --minutes 11
    # as often as there is time for
    python -m maskmill.starter.generator_training diffusion --work DIR --minutes 11
    # about half of the whole time: the learning rate falls to 0
    python -m maskmill.starter.generator_training diffusion --work DIR --minutes 30 --last
    python -m maskmill.starter.generator_training export --work DIR
    # the one with joint attention, which shares scenes and the autoencoder that ships
    python -m maskmill.starter.generator_training flow --work DIR --minutes 80 --last
    python -m maskmill.starter.generator_training export-flow --work DIR

Every turn resumes from DIR. SIGTERM ends a turn early and keeps its steps; a turn that is killed loses its own only.
"""

import argparse
from pathlib import Path

import torch

from maskmill.starter.generator_training import autoencoder, diffusion, flow
from maskmill.starter.generator_training.export import export, export_flow
from maskmill.starter.generator_training.loop import Turn, stop_on_request
from maskmill.starter.generator_training.world import TYPICAL, VARIED, load_world

SCENES = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the starter generators on the drawn world.")
    parser.add_argument("part", choices=("autoencoder", "diffusion", "flow", "export", "export-flow"))
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes and checkpoints")
    parser.add_argument("--minutes", type=float, default=11.0)
    parser.add_argument("--last", action="store_true", help="cool the learning rate down to 0 in this turn")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--varied",
        action="store_true",
        help="several drawings of a class, in poses, that captions name",
    )
    parser.add_argument("--start", type=Path, help="flow: a folder that export-flow wrote, to begin from its weights")
    parser.add_argument("--out", type=Path, help="where export writes its folder (default: where it ships)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stop_on_request()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    folder, other = ("varied", "scenes") if arguments.varied else ("scenes", "varied")
    if (work / other).is_dir():  # what was made of them, latents and weights, has one name
        parser.error(f"{work}: expected {folder} or nothing, found {other}; give another --work")
    scenes = (work / folder, arguments.scenes, VARIED if arguments.varied else TYPICAL)
    if arguments.part == "autoencoder":
        world = load_world(scenes[0], min(arguments.scenes, 6000), scenes[2])
        turn = Turn.begin(arguments.minutes, arguments.last)
        autoencoder.train(world.images, work / "autoencoder.pt", turn)
        model = autoencoder.load_autoencoder(work / "autoencoder.pt")
        print(f"psnr {autoencoder.psnr(model, world.images[:64]):.2f} dB")
    elif arguments.part == "diffusion":
        diffusion.train(load_world(*scenes), work, arguments.minutes, arguments.last)
    elif arguments.part == "flow":
        flow.train(load_world(*scenes), work, arguments.minutes, arguments.last, arguments.start)
    else:
        world = load_world(*scenes)
        write, usual = (export, "generator") if arguments.part == "export" else (export_flow, "generator_mmdit")
        out: Path = arguments.out or Path("starter") / usual
        print(f"{out}: {write(world, work, out) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
