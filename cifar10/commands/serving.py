"""Commands that put a network in front of other people and programs."""

from pathlib import Path
from typing import Literal

from cifar10.cli.checks import (
    note_place,
    pin_checkpoint,
    refuse_file,
    require_checkpoint,
    require_device,
)
from cifar10.errors import UsageError
from cifar10.inference.engines import require_engine
from cifar10.serving.model_request import ModelRequest
from cifar10.suggest import did_you_mean_path


def serve(
    *overrides: str,
    checkpoint_name: str = "best",
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    engine: str = "onnx",
    tta: Literal["none", "mirror", "mirror_translate", "mirror_translate_selective"] | None = None,
    device: str = "auto",
) -> None:
    """Answer HTTP requests with the classes of images, until Ctrl-C or SIGTERM.

    --checkpoint_name=NAME   a path, a name in models/, best, last, an MLflow run id or models:/NAME@ALIAS; when the
                             alias moves, the new version takes over without a lost request  (best)
    --host=ADDRESS           where to listen; 0.0.0.0 lets other computers in  (127.0.0.1)
    --port=N                 (8000)
    --workers=N              processes that answer; each holds the model  (1)
    --engine=NAME            what computes: a file of conf/engine/; a missing ONNX file is exported first  (onnx)
    --tta=VIEWS              test-time augmentation, as for infer  (the checkpoint's)
    --device=DEVICE          auto, cpu, cuda or cuda:N; ONNX files are computed on the CPU  (auto)
    serving.KEY=VALUE        limits, such as serving.max_body_mb=20: see conf/serving/default.yaml

    CIFAR10_API_KEY=KEY in the environment demands a key of each client. Routes are described at /docs.

    python commands.py serve --checkpoint_name=first
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict
    """
    note_place()
    from cifar10.config.serving_settings import read_serving_settings

    settings = read_serving_settings(overrides)
    if not 1 <= port <= 65_535:
        raise UsageError(f"--port={port} is not possible; it must be from 1 to 65535")
    if not 1 <= workers <= 1024:
        raise UsageError(f"--workers={workers} is not possible; it must be from 1 to 1024")
    require_engine(engine)
    require_device(device)
    file = require_checkpoint(checkpoint_name)
    checkpoint_name = str(file) if file is not None else pin_checkpoint(checkpoint_name)
    from cifar10.serve import ServeRequest, serve

    model = ModelRequest(checkpoint_name, engine, device, tta)
    serve(ServeRequest(model, settings, host, port, workers))


def app(
    *, checkpoint_name: str | None = None, host: str = "127.0.0.1", port: int = 8501, models_dir: str = "models"
) -> int:
    """Serve the web page: classify pictures, and look at models, runs and data.

    --checkpoint_name=NAME   the model that is chosen at first: a path, a name in models/, an MLflow run id or
                             models:/NAME@ALIAS  (the newest run)
    --host=ADDRESS           where to listen; 0.0.0.0 lets other computers in, without a password  (127.0.0.1)
    --port=N                 (8501)
    --models_dir=DIR         folder of the run folders  (models)

    Then open the address that is printed. Ctrl-C ends it.

    python commands.py app
    python commands.py app --checkpoint_name=first --port=8600
    """
    note_place()
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port={port} is not possible; it must be from 0, any that is free, to 65535")
    if checkpoint_name is not None:
        require_checkpoint(checkpoint_name, models_dir)
    from cifar10.app import app
    from cifar10.serving.web.settings import WebSettings

    return app(WebSettings(Path(models_dir), checkpoint_name), host, port)


def feedback(
    *, output: str | None = None, withdraw: str | None = None, details: bool = False, store: str | None = None
) -> None:
    """List the labels that people have corrected on the web page, and export the images to train on.

    --output=DIR             write the images into class folders, DIR/CLASS/SHA256.png; DIR may be a folder that data
                             --export_images has written, such as data/train. Repeating it adds what is new.
    --details                a line for each correction, instead of one for each class
    --withdraw=SHA256        a correction that is not to be used; the beginning of the SHA-256 is enough
    --store=FILE             the file of the corrections  (data/serving/corrections.db)

    python commands.py feedback
    python commands.py feedback --output=data/train
    """
    note_place()
    if output is not None:
        refuse_file(output)
    if store is not None and not Path(store).is_file():
        raise UsageError(f"--store: there is no file {store}{did_you_mean_path(store)}")
    from cifar10.feedback import feedback
    from cifar10.serving.corrections import DEFAULT_PATH

    feedback(Path(store) if store else DEFAULT_PATH, Path(output) if output else None, withdraw, details)
