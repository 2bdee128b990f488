# The training image. Build it with scripts/build-image, which gives it its name, version and revision.
ARG BASE_IMAGE=debian:bookworm-slim

# Everything that is installed, with the compiler that one package needs; nothing of this stage but /opt/venv is kept.
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

# Pretrained networks for jobs without a network: those of the folder container/pretrained, and those that are fetched by
# name, as in --build-arg PRETRAINED="resnet50 distilbert-base-uncased".
FROM packages AS pretrained
ARG PRETRAINED=""
COPY container/pretrained /opt/pretrained
COPY container/fetch_pretrained.py /build/
RUN rm /opt/pretrained/README.md && /opt/venv/bin/python /build/fetch_pretrained.py /opt/pretrained ${PRETRAINED}

FROM ${BASE_IMAGE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt

# CUDA is in torch's own packages; these two let the host lend its GPUs and its driver (docs/decisions/cuda.md).
# What libraries keep goes where every user may write.
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

# The folders that sagemaker-training wants to make, for any user and under a read-only root. /opt/ml/checkpoints is not
# among them: where the platform mounts none, nobody would keep what is written there.
RUN mkdir -p /opt/ml/code /opt/ml/input/config /opt/ml/input/data /opt/ml/model /opt/ml/output/data \
    && chmod -R a+rwX /opt/ml \
    && echo /opt/finetune >/opt/venv/lib/python3.11/site-packages/finetune.pth \
    && ln -s /opt/finetune/container/train.py /usr/local/bin/train \
    && ln -s /opt/finetune/container/serve.py /usr/local/bin/serve
WORKDIR /opt/ml/code

# From here on, what changes with the code: small layers.
COPY container/requirements.txt container/*.py /opt/finetune/container/
COPY src/finetune /opt/finetune/finetune
RUN chmod 755 /opt/finetune/container/train.py /opt/finetune/container/serve.py \
    && python -m compileall -q /opt/finetune \
    && PYTHONDONTWRITEBYTECODE=1 python -m container.smoke /opt/finetune/container/requirements.txt \
    && rm -rf /tmp/*

ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="finetune" \
    org.opencontainers.image.description="Adapts pretrained image and text networks to your data, as an Amazon SageMaker training and inference container" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
    com.amazonaws.sagemaker.capabilities.multi-models="true"

CMD ["train"]
