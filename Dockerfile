# docker build -t itaclip .                          for CPUs
# docker build -t itaclip --build-arg DEVICE=cuda .  for NVIDIA's GPUs; run it with --gpus all
# docker run --rm -v "$PWD:/data" itaclip segment photos --classes "cat; sofa, couch" --out labelled
# docker run --rm -p 7860:7860 itaclip serve --model demo --host 0.0.0.0
FROM python:3.12-slim-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG DEVICE=cpu
ARG EXTRAS=web
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/itaclip
WORKDIR /src
COPY requirements.txt ./
# The package index has PyTorch with CUDA for Linux, PyTorch's own index the smaller one without.
RUN case "$DEVICE" in \
      cpu) export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu ;; \
      cuda) ;; \
      *) echo "DEVICE=$DEVICE: expected cpu or cuda" >&2; exit 2 ;; \
    esac; \
    /opt/itaclip/bin/pip install -r requirements.txt
COPY . .
RUN /opt/itaclip/bin/pip install --constraint requirements.txt ".[$EXTRAS]"

FROM python:3.12-slim-bookworm
# OpenCV loads these two. Debian keeps one version of each.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --create-home --uid 1000 itaclip
COPY --from=build /opt/itaclip /opt/itaclip
ENV PATH=/opt/itaclip/bin:$PATH
USER 1000
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["itaclip"]
CMD ["--help"]
