"""Pretrain ResNet-18 on age and fine-tune it on sex, on central axial slices, with PyTorch and Lightning alone.

python by_hand.py STORE SAMPLESHEET OUT

STORE: folder of preprocessed scans, shard-*.npy (n, x, y, z), and beside each shard-*.parquet with scan_id, status and
row. SAMPLESHEET: CSV with cohort, subject, age and sex. OUT: folder for checkpoints and scores.csv.
"""

import argparse
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

SEEDS = (0, 1, 2)
SPLIT_SEED = 0


def read_scans(store: Path, samplesheet: Path) -> pd.DataFrame:
    """One row a scan: its labels, and the file and row where its array is."""
    paths = sorted(store.glob("shard-*.npy"))
    shards = pd.concat([pd.read_parquet(path.with_suffix(".parquet")).assign(file=path) for path in paths])
    arrays = shards[shards["status"] == "ok"].copy()
    arrays[["cohort", "subject"]] = arrays["scan_id"].str.split("/", expand=True)[[0, 1]]
    return arrays.merge(pd.read_csv(samplesheet), on=["cohort", "subject"], validate="many_to_one")


class Slices(Dataset):
    """The central axial slice (1, x, y) of each scan, in memory, with its label."""

    def __init__(self, scans: pd.DataFrame, labels: torch.Tensor):
        volumes = (np.load(file, mmap_mode="r")[row] for file, row in zip(scans["file"], scans["row"]))
        slices = np.stack([volume[:, :, (volume.shape[2] - 1) // 2] for volume in volumes])
        self.images, self.labels = torch.from_numpy(slices.astype(np.float32)).unsqueeze(1), labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index], self.labels[index]


class Scans(pl.LightningDataModule):
    """A cohort divided by persons into training, validation and test, with its labels made ready for a loss."""

    def __init__(self, scans: pd.DataFrame, target: str, validation: float, test: float, batch_size: int = 16):
        super().__init__()
        self.batch_size, self.classes = batch_size, None
        parts = self._divide(scans, target, validation, test)
        if target == "sex":
            self.classes = sorted(scans[target].unique())
            labels = [torch.tensor([self.classes.index(value) for value in part[target]]) for part in parts]
        else:
            self.mean, self.sd = parts[0][target].mean(), parts[0][target].std()
            values = [torch.tensor(part[target].to_numpy(), dtype=torch.float32) for part in parts]
            labels = [(value - self.mean) / self.sd for value in values]
        self.train, self.validation, self.test = (Slices(part, label) for part, label in zip(parts, labels))

    @staticmethod
    def _divide(scans: pd.DataFrame, target: str, validation: float, test: float) -> list[pd.DataFrame]:
        people = scans.drop_duplicates(["cohort", "subject"])
        strata = people[target] if target == "sex" else None
        rest, tested = train_test_split(people, test_size=test, stratify=strata, random_state=SPLIT_SEED)
        strata = rest[target] if target == "sex" else None
        share = validation / (1 - test)
        trained, validated = train_test_split(rest, test_size=share, stratify=strata, random_state=SPLIT_SEED)
        return [scans[scans["subject"].isin(part["subject"])] for part in (trained, validated, tested)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, self.batch_size)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.test, self.batch_size)


class Model(pl.LightningModule):
    """ResNet-18 for images of one channel, with one output for a number or one a class."""

    def __init__(self, outputs: int, lr: float = 1e-3):
        super().__init__()
        self.lr, self.loss = lr, cross_entropy if outputs > 1 else self._squared_error
        self.network = resnet18(num_classes=outputs)
        self.network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)

    @staticmethod
    def _squared_error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return mse_loss(outputs[:, 0], labels)

    def start_from(self, other: "Model") -> None:
        """Take over all weights but those of the last layer."""
        encoder = {name: value for name, value in other.network.state_dict().items() if not name.startswith("fc.")}
        missing = self.network.load_state_dict(encoder, strict=False).missing_keys
        assert set(missing) == {"fc.weight", "fc.bias"}, missing

    def training_step(self, batch, index):
        images, labels = batch
        return self.loss(self.network(images), labels)

    def validation_step(self, batch, index):
        images, labels = batch
        self.log("validation_loss", self.loss(self.network(images), labels), batch_size=len(images))

    def predict_step(self, batch, index):
        return self.network(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def train(model: Model, scans: Scans, epochs: int, folder: Path) -> pl.Trainer:
    """Train, and leave the model with the weights of its best epoch by the loss on the validation part."""
    best = ModelCheckpoint(folder, filename="best", monitor="validation_loss", enable_version_counter=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[best], deterministic=True, **quiet)
    trainer.fit(model, scans)
    model.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    return trainer


def score(trainer: pl.Trainer, model: Model, scans: Scans) -> float:
    """Balanced accuracy on the test part, or the mean absolute error in the label's unit."""
    outputs = torch.cat(trainer.predict(model, scans.predict_dataloader()))
    if scans.classes:
        return balanced_accuracy_score(scans.test.labels, outputs.argmax(1))
    return scans.sd * mean_absolute_error(scans.test.labels, outputs[:, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("store", "samplesheet", "out"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    scans, rows = read_scans(given.store, given.samplesheet), []
    lifespan = Scans(scans[scans["cohort"] == "lifespan"], "age", validation=0.1, test=0.1)
    clinic = Scans(scans[scans["cohort"] == "clinic"], "sex", validation=0.2, test=0.4)
    for seed in SEEDS:
        pl.seed_everything(seed)
        pretrained = Model(outputs=1)
        trainer = train(pretrained, lifespan, epochs=10, folder=given.out / f"pretrain-{seed}")
        error = score(trainer, pretrained, lifespan)
        model = Model(outputs=len(clinic.classes))
        model.start_from(pretrained)
        trainer = train(model, clinic, epochs=10, folder=given.out / f"finetune-{seed}")
        rows.append({"seed": seed, "age_mae": error, "sex_balanced_accuracy": score(trainer, model, clinic)})
    table = pd.DataFrame(rows).set_index("seed")
    table.to_csv(given.out / "scores.csv")
    print(table.agg(["mean", "std"]))


if __name__ == "__main__":
    main()
