"""Lightning: a static detector, a loader with one planned shape per batch, and a guard that stops when a step compiles.

Run: python examples/lightning_recipe.py [EPOCHS]
"""

import sys

import lightning
import torch
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone

import fixshape
from fixshape.detection import DrawnShapes, host_transform


class Shapes(DrawnShapes):
    """Your data set: pairs of an image and a target, of any size."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image, {key: target[key] for key in ("boxes", "labels", "image_id")}


class Batches(lightning.LightningDataModule):
    """The loader is made where Lightning asks for it: only then the ranks are known. Each gets its part, of the same bucket."""

    def __init__(self, data, transform):
        super().__init__()
        self.data, self.transform = data, transform

    def train_dataloader(self):
        sizes = self.transform.sizes(self.data.sizes())  # what the model's own resize makes of them
        plan = fixshape.plan_buckets(sizes, 2, multiple_of=32)
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return fixshape.make_loader(self.data, plan, 2, sizes=sizes, transform=self.transform, **ranks)


class Detector(lightning.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = fixshape.to_static(model)

    def training_step(self, batch, batch_idx):
        return sum(self.model(*batch).values())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.005, momentum=0.9)


class Guarded(lightning.Callback):
    """Each training batch is one step of ``fixshape.watch``, forward to optimiser; validation and checkpoints are in none.

    Lightning runs the loop, so that ``watch`` is given one batch at a time. It knows from one to the next what has compiled.
    """

    def __init__(self, guard):
        self.guard, self.current, self.losses = guard, [], []

    def on_fit_start(self, trainer, module):
        self.watched = fixshape.watch(self.current, backend=module.device.type, guard=self.guard, progress=False)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.current[:] = [batch]
        self.step = iter(self.watched)
        next(self.step)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        next(self.step, None)  # the step ends here, and the guard judges it
        self.losses.append(outputs["loss"].detach())


def main(epochs: int = 2) -> None:
    lightning.seed_everything(0, verbose=False)
    backbone = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6)
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3)
    model = FCOS(backbone, Shapes.num_classes, min_size=96, max_size=192, anchor_generator=anchors)
    batches = Batches(Shapes(16, max_boxes=4), host_transform(model))
    guarded = Guarded(fixshape.CompileGuard("error"))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        gradient_clip_val=1.0,
        callbacks=[guarded],
        use_distributed_sampler=False,  # the loader has its own
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Detector(model), batches)
    print(f"loss {guarded.losses[0]:.3f} -> {guarded.losses[-1]:.3f}")
    for shapes in sorted({record.shapes for record in guarded.watched.records}):
        compiles = [record.compiles for record in guarded.watched.records if record.shapes == shapes]
        print(f"compiles per step, {shapes}: {compiles}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
