"""A Lightning callback that tells Optuna the score of each epoch, and ends training if the trial is not worth it."""

import pytorch_lightning as pl
from optuna.trial import Trial

from cifar10.errors import UserError
from cifar10.model import Classifier
from cifar10.studies.study import PRUNED


class ReportEpochs(pl.Callback):
    """Reports after each validation; Optuna's pruner decides.

    A pruned training ends after the epoch, saved and complete like one that stopped by itself.

    Args:
        trial: Claimed by this process.
        metric: Name of the score: val/accuracy, val/loss or val/NAME.
    """

    def __init__(self, trial: Trial, metric: str) -> None:
        self._trial = trial
        self._metric = metric
        self.is_pruned = bool(trial.user_attrs.get(PRUNED, False))  # decided before its process was killed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epochs before a resume, which this attempt does not know."""
        assert isinstance(pl_module, Classifier)
        for scores in pl_module.history:
            self._trial.report(scores[self._metric], int(scores["epoch"]) + 1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch, as Lightning's own early stopping does here."""
        assert isinstance(pl_module, Classifier)
        if self._metric not in pl_module.validation_scores:
            raise UserError(f"{self._metric} was not measured; is data_loading.validation_size 0?")
        epoch = trainer.current_epoch + 1
        self._trial.report(pl_module.validation_scores[self._metric], epoch)
        is_last = trainer.max_epochs is not None and epoch >= trainer.max_epochs
        if self.is_pruned or (not is_last and self._trial.should_prune()):
            self._trial.set_user_attr(PRUNED, True)
            self.is_pruned = trainer.should_stop = True
