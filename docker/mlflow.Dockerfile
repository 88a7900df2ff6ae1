# MLflow's server. Build from the repository's root:
#   docker build --file docker/mlflow.Dockerfile --tag tire-mlflow .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir uv==0.13.8
RUN python -m venv --without-pip /opt/mlflow
ENV VIRTUAL_ENV=/opt/mlflow UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY docker/mlflow.txt docker/
RUN /opt/build/bin/uv pip install --no-cache --require-hashes --requirement docker/mlflow.txt

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /work tire
COPY --from=build /opt/mlflow /opt/mlflow
ENV PATH=/opt/mlflow/bin:$PATH PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
USER tire
WORKDIR /work
EXPOSE 5000
ENTRYPOINT ["mlflow"]
CMD ["server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]
