"""Train the starter promptable model, turn by turn. See the package's docstring for the commands."""

import argparse
from pathlib import Path

import torch

from maskmill.starter.generator_training.loop import stop_on_request
from maskmill.starter.promptable_training.model import SIDE
from maskmill.starter.promptable_training.pictures import load_pictures
from maskmill.starter.promptable_training.train import export, train


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the starter promptable model on composed scenes.")
    parser.add_argument("part", choices=("train", "export"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--pictures", type=Path, help="folder of the unpacked packages")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--last", action="store_true", help="cool the learning rate down to 0 in this turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=SIDE, help="of the exported model's input")
    parser.add_argument("--out", type=Path, default=Path("starter/promptable"), help="where export writes its folder")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.part == "export":
        print(f"{arguments.out}: {export(work, arguments.out, arguments.side) / 1e6:.1f} MB")
        return
    if arguments.pictures is None:
        parser.error("train needs --pictures")
    stop_on_request()
    train(load_pictures(arguments.pictures), work, arguments.minutes, last=arguments.last)


if __name__ == "__main__":
    main()
