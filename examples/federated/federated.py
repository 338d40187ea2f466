"""Federated averaging over simulated sites by Flower: weights travel, scans do not. See README."""

import sys
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from lightning import Trainer, seed_everything
from sklearn.metrics import roc_auc_score

from datamodules.scans import ScanDataModule
from datamodules.splits import Splits
from lightning_modules.classifier import Classifier

SITES, ROUNDS, EPOCHS = 2, 10, 4
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
QUIET |= {"enable_checkpointing": False, "limit_val_batches": 0}
table, labels_per = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "patient"


def open_sites() -> list[ScanDataModule]:
    """Make each site a fold of its own, the last of all; they test the patients of fold 0."""
    whole = ScanDataModule(table, labels_per=labels_per).splits_table.query("repeat + fold == 0")
    trained = whole["part"] == "train"
    parts = [whole[~trained | (trained.cumsum() % SITES == n)].assign(fold=n) for n in range(SITES)]
    pd.concat([*parts, whole.assign(fold=SITES)]).to_csv("sites.csv", index=False)
    data = ScanDataModule(table, labels_per=labels_per, splits=Splits(path="sites.csv"))
    return [data.with_fold(0, site) for site in range(SITES + 1)]


def train(data: ScanDataModule, weights: dict, epochs: int) -> Classifier:
    """Train from these weights on a site's scans."""
    model = Classifier(**data.facts())
    model.load_state_dict(weights)
    Trainer(max_epochs=epochs, **QUIET).fit(model, data)
    return model


def auroc(data: ScanDataModule, model: Classifier) -> float:
    """Measure on the test patients, with the site's own scale of intensities."""
    data.setup("fit")
    found = Trainer(**QUIET).predict(model, datamodule=data)
    row, prob = (torch.cat([batch[name] for batch in found]) for name in ("row", "prob"))
    return float(roc_auc_score(data.labels[row], prob[:, 1] / prob.sum(1)))


class InProcess(Grid):
    """Hands messages to the sites in this process; a deployment has Flower's own in its place."""

    run = set_run = push_messages = pull_messages = create_message = None

    def get_node_ids(self) -> Iterable[int]:  # noqa: D102
        return range(SITES)

    def send_and_receive(self, messages: Iterable[Message], **_: object) -> list[Message]:  # noqa: D102
        places = [(each, each.metadata.dst_node_id) for each in messages]
        return [site_app(each, Context(0, n, {"n": n}, RecordDict(), {})) for each, n in places]


site_app = ClientApp()


@site_app.train()
def train_site(message: Message, context: Context) -> Message:
    """Answer with the weights that a site has trained, and the number of its scans."""
    data = sites[int(context.node_config["n"])]
    model = train(data, message.content["arrays"].to_torch_state_dict(), EPOCHS)
    number = MetricRecord({"num-examples": len(data.rows["train"])})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": number})
    return Message(content, reply_to=message)


seed_everything(0, verbose=False)
sites = open_sites()
start = ArrayRecord(Classifier(**sites[0].facts()).state_dict())
for name, site in zip([*"AB", "A and B, scans together"], sites, strict=True):
    alone = train(site, start.to_torch_state_dict(), ROUNDS * EPOCHS)
    print(f"{name}: AUROC {auroc(site, alone):.3f}")
TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 0  # else Flower's runtime does
found = FedAvg(fraction_evaluate=0.0).start(InProcess(), start, ROUNDS).arrays
model = Classifier(**sites[0].facts())
model.load_state_dict(found.to_torch_state_dict())
print(f"federated: AUROC {np.mean([auroc(site, model) for site in sites[:SITES]]):.3f}")
