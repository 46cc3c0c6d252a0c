# Both programs, `replicator` and `consumers`, in one image without tests, demo or compilers.
FROM python:3.11-slim AS build

# As the constraint of pip's own build environment too, so that the same versions are installed every time.
ENV PIP_CONSTRAINT=/build/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /app
COPY pyproject.toml README.md LICENSE ./
COPY replicator ./replicator
COPY consumers ./consumers
COPY sql ./sql
RUN /app/bin/pip install .

FROM python:3.11-slim

ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin inbox-replicator
COPY --from=build /app /app
USER 10001
WORKDIR /tmp

# The replicator's and the consumers' health and metrics, once …_HTTP_HOST lets others in.
EXPOSE 9187 9188
# `replicator run` and `consumers run` end cleanly on SIGTERM.
CMD ["replicator", "--help"]
