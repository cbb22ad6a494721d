//go:build !docker

package pgcluster

import (
	"context"
	"fmt"
)

// startDocker is left out: the released program holds no client of Docker's.
func startDocker(context.Context, Options, map[string]string) (*Cluster, error) {
	return nil, fmt.Errorf("%w: this program is built without Docker's client; go build -tags docker adds the client", errNoDocker)
}
