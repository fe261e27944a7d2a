# An image of esops for linux/amd64 and linux/arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 -t esops .
# Its versions are those that the tests run with (constraints.txt).

FROM python:3.11-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docs ./docs
COPY esops ./esops
RUN python -m venv /opt/esops \
 && /opt/esops/bin/pip install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt .

FROM python:3.11-slim
COPY --from=build /opt/esops /opt/esops
RUN useradd --uid 10001 --home-dir /home/esops --create-home --shell /usr/sbin/nologin esops_operator
ENV PATH=/opt/esops/bin:$PATH \
    PYTHONUNBUFFERED=1
# esops.toml and the projections that stand beside it.
WORKDIR /project
USER 10001
EXPOSE 9180
# Whether the loop turns; where the command is another one than `run`, override it or use NONE.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9180/livez', timeout=4)"]
ENTRYPOINT ["esops"]
CMD ["run", "--health", "9180", "--log-format", "json"]
