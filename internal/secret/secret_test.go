package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v4"

	"outflow/internal/secret"
)

const canary = "kanarienvogel"

type holder struct {
	Public  secret.Text  `json:"public" yaml:"public"`
	Pointer *secret.Text `json:"pointer" yaml:"pointer"`
	Map     map[string]secret.Text
	private secret.Text
}

func TestTextIsNeverShown(t *testing.T) {
	text := secret.New(canary)
	h := holder{text, &text, map[string]secret.Text{"a": text}, text}
	var out bytes.Buffer
	for _, v := range []any{text, &text, h, &h, []secret.Text{text}, []any{h}, map[secret.Text]int{text: 1}} {
		for _, verb := range "vsqxXdtTpbcoOUeEfFgGw" {
			for _, flags := range []string{"", "+", "#", "10", "-010.3"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
			}
		}
		asJSON, err := json.Marshal(map[string]any{"v": fmt.Sprint(v), "h": h})
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := yaml.Dump(h)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(asJSON)
		out.Write(asYAML)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		for _, encoder := range []zapcore.Encoder{
			zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
		} {
			logger := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.DebugLevel))
			logger.Info("x", zap.Any("any", v), zap.Reflect("reflect", v), zap.Stringer("text", text))
			logger.Sugar().Infow("x", "v", v)
			logger.Sugar().Infof("%+v %#v", v, v)
		}
	}
	for _, shown := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary)} {
		if at := strings.Index(out.String(), shown); at >= 0 {
			t.Errorf("the secret is shown: %s", out.String()[max(0, at-200):at+len(shown)])
		}
	}
	if !strings.Contains(out.String(), `"public":"[redacted]"`) {
		t.Error("nothing was redacted")
	}
}

func TestText(t *testing.T) {
	var zero, text secret.Text
	if err := text.UnmarshalText([]byte(canary)); err != nil {
		t.Fatal(err)
	}
	if text.Reveal() != canary || text.IsZero() || !text.Equal(secret.New(canary)) || text.Equal(zero) {
		t.Error("the secret is not what was put in")
	}
	if zero.Reveal() != "" || !zero.IsZero() || !secret.New("").IsZero() || !zero.Equal(secret.New("")) {
		t.Error("the zero value is not the empty secret")
	}
	if got := fmt.Sprintf("%+v", struct{ T secret.Text }{text}); got != "{T:[redacted]}" {
		t.Error(got)
	}
}

func TestRedactDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"":                                     "",
		"postgres://u:kanarienvogel@h:5432/db": "postgres://u:xxxxx@h:5432/db",
		"postgresql://u:kanarienvogel@h/db?options=endpoint%3Dkanarienvogel&ssl=true": "postgresql://u:xxxxx@h/db?options=xxxxx&ssl=xxxxx",
		"postgresql://u@h/db?sslmode=require&password=kanarienvogel":                  "postgresql://u@h/db?sslmode=require&password=xxxxx",
		"postgres://h/db?options=-c%20x%3Dkanarienvogel":                              "postgres://h/db?options=xxxxx",
		"postgres://u:p%40kanarienvogel@[::1]:5432/db":                                "postgres://u:xxxxx@[::1]:5432/db",
		"postgres://u:a@kanarienvogel@h/db":                                           "postgres://u:xxxxx@h/db",
		"postgres://u:a/kanarienvogel@h/db":                                           secret.Redacted,
		"postgres://u:a#kanarienvogel@h/db":                                           secret.Redacted,
		"postgres://u:a?kanarienvogel@h/db":                                           secret.Redacted,
		"postgres://u:%zzkanarienvogel@h/db":                                          secret.Redacted,
		"postgres:u:kanarienvogel@h":                                                  secret.Redacted,
		"mysql://u:kanarienvogel@h":                                                   secret.Redacted,
		"host=h port=5432 user=u password=kanarienvogel dbname=d":                     "host=h port=5432 user=u password=xxxxx dbname=d",
		"host = h password = 'a \\' kanarienvogel' user=u":                            "host=h password=xxxxx user=u",
		"password=a\\ kanarienvogel user='u v'":                                       "password=xxxxx user='u v'",
		"host=h password=a kanarienvogel":                                             secret.Redacted,
		"host=h password='a kanarienvogel":                                            secret.Redacted,
		"host=h password='a'kanarienvogel user=u":                                     secret.Redacted,
		"host=h passwrod=kanarienvogel sslkey=/k sslmode=disable":                     "host=h passwrod=xxxxx sslkey=xxxxx sslmode=disable",
		"kanarienvogel": secret.Redacted,
	} {
		if got := secret.RedactDSN(dsn); got != want {
			t.Errorf("%s\n got %s\nwant %s", dsn, got, want)
		}
	}
}

func FuzzRedactDSN(f *testing.F) {
	f.Add("host=h user=u", "x")
	f.Add("host=h user='u", "' dbname=d")
	f.Add("postgres://u", "@h/db?x=")
	f.Add("postgresql://u:p", "@ep-a-1.neon.tech/d?sslmode=require&channel_binding=require&options=endpoint%3Dep-a-1")
	f.Add("host=h ssl=true options='endpoint=ep-a-1", "' application_name=x pgbouncer=true")
	f.Fuzz(func(t *testing.T, before, after string) {
		// The password is where libpq's own grammar has it; whatever stands
		// around it, it must not be shown.
		_ = secret.RedactDSN(before + after)
		if got := secret.RedactDSN("password=" + canary + " " + after); strings.Contains(got, canary) && !strings.Contains(after, canary) {
			t.Errorf("%q shows the password", got)
		}
		if got := secret.RedactDSN("postgres://u:" + canary + "@h/" + after); strings.Contains(got, canary) && !strings.Contains(after, canary) {
			t.Errorf("%q shows the password", got)
		}
	})
}
