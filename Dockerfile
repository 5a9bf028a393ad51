# Built by `make image` from bin/image, which holds the static binary and an empty folder.
FROM scratch
# The folder belongs to the user who runs the broker; a new volume mounted here takes that over.
COPY --chown=65532:65532 data /var/lib/balsa
COPY balsa /balsa
USER 65532:65532
VOLUME /var/lib/balsa
EXPOSE 9092 9192 9193 9644
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["/balsa", "health", "--http", "127.0.0.1:9644"]
ENTRYPOINT ["/balsa"]
CMD ["serve", "--data-dir", "/var/lib/balsa"]
