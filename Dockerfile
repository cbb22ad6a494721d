FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /outflow ./cmd/outflow

# static has root certificates and time zones, which TLS to tenants' databases needs, and no shell.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /outflow /outflow
USER nonroot
EXPOSE 8090
ENTRYPOINT ["/outflow"]
CMD ["run"]
