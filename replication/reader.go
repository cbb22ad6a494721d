package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/replication/wal"
)

// Sink takes the transactions of the reader. The reader's goroutine calls the Sink, a single call at a time.
type Sink interface {
	// Begin is called at the start of each reading of the stream, when the process has the slot and no other process
	// can have the slot, before the first Write.
	Begin(ctx context.Context) error
	// Write takes a part of a transaction. Write must not wait for anything; a keeper of the part holds the ticket in
	// the tracker before Write returns. The same transaction may come again after a lost connection.
	Write(part *wal.Transaction) error
	// Full returns nil when there is room. Otherwise Full returns a channel closed once there is room; until then the
	// reader reads nothing, and goes on reporting to the primary.
	Full() <-chan struct{}
	// Settle finishes or rolls back the work in flight. The reader calls Settle when reading has ended for good, before
	// the last status update, which acknowledges the work finished by Settle. Settle is bounded in time, and may be
	// called again.
	Settle()
}

// Reader reads a slot. Set the fields, then call Run once.
type Reader struct {
	Primary     *Primary
	Slot        string // name of the slot, which exists
	Publication string
	Tables      []PublishedTable // the configured ones
	Source      Source           // the required origin of the stream, and the sequence base
	Confirmed   wal.LSN          // of the slot when Source was read
	Acks        *AckTracker
	Sink        Sink
	Log         *zap.Logger
	Heartbeat   *Heartbeat // nil: none, and logical messages are not asked for
	// StatusInterval is the interval of status updates to the primary; 0 means 1 s. The interval must be well below
	// wal_sender_timeout.
	StatusInterval time.Duration
	// Patience is the shortest silence of the server that ends a session; 0 means 30 s. A longer wal_sender_timeout of the server has
	// precedence, and 0 there allows any silence.
	Patience time.Duration

	state   atomic.Int32
	wal     atomic.Uint64 // see Position
	mu      sync.Mutex
	current *stream // of the running session
	again   bool    // Restart was called

	reported wal.LSN // the highest flush LSN sent; the reading goroutine's

	silent    int                      // sessions since the last transaction that the server's silence has ended
	sessions  int                      // started so far; the reading goroutine's, as are the next fields
	relations map[uint32]*wal.Relation // resolved ones by oid, kept over sessions
}

// State is the activity of a Reader.
type State int32

// The states of a Reader.
const (
	Connecting State = iota
	Standby          // another process has the slot; the reader waits for the slot
	Streaming
)

func (s State) String() string { return [...]string{"connecting", "standby", "streaming"}[s] }

// State returns the reader's activity. Safe for concurrent use.
func (r *Reader) State() State { return State(r.state.Load()) }

// Latency is the duration of the newest heartbeat from the primary through the stream, and the time of arrival; see [Heartbeat.Latency].
func (r *Reader) Latency() (time.Duration, time.Time) { return r.Heartbeat.Latency() }

// Behind is how far the stream is behind the primary at the least; see [Heartbeat.Behind].
func (r *Reader) Behind(now time.Time) time.Duration { return r.Heartbeat.Behind(now) }

// Position is how far the stream was read: the sink has every transaction committed before Position. Position is 0
// before the server said anything. Safe for concurrent use.
func (r *Reader) Position() wal.LSN { return wal.LSN(r.wal.Load()) }

// A part is handed over at partChanges or partBytes at the latest, so a large transaction is never held whole.
const (
	partChanges = 2000
	partBytes   = 1 << 20
)

// questionPatience bounds a question to the primary on a connection beside the stream.
const questionPatience = 20 * time.Second

// ErrMoved ends Run because the slot moved without the process: another process had the slot meanwhile, or a person advanced the slot. The
// state in the memory of the process may be out of date; the process starts over from the notes on the primary.
var ErrMoved = errors.New("the slot has moved since this process last read it")

// ErrFenced tells of a process that would have written notes to the primary after another process had begun to read the slot: a frozen
// process that was thawed, say. Nothing was written. The process starts over as a standby.
var ErrFenced = errors.New("another process has begun to read the slot since")

// errRestart ends a session because a caller wants the stream again from the flush LSN.
var errRestart = errors.New("the stream is read again")

// Restart ends the current session; the next session starts at the flush LSN, so unacknowledged transactions come
// again. Safe for concurrent use; Restart does not wait.
func (r *Reader) Restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.again = true
	if r.current != nil {
		r.current.interrupt()
	}
}

