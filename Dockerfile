# CloudChat and nothing else: the statically linked program, and a folder for its data. What is in the
# image, and how it is started, is tested as a root folder of its own (tests/packages).
#
#   docker build -t cloudchat .
#   docker run -e DEEPSEEK_API_KEY=… -v cloudchat:/data -p 127.0.0.1:5000:5000 cloudchat

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN packages/build static

FROM scratch
COPY --from=build /src/target/packages/root/cloudchat /cloudchat
COPY --from=build --chown=65532:65532 /src/target/packages/root/data /data
USER 65532:65532
VOLUME /data
EXPOSE 5000
# Answers that run go on for server.drain_seconds (30): `docker stop --time 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/cloudchat"]
CMD ["serve", "--listen", "0.0.0.0:5000", "--data-dir", "/data"]
