package command

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"outflow/internal/fit"
)

// longText is a Stringer and an error.
type longText string

func (l longText) String() string { return string(l) }

func (l *longText) Error() string { return string(*l) }

func TestALongText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zap.InfoLevel), zap.WrapCore(bounded))
	long := strings.Repeat("é", 1<<20)
	for what, f := range map[string]zap.Field{"string": zap.String("f", long), "error": zap.Error(fmt.Errorf("b: %w", errors.New(long))),
		"stringer": zap.Stringer("f", longText(long)), "bytes": zap.ByteString("f", []byte(long)), "panic": zap.Any("f", any(long)),
		"struct": zap.Any("f", struct{ A, B string }{long, "b"}), "nil": zap.Error((*longText)(nil)), "short": zap.Int("f", 1)} {
		out.Reset()
		log.With(f).Info(long, f, zap.String("g", "as it is"))
		log.Debug(long)
		if line := out.String(); len(line) > 4*int(fit.Log) || strings.Count(line, "\n") != 1 || !strings.Contains(line, `"g":"as it is"`) || strings.Contains(line, "\ufffd") {
			t.Errorf("%s: %d bytes: %.100s", what, len(line), line)
		}
	}
}

// A short line costs no allocation beyond zap's own.
func TestTheBoundOfTheLogIsFree(t *testing.T) {
	fields := []zap.Field{zap.String("tenant", "t"), zap.Int("n", 1)}
	if n := testing.AllocsPerRun(100, func() { cutFields(fields) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
