# One image for all of Keyledger's processes; docker-compose.yml has the command of each.
FROM python:3.11-slim AS built

RUN python -m venv /opt/keyledger
ENV PATH=/opt/keyledger/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY requirements.lock pyproject.toml ./
RUN pip install --require-hashes -r requirements.lock
COPY shared shared
COPY services services
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin keyledger
COPY --from=built /opt/keyledger /opt/keyledger
ENV PATH=/opt/keyledger/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /tmp
USER keyledger
ENTRYPOINT ["keyledger"]
CMD ["web"]
