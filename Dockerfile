# Training and inference in a container. Both builds hold the locked versions, checked by their hashes.
#
#     docker build --tag cifar10 .                          # for a GPU (docker run --gpus all), runs on a CPU too; 7 GB
#     docker build --tag cifar10 --build-arg TORCH=cpu .    # for machines without a GPU; under 2 GB
#     docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models cifar10 train
#     docker run --rm --volume "$PWD/photos:/photos:ro" --volume cifar10-models:/app/models cifar10 infer --test_dir /photos
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
    MPLCONFIGDIR=/tmp/matplotlib \
    CIFAR10_PROGRAM="docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models cifar10"

RUN useradd --create-home --uid 1000 cifar10 \
    && python3 -m venv /opt/venv

WORKDIR /app

COPY requirements*.txt scripts/image_packages ./
RUN sh image_packages "$TORCH"

COPY --chown=1000:1000 commands.py pyproject.toml ./
COPY --chown=1000:1000 conf conf
COPY --chown=1000:1000 cifar10 cifar10
# `import cifar10` works from any folder: site-packages names the one that the package is in.
RUN install --directory --owner=cifar10 data models mlruns \
    && echo /app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cifar10.pth"

USER 1000
ENTRYPOINT ["python", "commands.py"]
CMD ["--help"]
