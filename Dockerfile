# The environment of the pipeline's tasks. Nextflow itself runs outside and stages its scripts; any user may run it.
FROM python:3.12-slim

# Nextflow measures its tasks with ps
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/tlimb
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock

COPY pyproject.toml README.md ./
COPY python python
RUN pip install --no-cache-dir --no-deps .

# Whoever the user is, libraries want a folder for their caches and (monai) a user's name
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib USER=tlimb
WORKDIR /tmp
