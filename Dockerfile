# Training and inference in a container. Both builds hold the locked versions, checked by their hashes.
#
#     docker build --tag cifar10 .                          # for a GPU (docker run --gpus all), runs on a CPU too; 7 GB
#     docker build --tag cifar10 --build-arg TORCH=cpu .    # for machines without a GPU; under 2 GB
#     in_container() { docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models \
#         --volume cifar10-mlruns:/app/mlruns "$@"; }
#     in_container cifar10 train
#     in_container --volume "$PWD/photos:/photos:ro" cifar10 infer --test_dir /photos
#     in_container --volume "$PWD/photos:/photos:ro" --interactive --tty --entrypoint python cifar10 main.py
#     in_container --publish 127.0.0.1:5000:5000 --entrypoint mlflow cifar10 \
#         ui --host=0.0.0.0 --backend-store-uri=sqlite:///mlruns/mlflow.db     # the runs, at http://127.0.0.1:5000
#
# All that is written goes to the three volumes and to /tmp; `--read-only --tmpfs /tmp` is possible. The user has no
# right to install packages: for `batch`, make an image of your own, FROM cifar10, with the lines
#     USER 0
#     RUN pip install --no-cache-dir 'ray[client,data]>=2.60'
#     USER 1000
#
# PyTorch's CPU builds are in an index of their own. TORCH=cpu takes them from there by the hashes in
# requirements-torch-cpu.txt, which `python3 scripts/export_requirements --torch-cpu` makes once; TORCH_INDEX_URL names
# a mirror. What pip should know about the network (PIP_INDEX_URL, ...) may be given with --build-arg, too.
FROM python:3.11-slim

ARG TORCH=cuda
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib

RUN useradd --create-home --uid 1000 cifar10 \
    && python3 -m venv /opt/venv

WORKDIR /app

COPY requirements*.txt scripts/image_packages ./
RUN sh image_packages "$TORCH"

COPY --chown=1000:1000 commands.py main.py pyproject.toml ./
COPY --chown=1000:1000 conf conf
COPY --chown=1000:1000 cifar10 cifar10
# `import cifar10` works from any folder: site-packages names the one that the package is in.
RUN install --directory --owner=cifar10 data models mlruns \
    && python -m compileall -q commands.py cifar10 \
    && echo /app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cifar10.pth"

# What is measured (engine=auto) and downloaded (published weights) once is kept in a volume, not in the home folder.
ENV XDG_CACHE_HOME=/app/data/cache \
    CIFAR10_PROGRAM="docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models --volume cifar10-mlruns:/app/mlruns cifar10"

USER 1000
ENTRYPOINT ["python", "commands.py"]
CMD ["--help"]
