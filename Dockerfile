# weaksam with everything it needs; `make all DATASET=demo` when nothing else is asked for.
#
#   docker build -t weaksam .                                              for the CPU
#   docker build -t weaksam-cuda --build-arg BASE=nvidia/cuda:12.6.3-base-ubuntu24.04 --build-arg TORCH_INDEX= .
#   docker run --rm -v "$PWD/runs:/weaksam/runs" weaksam                   the demo
#   docker run --rm --gpus all -v "$PWD:/data" weaksam-cuda all DATASET=pets DATA=/data/pets
#
# Any Debian or Ubuntu with Python 3.11 or newer will do as a base: torch's wheels bring CUDA's libraries, the machine the driver.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# Wheels of torch without CUDA, which are a tenth as large; empty: those of PyPI, with it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX} \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/weaksam/.venv/bin:${PATH}

# The versions are the distribution's, which goes out of date as a whole; what decides results is pinned in constraints.txt.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        bash build-essential ca-certificates git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home weaksam

WORKDIR /weaksam
COPY . .
# Runs are the user's: a volume that is mounted there has to be writable for user 10001, or give --user.
RUN make setup && mkdir -p runs datasets && chmod 777 runs datasets

USER 10001
ENTRYPOINT ["make"]
CMD ["all", "DATASET=demo"]
