# GPU (CUDA comes with torch's wheels; the host needs the NVIDIA container toolkit):
#   docker build -t dist_plm .
#   docker run --gpus all --ipc host -v "$PWD:/mnt" dist_plm fit PHOTOS
# CPU only; TORCH_INDEX is the URL of PyTorch's CPU wheels, as its installation page names it:
#   docker build -t dist_plm:cpu --build-arg TORCH_INDEX=URL .
#   docker run -v "$PWD:/mnt" dist_plm:cpu fit PHOTOS
# The search page, on the host's own address:
#   docker run --network host -v "$PWD:/mnt" dist_plm serve runs/PHOTOS/index
FROM python:3.11-slim

# g++ compiles kernels of runtime.compile and of DeepSpeed.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY deploy/requirements-cpu.txt deploy/
COPY configs configs
COPY dist_plm dist_plm

ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch torchvision && \
        pip install --no-cache-dir -c constraints.txt -r deploy/requirements-cpu.txt && \
        pip install --no-cache-dir --no-deps . ; \
    else \
        pip install --no-cache-dir -c constraints.txt ".[fit]" ; \
    fi

# Downloaded weights stay in the mounted folder.
ENV XDG_CACHE_HOME=/mnt/.cache TORCH_HOME=/mnt/.cache/torch HF_HOME=/mnt/.cache/huggingface
WORKDIR /mnt
EXPOSE 8000
ENTRYPOINT ["dist-plm"]
CMD ["--help"]
