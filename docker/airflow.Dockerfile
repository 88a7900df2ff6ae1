# Airflow with this project's DAGs: api-server, scheduler, dag-processor, triggerer or worker, by its command.
# Build from the repository's root:
#   docker build --file docker/airflow.Dockerfile --tag tire-airflow .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir uv==0.13.8 setuptools==84.2.1
RUN python -m venv --without-pip /opt/tire
ENV VIRTUAL_ENV=/opt/tire UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
COPY docker/airflow.txt docker/
RUN /opt/build/bin/uv pip install --no-cache --require-hashes --requirement docker/airflow.txt
COPY pyproject.toml requirements.in ./
COPY tire_pipeline tire_pipeline
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/build/bin/uv pip install --no-cache --no-deps wheels/*.whl
RUN /opt/tire/bin/python -c 'import tire_pipeline.wiring, tire_pipeline.evaluation.attribution, tire_pipeline.training.trained, tire_pipeline.validation.signals'

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /work tire && mkdir -p /opt/airflow
COPY --from=build /opt/tire /opt/tire
COPY dags /opt/airflow/dags
COPY plugins /opt/airflow/plugins
COPY docker/migrate.py docker/healthcheck.py /opt/airflow/
ENV PATH=/opt/tire/bin:$PATH PYTHONUNBUFFERED=1 PYTHONPATH=/opt/airflow/plugins \
    TIRE_HOME=/work/.tire MPLCONFIGDIR=/tmp/matplotlib \
    AIRFLOW_HOME=/work/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags AIRFLOW__CORE__PLUGINS_FOLDER=/opt/airflow/plugins
USER tire
WORKDIR /work
RUN mkdir -p airflow/logs .tire
ENTRYPOINT ["airflow"]
