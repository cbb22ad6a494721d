package pipeline

import (
	"errors"
	"strings"
	"testing"

	"go.uber.org/zap"

	"outflow/internal/config"
)

func TestRefusedConfigurationIsRemembered(t *testing.T) {
	r := &reloading{log: zap.NewNop(), cfg: config.Default()}
	why := errors.New("the new one is wrong")
	r.refuse(why)
	if err := r.fault(); !errors.Is(err, why) || !strings.HasPrefix(err.Error(), "the configuration is unchanged: ") {
		t.Errorf("people are told %v", err)
	}
	r.take(config.Default())
	if r.fault() != nil {
		t.Error("it is told of one that was followed by a good one")
	}
}
