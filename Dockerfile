# PyTorch's wheels on PyPI contain CUDA 13 and the driver comes from the host, so a CUDA base would only add the same
# libraries a second time.
# The digest is the index of all platforms. `docker buildx imagetools inspect python:3.11-slim-trixie` prints the latest.
ARG BASE_IMAGE=python:3.11-slim-trixie@sha256:e88e9763f943ec1834f992a4b51e0f24500486803e8bc534e5767af9ea65f6ce
FROM ${BASE_IMAGE}

# CUDA base images set the two NVIDIA variables: the container runtime then passes in the GPU and its driver.
# Expandable segments prevent fragmentation by tensors of changing size (the frames that a VAE joins, networks that come
# and go): https://docs.pytorch.org/docs/stable/notes/cuda.html (memory management).
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /app

# COMPILE needs these: Triton builds its kernels' launchers with the C compiler of the machine on which it runs.
RUN apt-get update && \
    apt-get install -y --no-install-recommends gcc libc6-dev && \
    rm -rf /var/lib/apt/lists/*

# The layers that change least come first. pip compiles what it installs, and installs only packages whose hash is in these
# files.
COPY requirements.txt constraints.txt tools/pip.txt ./
RUN pip install --no-cache-dir --root-user-action=ignore -r pip.txt && \
    pip install --no-cache-dir --root-user-action=ignore -r requirements.txt -c constraints.txt

# The worker does not run as root, even on RunPod. /runpod-volume belongs to root: the worker only reads from it, and
# huggingface_hub makes its files there readable for all. The worker's own downloads go to /models. For a volume whose files
# only root may read, build with --build-arg RUN_AS=root.
RUN useradd --uid 10001 --create-home worker && install -d /models && install -d -o worker -g worker /models/huggingface

ENV HOME=/home/worker \
    MODELS_DIR=/models \
    HF_HOME=/models/huggingface

# BAKE_MODELS="org/name org/name@revision": weights inside the image load faster than any download. They come before the
# code, so that a change of the code does not download them again. The small demo models come with the code. The weights
# belong to root: the worker can read them and cannot change them.
ARG BAKE_MODELS=""
COPY tools/bake_models.py tools/
RUN HOME=/root HF_HOME=/root/bake python tools/bake_models.py ${BAKE_MODELS} && rm -rf /root/bake

COPY LICENSE test_input.json handler.py ./
COPY worker worker
# unchecked-hash: the files in an image do not change, so no start needs to check their dates.
RUN python -m compileall -q --invalidation-mode unchecked-hash handler.py worker

ARG RUN_AS=worker
USER ${RUN_AS}

# Exec form: Python is process 1 and receives RunPod's SIGTERM itself.
CMD ["python", "-u", "handler.py"]
