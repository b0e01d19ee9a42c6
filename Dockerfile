# The container of the CVPR "text-guided 3D biomedical segmentation" challenge: one case in /workspace/inputs, its masks in /workspace/outputs.
#
#   docker build -t medals .                                            # with the bundled nano weights
#   docker build -t medals --build-arg WEIGHTS=weights .                # with a folder of weights in the checkout
#   docker run --gpus device=0 -m 32G --rm -v $PWD/inputs/:/workspace/inputs/ -v $PWD/outputs/:/workspace/outputs/ \
#     medals:latest /bin/bash -c "sh predict.sh"
ARG BASE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime
FROM ${BASE}

WORKDIR /opt/medals
COPY settings.ini setup.py README.md LICENSE ./
COPY medals medals
ARG EXTRAS=client
RUN pip install --no-cache-dir ".[${EXTRAS}]"

# Weights travel inside the image: the challenge's machines have no network.
ARG WEIGHTS=medals/assets/nano
COPY ${WEIGHTS} /opt/weights

WORKDIR /workspace
COPY sh/predict.sh predict.sh
ENV MEDALS_WEIGHTS=/opt/weights HF_HUB_OFFLINE=1 MEDALS_HOME=/tmp/medals
CMD ["/bin/bash", "-c", "sh predict.sh"]
