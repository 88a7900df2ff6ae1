# The embedded S3, for hosts that can pull no SeaweedFS and use no AWS. It does not check signatures: for loopback and
# networks of its own alone. Build from the repository's root:
#   docker build --file docker/s3.Dockerfile --tag tire-s3 .
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir uv==0.13.8
RUN python -m venv --without-pip /opt/s3
ENV VIRTUAL_ENV=/opt/s3 UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY docker/s3.txt docker/
RUN /opt/build/bin/uv pip install --no-cache --require-hashes --requirement docker/s3.txt

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /data tire
COPY --from=build /opt/s3 /opt/s3
COPY tire_pipeline/stack/s3_server.py /opt/s3/s3_server.py
ENV PATH=/opt/s3/bin:$PATH PYTHONUNBUFFERED=1 \
    SERVICES=s3 BIND_HOST=0.0.0.0 GATEWAY_PORT=8333 S3_PERSIST=1 S3_DATA_DIR=/data AUTH=true \
    IOT_MTLS_ENABLED=0 SFTP_ENABLED=0 DOCKER_HOST=unix:///nonexistent LOG_LEVEL=WARNING
USER tire
WORKDIR /data
EXPOSE 8333
ENTRYPOINT ["python", "/opt/s3/s3_server.py"]
