# The training and inference image. scripts/build-image builds it and sets its name, version and revision.
ARG BASE_IMAGE=debian:bookworm-slim

# Installs the Python packages; one of them needs a compiler. Only /opt/venv is copied from this stage.
FROM ${BASE_IMAGE} AS packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3 python3-dev python3-venv
COPY scripts/uv.txt container/requirements.txt /build/
RUN python3 -m venv /build/uv \
    && /build/uv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement /build/uv.txt \
    && python3 -m venv --without-pip /opt/venv \
    && VIRTUAL_ENV=/opt/venv UV_HTTP_TIMEOUT=300 /build/uv/bin/uv pip install --system-certs --no-cache --quiet \
        --compile-bytecode --require-hashes --build-constraints /build/requirements.txt --requirement /build/requirements.txt
COPY container/slim /build/
RUN /build/slim /opt/venv

# Pretrained models for jobs without a network connection: those in the folder container/pretrained, and those that are
# downloaded by name, as in --build-arg PRETRAINED="resnet50 distilbert-base-uncased".
FROM packages AS pretrained
ARG PRETRAINED=""
COPY container/pretrained /opt/pretrained
COPY container/fetch_pretrained.py /build/
RUN rm /opt/pretrained/README.md && /opt/venv/bin/python /build/fetch_pretrained.py /opt/pretrained ${PRETRAINED}

FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt

# CUDA is part of torch's packages; the two NVIDIA variables request the GPUs and the driver of the host
# (docs/decisions/cuda.md). Caches of libraries are in a folder that every user may write.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MPLBACKEND=Agg \
    MPLCONFIGDIR=/tmp/matplotlib \
    HF_HOME=/tmp/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/tmp/torchinductor \
    TORCH_HOME=/tmp/torch

COPY --from=packages /opt/venv /opt/venv
COPY --from=pretrained /opt/pretrained /opt/pretrained

# The folders that sagemaker-training creates, for any user and with a read-only root. /opt/ml/checkpoints is not created:
# unless the platform mounts it, checkpoints would not outlive the container.
RUN mkdir -p /opt/ml/code /opt/ml/input/config /opt/ml/input/data /opt/ml/model /opt/ml/output/data \
    && chmod -R a+rwX /opt/ml \
    && echo /opt/finetune >/opt/venv/lib/python3.11/site-packages/finetune.pth \
    && ln -s /opt/finetune/container/train.py /usr/local/bin/train \
    && ln -s /opt/finetune/container/serve.py /usr/local/bin/serve \
    && ln -s /opt/finetune/container/cli.py /usr/local/bin/finetune
WORKDIR /opt/ml/code

# Layers that change with the code are small and come last.
COPY container/requirements.txt container/*.py /opt/finetune/container/
COPY src/finetune /opt/finetune/finetune
RUN chmod 755 /opt/finetune/container/train.py /opt/finetune/container/serve.py /opt/finetune/container/cli.py \
    && python -m compileall -q /opt/finetune \
    && PYTHONDONTWRITEBYTECODE=1 python -m container.smoke /opt/finetune/container/requirements.txt \
    && rm -rf /tmp/*

# For several hosts with an Elastic Fabric Adapter: the URL and the SHA-256 of an EFA installer (docs/distributed.md).
ARG EFA_INSTALLER="" EFA_INSTALLER_SHA256=""
RUN python3 -B /opt/finetune/container/install_efa.py "${EFA_INSTALLER}" "${EFA_INSTALLER_SHA256}"

ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune" \
    org.opencontainers.image.description="Adapts pretrained image and text networks to your data, as an Amazon SageMaker training and inference container" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
    com.amazonaws.sagemaker.capabilities.multi-models="true"

CMD ["train"]
