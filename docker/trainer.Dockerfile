# The trainer: `tire train` and what it needs, torch with CUDA among it. Build from the repository's root:
#   docker build --file docker/trainer.Dockerfile --tag tire-trainer .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir uv==0.13.8 setuptools==84.2.1
RUN python -m venv --without-pip /opt/tire
ENV VIRTUAL_ENV=/opt/tire UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
COPY docker/trainer.txt docker/
RUN /opt/build/bin/uv pip install --no-cache --require-hashes --requirement docker/trainer.txt
COPY pyproject.toml requirements.in ./
COPY tire_pipeline tire_pipeline
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/build/bin/uv pip install --no-cache --no-deps wheels/*.whl
RUN /opt/tire/bin/python -c 'import tire_pipeline.wiring, tire_pipeline.training.run, tire_pipeline.evaluation.pictures, tire_pipeline.serving.predictor'

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /work tire
COPY --from=build /opt/tire /opt/tire
ENV PATH=/opt/tire/bin:$PATH TIRE_HOME=/work/.tire MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
USER tire
WORKDIR /work
# A volume that is mounted here first takes its owner: trainings on one host share the decoded images.
RUN mkdir -p .tire/cache
ENTRYPOINT ["python", "-m", "tire_pipeline"]
