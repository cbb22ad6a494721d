package main

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"

	"outflow/internal/config"
)

// tracing sends a share of the batches to an OpenTelemetry collector; nil where tracing.endpoint is "".
func tracing(ctx context.Context, cfg config.Tracing, log *zap.Logger) (*trace.TracerProvider, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(cfg.Endpoint))
	if err != nil {
		return nil, usageError{fmt.Errorf("tracing.endpoint: %w", err)}
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces are lost", zap.Error(err)) }))
	about := resource.NewSchemaless(attribute.String("service.name", "outflow"), attribute.String("service.version", version))
	return trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithSampler(trace.TraceIDRatioBased(cfg.Sample)), trace.WithResource(about)), nil
}

// tracesPatience bounds the way of the last spans to the collector.
const tracesPatience = 2 * time.Second