// Run reads until ctx is done, which is not an error. Run reconnects by itself and waits as a standby while another
// process has the slot. Run returns an error where a person must act: the slot is gone, the publication was dropped,
// the primary is another server.
func (r *Reader) Run(ctx context.Context) error {
	if r.StatusInterval == 0 {
		r.StatusInterval = time.Second
	}
	if r.Patience == 0 {
		r.Patience = patience
	}
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	for {
		started := time.Now()
		err := r.session(ctx)
		if ctx.Err() != nil {
			r.Sink.Settle()
			return nil //nolint:nilerr // a wanted stop is not an error
		}
		if time.Since(started) > pause.MaxInterval {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		switch {
		case errors.Is(err, ErrMoved), isGap(err):
			return err
		case errors.Is(err, errRestart):
			r.Log.Info("reading the stream again from the flush LSN", zap.Stringer("lsn", r.Acks.Flush()))
		case isSlotInUse(err):
			if r.State() != Standby {
				r.Log.Info("another process reads the slot; waiting as standby", zap.String("slot", r.Slot))
			}
			r.state.Store(int32(Standby))
			wait = min(wait, time.Second)
		default:
			refusal := r.refusal(ctx, err)
			if refusal == nil && isFatal(err) {
				return r.explainFatal(ctx, err)
			}
			r.state.Store(int32(Connecting))
			what := "lost the primary; connecting again"
			if refusal != nil {
				what, err = "the primary takes no writes; trying again", refusal
			}
			r.Log.Warn(what, zap.Error(err), zap.Duration("next_try_ms", wait))
		}
		select {
		case <-ctx.Done():
			r.Sink.Settle()
			return nil
		case <-time.After(wait):
		}
	}
}

// session is a single connection: session starts the stream and reads until the stream breaks or ctx is done.
func (r *Reader) session(ctx context.Context) error {
	conn, s, limit, err := r.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	r.mu.Lock()
	r.current, r.again = s, false
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, s.interrupt)
	defer stop()
	defer func() {
		r.mu.Lock()
		r.current = nil
		r.mu.Unlock()
	}()
	if err := r.checkSlot(ctx); err != nil {
		return err
	}
	if err := failpoint.Fail(failpoint.SlotTaken); err != nil {
		return err
	}
	if err := r.Sink.Begin(ctx); err != nil {
		return err
	}
	r.sessions++
	r.state.Store(int32(Streaming))
	r.Log.Info("streaming", zap.Stringer("lsn", r.Acks.Flush()))
	return r.read(ctx, &session{Reader: r, conn: conn, stream: s, decoder: NewDecoder(), silence: limit})
}

// start begins the stream; silence is the longest allowed silence of the server, 0 is any.
func (r *Reader) start(ctx context.Context) (conn *pgconn.PgConn, s *stream, silence time.Duration, err error) {
	conn, s, err = r.Primary.connectReplication(ctx)
	if err != nil {
		return nil, nil, 0, ExplainConnect(r.Primary, err)
	}
	fail := func(err error) (*pgconn.PgConn, *stream, time.Duration, error) {
		_ = conn.Close(ctx)
		return nil, nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	id, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return fail(err)
	}
	if err := r.Source.check(id); err != nil {
		return fail(err)
	}
	timeout, err := senderTimeout(ctx, conn)
	if err != nil {
		return fail(err)
	}
	args := []string{"proto_version '1'", "publication_names " + quoteLiteral(quoteIdentifier(r.Publication))}
	if r.Heartbeat != nil && serverVersion(conn) >= 14 {
		args = append(args, "messages 'true'")
	}
	// Position 0/0: the server starts at the slot's confirmed flush LSN. Asking for less is moved forward silently, asking
	// for more would skip.
	err = pglogrepl.StartReplication(ctx, conn, quoteIdentifier(r.Slot), 0, pglogrepl.StartReplicationOptions{PluginArgs: args})
	if err != nil {
		return fail(err)
	}
	return conn, s, r.silence(timeout), nil
}

