# One image for all of Keyledger's processes; docker-compose.yml has the command of each.
FROM python:3.11-slim AS built

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/keyledger && /opt/keyledger/bin/pip install --require-hashes -r requirements.txt
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY services services
RUN /opt/build/bin/hatchling build -t wheel && /opt/keyledger/bin/pip install --no-deps dist/*.whl

FROM python:3.11-slim

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin keyledger
COPY --from=built /opt/keyledger /opt/keyledger
ENV PATH=/opt/keyledger/bin:$PATH PYTHONUNBUFFERED=1 KEYLEDGER_DATA_DIR=/tmp/data
WORKDIR /tmp
USER 10001
ENTRYPOINT ["keyledger"]
CMD ["web"]
