package torture

import (
	"sync"
	"time"
)

// account is a writer's ledger of a tenant.
type account struct {
	tenant string
	writer int
}

// commit is a transaction with an answer to COMMIT.
type commit struct {
	account
	number int64
	lsn    uint64 // at or after the commit record
	at     time.Time
}

// commits are the transactions confirmed by the primary, for each account in the order of their numbers. A transaction
// without an answer to COMMIT is missing: the primary may have the transaction or not.
type commits struct {
	mu  sync.Mutex
	all map[account][]commit
}

func (c *commits) add(made commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[account][]commit{}
	}
	c.all[made.account] = append(c.all[made.account], made)
}

// upTo returns the last chosen transaction of each account of a tenant.
func (c *commits) upTo(tenant string, chosen func(commit) bool) (last []commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, all := range c.all {
		if a.tenant != tenant {
			continue
		}
		for i := len(all) - 1; i >= 0; i-- {
			if chosen(all[i]) {
				last = append(last, all[i])
				break
			}
		}
	}
	return last
}

// excuses are the reasons for which an external database is for a time not at a moment of the primary: the harness itself has
// broken the stream. An excuse ends when outflow has noticed, and has begun the next epoch.
type excuses struct {
	mu    sync.Mutex
	epoch int64 // the last excused epoch
	why   string
	until time.Time // excused whatever the epoch
}

func (e *excuses) add(epoch int64, why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.epoch, e.why = max(e.epoch, epoch), why
}

// withdraw ends the excuse of an epoch that turned out to be wrong; an older excuse has ended by then, or was for the same epoch.
func (e *excuses) withdraw(epoch int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.epoch == epoch {
		e.epoch, e.until = 0, time.Time{}
	}
}

// wait excuses every epoch for a time: a person's resync may begin an epoch before outflow has noticed.
func (e *excuses) wait(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.until = time.Now().Add(d)
}

// unnoticed is the excuse in an epoch, "" for none.
func (e *excuses) unnoticed(epoch int64) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if epoch <= e.epoch {
		return e.why
	}
	return ""
}

// of is the excuse in an epoch or at the present time, "" for none.
func (e *excuses) of(epoch int64) string {
	if why := e.unnoticed(epoch); why != "" {
		return why
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().Before(e.until) {
		return e.why
	}
	return ""
}
