package external

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// SequenceIDs asks external databases for the highest id of each. The databases belong to tenants, so the numbers may be any numbers.
// Silent databases are left out: the process that settles a sequence base leaves a margin for such databases.
func SequenceIDs(ctx context.Context, specs []DestinationSpec, o Options) (ids []int64) {
	var mu sync.Mutex
	var all sync.WaitGroup
	places := make(chan struct{}, dialsAtOnce)
	for _, t := range specs {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			id, err := highestIn(ctx, t, o)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, id)
		})
	}
	all.Wait()
	return ids
}

func highestIn(ctx context.Context, t DestinationSpec, o Options) (id int64, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("an impossible answer: %v", cause)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 2*o.ConnectTimeout)
	defer cancel()
	if t.Fault != nil {
		return 0, t.Fault
	}
	config, err := t.Config(o)
	if err != nil {
		return 0, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer conn.Close(ctx)
	reader := conn.ExecParams(ctx, `SELECT coalesce(max("last_synced_sequence_id"), -1) FROM public."_stack_sync_metadata"`, nil, nil, nil, nil)
	var text string
	rows := 0
	for reader.NextRow() { // a hostile server may send any number of rows, and none after the first is kept
		if rows++; rows == 1 && len(reader.Values()) == 1 {
			text = string(reader.Values()[0])
		}
	}
	if _, err := reader.Close(); err != nil {
		return 0, err
	}
	if rows != 1 {
		return 0, errors.New("the server returns no such row")
	}
	return strconv.ParseInt(text, 10, 64)
}
