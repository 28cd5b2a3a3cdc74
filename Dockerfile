# syntax=docker/dockerfile:1

# The server for an external PostgreSQL. The image has no database of its own: without ACTCHAIN_DATABASE_URL the
# server searches for PostgreSQL's programs, finds none, and says so.
#
#   docker build -t actchain .
#
# What a container needs at least:
#   ACTCHAIN_ISSUER            the https URL under which clients reach it
#   ACTCHAIN_DATABASE_URL      postgres://user@host/database
#   ACTCHAIN_MASTER_KEY_FILE   a file with 32 random bytes in base64url

FROM rust:1.94-slim-bookworm AS build
# A C compiler comes with the image. OpenSSL is linked for JWE, and found by pkg-config.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Dependencies stay in the two caches and are built again only when they change.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --release --bin actchain \
    && install -m 0755 target/release/actchain /usr/local/bin/actchain

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 actchain \
    && useradd --system --uid 10001 --gid actchain --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin actchain
COPY --from=build /usr/local/bin/actchain /usr/local/bin/actchain
ENV ACTCHAIN_LISTEN=0.0.0.0:8080
USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
# Whether the process answers; /ready, which also checks the database, is for load balancers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r line <&3 && [[ $line == *' 200 '* ]]"]
ENTRYPOINT ["actchain"]
CMD ["serve"]
