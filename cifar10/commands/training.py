"""Commands that train: one network, a comparison of small ones, or a search for settings."""

from pathlib import Path

from cifar10 import STARTED_AT
from cifar10.cli.checks import note_place, require_checkpoint, require_resumable
from cifar10.config.changeable import placement_settings, with_experiment
from cifar10.errors import UsageError
from cifar10.system.signals import if_stopped, raise_again


def train(*overrides: str, resume: str | None = None) -> None:
    """Train a network, test it once, and save it with its configuration, scores and provenance.

    KEY=VALUE         change the configuration: choose a file of conf/ by its group, or set a value by its dotted key.
                      To list all of them: python commands.py config
    --resume=NAME     resume an interrupted run, with the result of an uninterrupted one: its name in models/, the path
                      of a checkpoint, or last. Settings come from the checkpoint. With auto and run_name=NAME, resume
                      the run of that name if there is one, else start it.

    python commands.py train
    python commands.py train model=resnet18 training=long optimizer=sgd
    python commands.py train data_loading=shapes training.epochs=2
    python commands.py train experiment=probe data_loading.root=photos
    """
    note_place()
    if resume is not None:
        require_resumable(resume, overrides)
    from cifar10.config.compose import load_config
    from cifar10.runs.folder import refuse_taken
    from cifar10.runs.tracking import require_store
    from cifar10.system.processes import find_processes

    changes = overrides if resume not in (None, "auto") else ()
    config = load_config(placement_settings(changes) if changes else overrides)  # before slow imports
    if config.pooling is not None:
        raise UsageError("experiment=pooling is for compare_pooling; to train its network alone: model=pooling_cnn")
    if resume is None:
        refuse_taken(Path(config.models_dir), config.run_name)
        if find_processes(config.training).is_first:
            require_store(config.tracking)
    if config.weights is not None:
        require_checkpoint(config.weights, config.models_dir)
    with if_stopped("before training began; nothing was trained"):
        from cifar10.runs.stopwatch import Stopwatch

        since_start = Stopwatch(wall_started=STARTED_AT, cpu_started=0.0)
        if config.probe is not None:
            from cifar10.probe import probe

            probe(config, since_start)
            return
        from cifar10.train import train

        raise_again()
        train(config, resume=resume, changes=changes, stopwatch=since_start)


def compare_pooling(*overrides: str, resume: bool = False) -> int:
    """Compare ways to shrink feature maps: one small network each, trained with several seeds, everything else equal.

    KEY=VALUE   change the comparison, as for train: data_loading.classes=[cattle,camel], pooling.seeds=[0,1,2],
                training.epochs=500, training.early_stopping=30, run_name=NAME
    --resume    go on with an interrupted comparison, and refuse to begin one; without it, the same line goes on too

    Everything is in models/NAME/laboratory/: curves.png while it trains, report.html and results.json in the end, and
    all runs. The best one becomes the run models/NAME. The exit code is 3 if some runs failed.

    python commands.py compare_pooling
    python commands.py compare_pooling data_loading=shapes training.epochs=5 run_name=shapes
    """
    note_place()
    from cifar10.config.compose import load_config
    from cifar10.laboratory.workers import prepare_workers

    config = load_config(with_experiment("pooling", overrides))
    with if_stopped("before training began; nothing was trained"):
        prepare_workers()
        from cifar10.compare_pooling import compare_pooling

        return 3 if compare_pooling(config, resume, overrides=overrides).failures else 0


def sweep(
    *overrides: str,
    trials: int | None = None,
    study: str | None = None,
    storage: str | None = None,
    resume: bool = False,
    test: bool = False,
) -> int:
    """Search for better settings: many trainings, compared on validation images.

    KEY=VALUE       what all trainings have in common, as for train
    KEY=A,B,C       a list of values; several of them make a grid, and each combination is tried once
    sweep=NAME      without lists: the search space, a file of conf/sweep/, or FILE.yaml  (default)
    --trials=N      trainings in all  (as the search space says)
    --study=NAME    the folder in models/, for trials, table and report  (sweep-NAME, or sweep-grid)
    --storage=URL   the study's database, for several machines: postgresql://USER@HOST/DATABASE  (a file in the folder)
    --resume        go on with a study that was stopped or killed, join another process, or add trials
    --test          in the end, test the best training on the test images

    Each training is a run of its own. A table of the best is printed; report.html shows what matters. Optuna draws the
    values and stops trainings early that are worse than the others. The exit code is 3 if some failed.

    python commands.py sweep
    python commands.py sweep experiment=teaching optimizer.lr=0.003,0.01,0.03 model=simple_cnn,speed
    python commands.py sweep sweep=mine.yaml --trials=100 --study=night --resume
    """
    note_place()
    from cifar10.config.sweep_plan import plan_sweep

    plan = plan_sweep(overrides, study, trials)
    folder = Path(plan.config.models_dir) / plan.study
    url = storage or f"sqlite:///{folder / 'study.db'}"
    if plan.config.weights is not None:
        require_checkpoint(plan.config.weights, plan.config.models_dir)
    with if_stopped("before the first trial; nothing was trained"):
        from cifar10.studies.opening import open_storage

        database = open_storage(plan.study, folder, url, resume)
        from cifar10.sweep import SweepRequest, sweep

        results = sweep(SweepRequest(plan, database, url, folder, trials, resume, test))
        return 3 if results.of_state("failed", "killed") else 0
