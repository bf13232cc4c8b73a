# Container images. All hold the locked versions, checked by their hashes, and run without root's rights.
#
#     docker build --tag cifar10-serve --target serve .     # `serve` and `infer` on exported ONNX files; no PyTorch
#     docker build --tag cifar10 .                          # everything; for a GPU (docker run --gpus all) and for CPUs; 7 GB
#     docker build --tag cifar10 --build-arg TORCH=cpu .    # everything for machines without a GPU; under 2 GB
#
#     docker run --rm --init --publish 127.0.0.1:8000:8000 --volume "$PWD/models:/app/models:ro" cifar10-serve
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
#
# An engine without BuildKit builds all stages above the one that it is asked for: the small ones stand first.
# `python3 scripts/pin_images` adds the digests of these images, and changes their versions.
ARG PYTHON_IMAGE=python:3.11.16-slim-trixie
ARG POSTGRES_IMAGE=python:3.11.16-slim-trixie

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PIP_PYTHON=/opt/venv/bin/python \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home --uid 1000 cifar10 \
    && python3 -m venv --without-pip /opt/venv
WORKDIR /app


FROM base AS serve-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements-serve.txt scripts/image_packages ./
RUN sh image_packages serve


FROM base AS serve
COPY --from=serve-packages /opt/venv /opt/venv
COPY commands.py pyproject.toml ./
COPY conf conf
COPY cifar10 cifar10
RUN install --directory --owner=cifar10 data data/serving models mlruns \
    && python -m compileall -q commands.py cifar10 \
    && echo /app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cifar10.pth"
# What the program says to type is for the image with everything: this one cannot train or export.
ENV XDG_CACHE_HOME=/app/data/cache \
    MLFLOW_DISABLE_TELEMETRY=true \
    ORT_DISABLE_TELEMETRY=1 \
    CIFAR10_PROGRAM="docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models --volume cifar10-mlruns:/app/mlruns cifar10"
USER 1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["python", "commands.py"]
CMD ["serve", "--host=0.0.0.0"]


# A database for the MLflow server, from Debian's packages; .env.example names the official image, which can be taken instead.
FROM ${POSTGRES_IMAGE} AS postgres
COPY scripts/postgres /usr/local/bin/postgres-service
RUN sh /usr/local/bin/postgres-service install
ENV PGDATA=/var/lib/postgresql/data/cluster
# hadolint ignore=DL3066  # the official images give this user different numbers
USER postgres
EXPOSE 5432
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["sh", "/usr/local/bin/postgres-service", "check"]
ENTRYPOINT ["sh", "/usr/local/bin/postgres-service"]
CMD ["run"]


FROM base AS packages
ARG TORCH=cuda
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements.txt requirements-postgres.txt requirements-torch-cpu.tx[t] scripts/image_packages ./
RUN sh image_packages "$TORCH"


FROM packages AS full
COPY commands.py main.py cnn_app.py streamlit_app.py pyproject.toml ./
COPY .streamlit .streamlit
COPY conf conf
COPY cifar10 cifar10
COPY scripts/train_and_promote scripts/check_stack scripts/
# `import cifar10` works from any folder: site-packages names the one that the package is in.
RUN install --directory --owner=cifar10 data data/serving models mlruns \
    && python -m compileall -q commands.py cifar10 \
    && echo /app > "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cifar10.pth"
# What is measured (engine=auto) and downloaded (published weights) once is kept in a volume, not in the home folder.
ENV XDG_CACHE_HOME=/app/data/cache \
    MLFLOW_DISABLE_TELEMETRY=true \
    ORT_DISABLE_TELEMETRY=1 \
    CIFAR10_PROGRAM="docker run --rm --init --volume cifar10-data:/app/data --volume cifar10-models:/app/models --volume cifar10-mlruns:/app/mlruns cifar10"
USER 1000
# Most commands end by themselves; docker-compose.yml has a check for each service.
HEALTHCHECK NONE
ENTRYPOINT ["python", "commands.py"]
CMD ["--help"]
