package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"syscall"

	"outflow/internal/faultproxy"
)

// operatorFaults are the doings of people.
var operatorFaults = []fault{
	{"pause", 3, seconds(0.5, 8), pauseDestination},
	{"resync", 4, seconds(0, 0.5), resync},
	{"retry", 2, seconds(0, 0.3), retryAll},
	{"applying off", 1, seconds(0.5, 3), switchOff("applying")},
	{"reading off", 1, seconds(0.5, 3), switchOff("reading")},
	{"backfills off", 1, seconds(0.5, 3), switchOff("backfills")},
	{"mapping edited", 3, seconds(0, 0.5), editMapping},
	{"definition edited", 3, seconds(0, 0.5), editDefinition},
	{"hangup", 2, seconds(0, 0.5), hangup},
	{"dsn edited", 3, seconds(0.5, 5), editDSN},
	{"destination taken out", 2, seconds(0.5, 3), disable},
}

func (d *destination) label() string { return d.tenant + "/" + d.name }

func pauseDestination(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	d := pick(r, w.destinations)
	_, err := w.fleet.outflow(ctx, "pause", d.label(), "--reason", "torture")
	return func(ctx context.Context) error {
		_, err := w.fleet.outflow(ctx, "resume", d.label())
		return err
	}, err
}

func switchOff(what string) func(context.Context, *world, *rand.Rand) (heal, error) {
	return func(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
		_, err := w.fleet.outflow(ctx, "pause", what, "--yes", "--reason", "torture")
		return func(ctx context.Context) error {
			_, err := w.fleet.outflow(ctx, "resume", what)
			return err
		}, err
	}
}

func resync(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	d := pick(r, w.destinations)
	_, err := w.fleet.outflow(ctx, "resync", "--tenant", d.tenant, "--name", d.name, "--no-wait", "--reason", "torture")
	return nil, err
}

func retryAll(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	_, err := w.fleet.outflow(ctx, "retry", "--all")
	return nil, err
}

// editMapping changes the mapping of items and has the processes read the configuration again.
func editMapping(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	w.edition.Add(1)
	w.writeMappings()
	return hangup(ctx, w, r)
}

// editDefinition changes the mapping written by tenants.
func editDefinition(ctx context.Context, w *world, _ *rand.Rand) (heal, error) {
	err := w.onPrimary(ctx, `UPDATE outflow.destination SET definitions = $1`, []string{ownDefinition(w.definition.Load() + 1)})
	if err == nil {
		w.definition.Add(1)
	}
	return nil, err
}

func hangup(_ context.Context, w *world, _ *rand.Rand) (heal, error) {
	for _, s := range w.fleet.seats {
		_ = s.signal(syscall.SIGHUP) // an empty seat reads the configuration when the seat is taken
	}
	return nil, nil
}

// queriedOne picks a destination of outflow.destination.
func (w *world) queriedOne(r *rand.Rand) *destination {
	var queried []*destination
	for _, d := range w.destinations {
		if d.queried {
			queried = append(queried, d)
		}
	}
	return pick(r, queried)
}

// editDSN gives a destination a connection string of another kind for a time: past the proxy, to a closed port, or
// nonsense.
func editDSN(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	d := w.queriedOne(r)
	edit := func(ctx context.Context, dsn string) error {
		return w.onPrimary(ctx, `UPDATE outflow.destination SET dsn = $3 WHERE tenant_id = $1 AND name = $2`, d.tenant, d.name, dsn)
	}
	dsn := pick(r, []string{withPassword(d.server.DSN(d.database)), closedPort(d.dsn()), "postgres://nonsense", d.dsn() + "&sslrootcert=/etc/passwd"})
	return func(ctx context.Context) error { return edit(ctx, d.dsn()) }, edit(ctx, dsn)
}

// closedPort leads the connection string to a port without a listener.
func closedPort(dsn string) string {
	closed, err := faultproxy.New("127.0.0.1:1")
	if err != nil {
		return dsn
	}
	defer closed.Close()
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn
	}
	u.Host = closed.Addr()
	return u.String()
}

func disable(ctx context.Context, w *world, r *rand.Rand) (heal, error) {
	d := w.queriedOne(r)
	set := func(ctx context.Context, on bool) error {
		return w.onPrimary(ctx, fmt.Sprintf(`UPDATE outflow.destination SET enabled = %t WHERE tenant_id = $1 AND name = $2`, on), d.tenant, d.name)
	}
	return func(ctx context.Context) error { return set(ctx, true) }, set(ctx, false)
}
