# The server: `tire serve`, with neither torch nor MLflow. Build from the repository's root:
#   docker build --file docker/serving.Dockerfile --tag tire-serving .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir uv==0.13.8 setuptools==84.2.1
RUN python -m venv --without-pip /opt/tire
ENV VIRTUAL_ENV=/opt/tire UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
WORKDIR /src
COPY docker/serving.txt docker/
RUN /opt/build/bin/uv pip install --no-cache --require-hashes --requirement docker/serving.txt
COPY pyproject.toml requirements.in ./
COPY tire_pipeline tire_pipeline
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && /opt/build/bin/uv pip install --no-cache --no-deps wheels/*.whl
RUN /opt/tire/bin/python -c 'import tire_pipeline.serving.server, tire_pipeline.stores.ledger, tire_pipeline.stores.objects'

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /work tire
COPY --from=build /opt/tire /opt/tire
ENV PATH=/opt/tire/bin:$PATH TIRE_HOME=/work/.tire PYTHONUNBUFFERED=1
USER tire
WORKDIR /work
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["python", "-m", "tire_pipeline"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
