package command

import (
	"fmt"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"outflow/internal/config"
	"outflow/internal/fit"
)

// newLogger writes to stderr, as log: says.
func newLogger(l config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(l.Level)
	if err != nil {
		return nil, usageError{err}
	}
	c, encoder := zap.NewProductionEncoderConfig(), zapcore.NewJSONEncoder
	if l.Format == "console" {
		c, encoder = zap.NewDevelopmentEncoderConfig(), zapcore.NewConsoleEncoder
	}
	c.TimeKey, c.EncodeTime, c.EncodeDuration = "ts", zapcore.RFC3339NanoTimeEncoder, zapcore.MillisDurationEncoder
	out := zapcore.Lock(zapcore.AddSync(&screen{os.Stderr}))
	return zap.New(bounded(zapcore.NewCore(encoder(c), out, level)), zap.ErrorOutput(out)), nil
}

// boundedCore cuts every text of the log to [fit.Log] bytes: a server's message, a mapping's SQL or the value of a panic may have a megabyte.
type boundedCore struct{ zapcore.Core }

// bounded wraps a core.
func bounded(c zapcore.Core) zapcore.Core { return boundedCore{c} }

// With implements [zapcore.Core].
func (c boundedCore) With(fields []zapcore.Field) zapcore.Core {
	return boundedCore{c.Core.With(cutFields(fields))}
}

// Check implements [zapcore.Core].
func (c boundedCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write implements [zapcore.Core].
func (c boundedCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Message, e.Stack = fit.Cut(e.Message, fit.Log), fit.Cut(e.Stack, fit.Log)
	return c.Core.Write(e, cutFields(fields))
}

// cutFields returns the fields with their texts cut. The fields are copied only where one changes.
func cutFields(fields []zapcore.Field) []zapcore.Field {
	copied := false
	for i, f := range fields {
		text, isText := textOf(f)
		if !isText || len(text) <= int(fit.Log) {
			continue
		}
		if !copied {
			fields, copied = append([]zapcore.Field(nil), fields...), true
		}
		fields[i] = zapcore.Field{Key: f.Key, Type: zapcore.StringType, String: fit.Cut(text, fit.Log)}
	}
	return fields
}

// textOf returns the text of a field of a text's kind. A value whose method panics is left to zap, which says so in the line.
func textOf(f zapcore.Field) (text string, isText bool) {
	defer func() {
		if recover() != nil {
			isText = false
		}
	}()
	switch v := f.Interface.(type) {
	case error:
		return v.Error(), true
	case fmt.Stringer:
		return v.String(), f.Type == zapcore.StringerType
	case []byte:
		return string(v), f.Type == zapcore.ByteStringType
	}
	switch f.Type {
	case zapcore.StringType:
		return f.String, true
	case zapcore.ReflectType:
		return fmt.Sprintf("%+v", f.Interface), true
	}
	return "", false
}
