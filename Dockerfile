# mpsprobe on Linux, x86-64 or aarch64: `predict` and `--device emulated` on any machine that runs containers, a Mac too.
#   docker build -t mpsprobe . && docker run --rm -v "$PWD:/work" mpsprobe predict ./my-model
FROM python:3.12-slim

# The CPU build of torch: a container has no GPU that MPS or these tests could use, and plain pip takes gigabytes of CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu 'torch==2.13.0'
COPY . /opt/mpsprobe
RUN pip install --no-cache-dir --constraint /opt/mpsprobe/requirements/constraints.txt '/opt/mpsprobe[diffusers]' accelerate

WORKDIR /work
# What is downloaded is kept in the mounted folder, so that the next run finds it.
ENV HF_HOME=/work/.cache/huggingface MPSPROBE_CACHE=/work/.cache/mpsprobe
ENTRYPOINT ["mpsprobe"]
CMD ["doctor"]
