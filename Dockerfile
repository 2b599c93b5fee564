# Everything that ferflow's programs need, from the lock, with the code and the champion. `ferflow label` works in it as it is:
#
#   docker build --tag ferflow .
#   mkdir --parents labels  # else Docker makes it, and as root's
#   docker run --rm --volume "$PWD/photos:/photos:ro" --volume "$PWD/labels:/labels" ferflow label /photos --out /labels
#
# compose.yaml puts a checkout of the project in the place of the copy in /ferflow, because retraining commits to it.
FROM python:3.11-slim-bookworm

# Git, for retraining and versions; libGL and GLib, for OpenCV. Debian keeps no older versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# The lock holds the tools of development, too; setuptools of them installs the project.
WORKDIR /ferflow
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir --no-deps --require-hashes --requirement requirements.lock

COPY pyproject.toml README.md LICENSE params.yaml dvc.yaml prefect.yaml ./
COPY tasks ./tasks
COPY flows ./flows
COPY models/champion ./models/champion
COPY models/small ./models/small
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .

# Files that appear in the mounted folders belong to this user: give yours, if it is another.
ARG UID=1000
ARG GID=1000
RUN groupadd --non-unique --gid "$GID" ferflow \
    && useradd --non-unique --uid "$UID" --gid "$GID" --create-home ferflow \
    && install --directory --owner ferflow --group ferflow /home/ferflow/.prefect
USER ${UID}:${GID}
ENV PYTHONUNBUFFERED=1

ENTRYPOINT ["ferflow"]
CMD ["--help"]
