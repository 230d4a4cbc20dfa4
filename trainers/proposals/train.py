"""Training of the proposal segmenter, top to bottom: settings, network, pairs, loop, artifact."""

import torch
from pydantic import Field
from torch import Tensor, nn

from maskmill.trainers.engine import Artifact, Job, Loop, TrainerConfig, make_optimizer, param_groups, save_artifact
from maskmill.trainers.proposals.losses import descriptor_loss, proposal_losses
from maskmill.trainers.proposals.views import CropConfig, PairSource
from maskmill.vision.instances import DetectConfig, ProposalConfig, ProposalNet, ProposalSegmenter
from maskmill.vision.segmenters import encoder_normalisation, weights_stamp

MASKS = False  # it finds instances
VERSION = 1


class Config(TrainerConfig):
    """Settings of `proposals`. `batch` counts crops, two a pair."""

    batch: int = Field(default=8, ge=2, multiple_of=2, description="crops a step, two a pair")
    lr: float = Field(default=2e-3, gt=0, description="highest learning rate, reached after warm-up")
    grad_clip: float | None = Field(
        default=5.0, gt=0, description="largest L2 norm of all gradients together; null = not clipped"
    )
    network: ProposalConfig = Field(default=ProposalConfig(), description="which network")
    crops: CropConfig = Field(default=CropConfig(), description="how crops are drawn")
    detect: DetectConfig = Field(default=DetectConfig(), description="how candidates come out")
    encoder_lr_factor: float = Field(default=0.1, ge=0, description="learning rate of the encoder as a share of `lr`")
    frozen_stages: int = Field(default=3, ge=0, description="first stages of the encoder that keep their weights")
    box_weight: float = Field(default=0.5, ge=0, description="weight of the boxes' loss beside the masks'")
    score_weight: float = Field(default=1.0, ge=0, description="weight of the scores' loss")
    descriptor_weight: float = Field(default=0.2, ge=0, description="weight of the descriptors' loss")


def stamps(config: Config) -> tuple[str, ...]:
    """The encoder's first weights."""
    return (weights_stamp(config.network.encoder, config.network.weights),)


def train(config: Config, job: Job) -> str:
    """Train on every sample that has a mask; each id in a mask is one object. Returns the artifact's folder."""
    mean, std = encoder_normalisation(config.network.encoder)
    torch.manual_seed(config.seed)
    net = ProposalNet(config.network)
    freeze(net.encoder, config.frozen_stages)
    rest = nn.ModuleList(part for name, part in net.named_children() if name != "encoder")
    optimizer = make_optimizer(config, [*param_groups(net.encoder, config.encoder_lr_factor), *param_groups(rest)])
    source = PairSource(
        job.data.with_masks(), config.crops, mean, std, config.batch // 2, config.seed, job.space.background_id
    )
    loop = Loop(config, job, source, modules={"net": net}, optimizers={"main": optimizer})
    net.train()
    net.encoder.eval()  # norms keep ImageNet's statistics: batches are small
    for _, batch in loop:
        with loop.autocast():
            found = net(batch["image"])
        losses = proposal_losses(found, batch)
        losses["descriptor"] = descriptor_loss(found, batch)
        total = weighted(losses, config)
        loop.update(total)
        loop.log(loss=total, **losses)
    network = config.network.model_copy(update={"weights": "random"})
    return save_artifact(
        job,
        config,
        modules={"net": net},
        model={"network": network.model_dump(mode="json"), "detect": config.detect.model_dump(mode="json")},
        metrics=loop.metrics,
        curves=loop.curves(),
        mean=mean,
        std=std,
    )


def weighted(losses: dict[str, Tensor], config: Config) -> Tensor:
    """The sum that is learnt from: masks count 1."""
    return (
        losses["mask"]
        + config.box_weight * losses["box"]
        + config.score_weight * losses["score"]
        + config.descriptor_weight * losses["descriptor"]
    )


def freeze(encoder: nn.Module, stages: int) -> None:
    """Keep the stem and the first `stages` stages as they are (timm's names); nothing where the encoder has others."""
    for name, parameter in encoder.named_parameters():
        head, _, rest = name.partition(".")
        first = rest.partition(".")[0]
        frozen = head.startswith(("conv_stem", "bn1")) or (head == "blocks" and first.isdigit() and int(first) < stages)
        if stages and frozen:
            parameter.requires_grad_(False)


def load(artifact: Artifact, device: torch.device) -> ProposalSegmenter:
    """The trained segmenter: `detect` and `embed`."""
    info = artifact.info
    net = ProposalNet(ProposalConfig.model_validate(info.model["network"]))
    artifact.load(net=net)
    detect = DetectConfig.model_validate(info.model["detect"])
    return ProposalSegmenter(net, detect, info.mean, info.std, info.fingerprint, device)
