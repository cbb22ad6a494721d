package pipeline

import (
	"context"
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"

	"outflow/internal/config"
	"outflow/internal/secret"
)

// tracing sends a share of the batches to an OpenTelemetry collector; nil where tracing.endpoint is "".
func tracing(ctx context.Context, cfg config.Tracing, version string, log *zap.Logger) (*trace.TracerProvider, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, config.Faultf("tracing.endpoint: expected a URL such as http://collector:4318/v1/traces")
	}
	options := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(cfg.Endpoint)} // without the login in the URL
	if password, ok := endpoint.User.Password(); ok {
		login := base64.StdEncoding.EncodeToString([]byte(endpoint.User.Username() + ":" + password))
		options = append(options, otlptracehttp.WithHeaders(map[string]string{"Authorization": "Basic " + login}))
	}
	otel.SetLogger(logr.Discard()) // it writes values of OTEL_EXPORTER_OTLP_HEADERS to stderr, and those are secrets
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces are lost", zap.String("endpoint", secret.RedactURL(cfg.Endpoint)), zap.String("error", untold(err.Error(), endpoint)))
	}))
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, config.Faultf("tracing.endpoint: %s", untold(err.Error(), endpoint))
	}
	about := resource.NewSchemaless(attribute.String("service.name", "outflow"), attribute.String("service.version", version))
	return trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithSampler(trace.TraceIDRatioBased(cfg.Sample)), trace.WithResource(about)), nil
}

// untold masks the secrets of the endpoint in an error of the exporter.
func untold(text string, endpoint *url.URL) string {
	password, _ := endpoint.User.Password()
	for _, hidden := range []string{endpoint.User.String(), password, endpoint.RawQuery} {
		if hidden != "" {
			text = strings.ReplaceAll(text, hidden, "xxxxx")
		}
	}
	return secret.Mask(text)
}

// tracesPatience bounds the way of the last spans to the collector.
const tracesPatience = 2 * time.Second
