# Training and inference in a container: on the CPU, or on a GPU with `docker run --gpus all`.
#
#     docker build --tag cifar10 .
#     docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models cifar10 train
#     docker run --rm --volume "$PWD/photos:/photos:ro" --volume cifar10-models:/app/models cifar10 infer --test_dir /photos
#
# What pip should know about the network (PIP_INDEX_URL, ...) may be given with --build-arg.
FROM python:3.11-slim

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib

RUN useradd --create-home --uid 1000 cifar10 \
    && python3 -m venv /opt/venv

WORKDIR /app

COPY requirements.txt ./
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.txt

COPY --chown=1000:1000 commands.py pyproject.toml ./
COPY --chown=1000:1000 conf conf
COPY --chown=1000:1000 cifar10 cifar10
RUN install --directory --owner=cifar10 data models mlruns

USER 1000
ENTRYPOINT ["python", "commands.py"]
CMD ["--help"]
