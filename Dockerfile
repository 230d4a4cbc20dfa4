# maskmill on CPU hosts; with --build-arg ACCELERATOR=gpu on hosts with a CUDA driver (torch's wheels bring CUDA along).
#   docker build -t maskmill --build-arg TORCH_INDEX=URL .      URL: an index of torch's CPU builds; without it, what the registry gives
#   docker run --rm -v "$PWD:/work" maskmill run my.yaml
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG ACCELERATOR=cpu
ARG TORCH_INDEX=
ARG EXTRAS=s3
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 VIRTUAL_ENV=/opt/maskmill PATH=/opt/maskmill/bin:$PATH
RUN python -m venv /opt/maskmill && pip install uv
WORKDIR /src
# Dependencies first: they change seldom, the code often.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN if [ -n "$TORCH_INDEX" ]; then pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch torchvision; fi \
 && uv pip install --requirement pyproject.toml --extra "$ACCELERATOR" --extra "$EXTRAS" --constraint constraints.txt
COPY . .
RUN uv pip install --no-deps .

FROM python:${PYTHON}-slim
# What OpenMP and compiled wheels link to.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 maskmill && mkdir -p /work /home/maskmill/.prefect && chown maskmill /work /home/maskmill/.prefect
COPY --from=build /opt/maskmill /opt/maskmill
ENV PATH=/opt/maskmill/bin:$PATH PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false \
    PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1
USER maskmill
WORKDIR /work
ENTRYPOINT ["maskmill"]
CMD ["--help"]