// refusal tells of a server which answers and takes no writes, where the server's error comes from the refusal of writes: a standby stands
// in the primary's place (a standby has no slot, or does not decode), or the primary is read-only. A failover or the end of a maintenance
// ends both, so the reader tries again. refusal returns nil for every other error.
func (r *Reader) refusal(ctx context.Context, err error) *Problem {
	if sqlstate(err) == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, questionPatience)
	defer cancel()
	conn, failed := r.Primary.Connect(ctx)
	if failed != nil {
		return nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var standby, readOnly bool
	failed = conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool`).Scan(&standby, &readOnly)
	switch {
	case failed != nil:
		return nil
	case standby:
		return isStandby(conn)
	case readOnly:
		return isReadOnly(r.Primary.User())
	}
	return nil
}

// explainFatal names the cause and the remedy of an error ending the stream for good. The text of a lost slot's error differs by version;
// the slot's row says why the server invalidated the slot.
func (r *Reader) explainFatal(ctx context.Context, err error) error {
	explained := explainFatal(r.Slot, r.Publication, err)
	if sqlstate(err) != notInPrerequisite {
		return explained
	}
	ctx, cancel := context.WithTimeout(ctx, questionPatience)
	defer cancel()
	conn, failed := r.Primary.Connect(ctx)
	if failed != nil {
		return explained
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, _, lost := (Setup{Slot: r.Slot}).findSlot(ctx, conn); isProblem(lost) {
		return lost
	}
	return explained
}

// checkSlot compares the slot, which no other process can move now, with the state of the process.
func (r *Reader) checkSlot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, questionPatience)
	defer cancel()
	conn, err := r.Primary.Connect(ctx)
	if err != nil {
		return ExplainConnect(r.Primary, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	confirmed, found, err := Setup{Slot: r.Slot}.findSlot(ctx, conn)
	if err != nil || !found {
		return err // not found: the stream says so too
	}
	if r.reported = max(r.reported, r.Confirmed); confirmed > r.reported {
		return ErrMoved
	}
	return nil
}

// session is the state of a connection's reading.
type session struct {
	*Reader
	conn    *pgconn.PgConn
	stream  *stream
	decoder *Decoder
	ticket  wal.Ticket
	wanted  bool             // the open transaction was not acknowledged in an earlier session
	part    *wal.Transaction // the part being gathered, nil outside a transaction
	bytes   int64            // of the part
	silence time.Duration    // the longest allowed silence of the server, 0 is any
}

// read is the loop: read waits, and calls a step for each message.
func (r *Reader) read(ctx context.Context, s *session) error {
	status := time.Now()
	s.stream.heard = status
	for {
		if now := time.Now(); !now.Before(status) {
			if s.silence > 0 && now.Sub(s.stream.heard) > s.silence {
				r.silent++
				return fmt.Errorf("%w: nothing was heard for %s", errSilent, s.silence)
			}
			if err := s.report(); err != nil {
				return err
			}
			status = now.Add(r.StatusInterval)
			s.stream.deadline = status
		}
		if ctx.Err() != nil {
			r.Sink.Settle()
			return s.report()
		}
		r.mu.Lock()
		again := r.again
		r.mu.Unlock()
		if again {
			return errRestart
		}
		if room := r.Sink.Full(); room != nil {
			select {
			case <-room:
			case <-time.After(time.Until(status)):
			case <-ctx.Done():
			}
			s.stream.heard = time.Now() // the server may have said something; the reader has not listened
			continue
		}
		if err := s.drain(); err != nil {
			return err
		}
	}
}

// drain reads messages until a status update is due, the sink is full, or the session is to end.
func (s *session) drain() error {
	for {
		msg, err := s.conn.ReceiveMessage(context.Background())
		if err != nil {
			if isTimeout(err) {
				return nil
			}
			return err
		}
		handed, err := s.step(msg)
		if err != nil {
			return err
		}
		if handed && s.Sink.Full() != nil {
			return nil
		}
	}
}

// step takes a message of the server; handed: a part went to the sink.
func (s *session) step(msg pgproto3.BackendMessage) (handed bool, err error) {
	switch msg := msg.(type) {
	case *pgproto3.CopyData:
		return s.copyData(msg.Data)
	case *pgproto3.ErrorResponse:
		return false, pgconn.ErrorResponseToPgError(msg)
	case *pgproto3.NoticeResponse:
		// From 18 on a missing publication is only a warning, and its rows are skipped.
		if msg.Code == undefinedObject || strings.Contains(msg.Message, "publication") {
			return false, &publicationGone{msg.Message}
		}
		return false, nil
	case *pgproto3.CopyDone:
		return false, errors.New("the server ended the stream")
	}
	return false, nil
}

func (s *session) copyData(data []byte) (handed bool, err error) {
	if len(data) == 0 {
		return false, errors.New("an empty message in the stream")
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return false, err
		}
		if s.part == nil {
			s.wal.Store(max(s.wal.Load(), uint64(k.ServerWALEnd)))
			s.Acks.Idle(wal.LSN(k.ServerWALEnd))
		}
		if k.ReplyRequested {
			return false, s.report()
		}
		return false, nil
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return false, err
		}
		if err := failpoint.Fail(failpoint.Received); err != nil {
			return false, err
		}
		event, err := s.decoder.Decode(x.WALData)
		if err != nil {
			return false, &Problem{What: fmt.Sprintf("the stream of slot %q cannot be understood at %s", s.Slot, x.WALStart),
				Remedy: "use a version of outflow that knows this primary's, or run: " + resetCommand, Err: err}
		}
		return s.event(event)
	}
	return false, fmt.Errorf("unknown message %q in the stream", data[0])
}

func (s *session) event(event Event) (handed bool, err error) {
	switch e := event.(type) {
	case Begin:
		s.silent = 0
		s.ticket, s.wanted = s.Acks.Begin(e.CommitLSN)
		s.part = &wal.Transaction{SequenceID: s.Source.SequenceID(e.CommitLSN), XID: e.XID,
			CommitLSN: e.CommitLSN, CommitTime: e.CommitTime, Session: s.sessions, Ticket: s.ticket}
		return false, failpoint.Fail(failpoint.Registered)
	case Changes:
		if !s.wanted {
			return false, nil
		}
		s.part.Changes = append(s.part.Changes, e...)
		for i := range e {
			s.bytes += e[i].Bytes()
		}
		if len(s.part.Changes) >= partChanges || s.bytes >= partBytes {
			next := *s.part
			next.Changes = nil
			err := s.handOver()
			s.part = &next
			return true, err
		}
	case Commit:
		if !s.wanted {
			s.part = nil
			s.wal.Store(uint64(e.EndLSN))
			return false, nil
		}
		s.part.Last = true
		if err := s.handOver(); err != nil {
			return true, err
		}
		s.wal.Store(uint64(e.EndLSN)) // after the sink has the transaction: see Position
		s.Acks.Commit(s.ticket, e.EndLSN)
		return true, nil
	case *wal.Relation:
		return false, s.relation(e)
	case Message:
		s.Heartbeat.seen(e)
	}
	return false, nil
}

// serverVersion is the server's major version, 0 where the server does not tell.
func serverVersion(conn *pgconn.PgConn) int {
	var major int
	_, _ = fmt.Sscanf(conn.ParameterStatus("server_version"), "%d", &major) // 15.18, 18beta1
	return major
}

// relation completes a relation from the catalog, or finds the relation unchanged: the server describes a table again
// after each connection and each VACUUM.
func (s *session) relation(rel *wal.Relation) error {
	if err := s.name(rel); err != nil {
		return err
	}
	if known := s.relations[rel.OID]; known != nil && known.Identity != 'f' && known.SentLike(rel) {
		s.decoder.relations[rel.OID] = known
		return nil
	}
	if rel.Table != "" { // nobody reads rows of the others: thousands of partitions are described beside their root
		if err := s.Source.resolve(s.Primary, rel); err != nil {
			return err
		}
	}
	if known := s.relations[rel.OID]; known != nil && known.SentLike(rel) && known.SameShape(rel) { // others keep what they know of a pointer
		rel = known
		s.decoder.relations[rel.OID] = known
	}
	if s.relations == nil {
		s.relations = map[uint32]*wal.Relation{}
	}
	s.relations[rel.OID] = rel
	return nil
}

func (s *session) handOver() error {
	part := s.part
	s.part, s.bytes = nil, 0
	if err := s.Sink.Write(part); err != nil {
		return err
	}
	return failpoint.Fail(failpoint.HandedOver)
}

// report sends a standby status update. All three positions are set explicitly: pglogrepl copies the written position
// over positions of 0, which would acknowledge transactions not durable anywhere.
func (s *session) report() error {
	flush := s.Acks.Noted()
	if flush == 0 {
		return nil // nothing to say yet; a zero position means "unset" to pglogrepl and to the server
	}
	if err := failpoint.Fail(failpoint.BeforeReport); err != nil {
		return err
	}
	if err := s.stream.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	s.reported = max(s.reported, flush)
	durable := pglogrepl.LSN(flush)
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: durable, WALFlushPosition: durable, WALApplyPosition: durable,
		ReplyRequested: time.Since(s.stream.heard) > min(askAfter, s.Patience/2)})
	if err != nil {
		return err
	}
	return failpoint.Fail(failpoint.Reported)
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &netErr) && netErr.Timeout())
}
