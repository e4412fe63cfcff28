# The image for the challenge: runs sh predict.sh in /workspace, without network, as any user, with a
# read-only root.
FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock scripts/prune_site.py /build/
RUN pip3 install --no-cache-dir --no-compile --target /site \
        --require-hashes -r /build/requirements.lock \
    && python3 /build/prune_site.py /site
COPY app /workspace/app
COPY swiftmedsam /workspace/swiftmedsam
COPY weights /workspace/weights
COPY predict.sh /workspace/
# Of all weights, the image has the default network alone.
RUN cd /workspace/weights && find . -mindepth 1 -maxdepth 1 -type d ! -name "$(cat DEFAULT)" -exec rm -r {} +
# Compile the models for the CPU of this build, and, if it has AVX-512, for the CPU of the challenge
# (Xeon W-2133: AVX-512 without VNNI and bf16). On other CPUs the models are compiled at each start.
RUN cd /workspace && for isa in ALL AVX512_CORE; do \
        ONEDNN_MAX_CPU_ISA=$isa PYTHONPATH=/site python3 -c "from swiftmedsam import load; load().precompile()" \
        || exit 1; \
    done
# unchecked-hash: the image does not change, so Python need not check the source files
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /site /workspace/app /workspace/swiftmedsam \
    && mkdir /workspace/inputs /workspace/outputs \
    && chmod 777 /workspace/outputs

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/* \
    && useradd --uid 1000 --no-create-home swiftmedsam
COPY --from=build /site /site
COPY --from=build /workspace /workspace
ENV PYTHONPATH=/site PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 SWIFTMEDSAM_PYTHON=/usr/bin/python3
USER swiftmedsam
WORKDIR /workspace
CMD ["sh", "predict.sh"]
