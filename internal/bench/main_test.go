package bench

import (
	"os"
	"testing"

	"outflow/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
