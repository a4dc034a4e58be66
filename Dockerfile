# One image for every process; docker-compose.yml names the command of each.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 keyledger
WORKDIR /app
COPY requirements.lock pyproject.toml ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY shared shared
COPY services services
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

USER keyledger
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["keyledger"]
CMD ["web"]
