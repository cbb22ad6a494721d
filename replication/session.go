package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/zap"

	"outflow/internal/failpoint"
	"outflow/internal/pgerror"
	"outflow/replication/primary"
	"outflow/replication/wal"
)

// A part is handed over at partChanges or partBytes at the latest, so a large transaction is never held whole.
const (
	partChanges = 2000
	partBytes   = 1 << 20
)

// session is one connection with the state of its reading.
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

// readSession is one session: readSession connects, starts the stream, and reads until the stream breaks or ctx is done.
func (r *Reader) readSession(ctx context.Context) error {
	conn, s, limit, err := r.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	r.restart.begin(s)
	defer r.restart.end()
	stop := context.AfterFunc(ctx, s.interrupt)
	defer stop()
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
	conn, s, err = connectStream(ctx, r.Slot.Server.ReplicationConfig())
	if err != nil {
		return nil, nil, 0, primary.ExplainConnect(r.Slot.Server, err)
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
	if err := r.Source.Check(id.SystemID, id.Timeline); err != nil {
		return fail(err)
	}
	timeout, err := senderTimeout(ctx, conn)
	if err != nil {
		return fail(err)
	}
	args := []string{"proto_version '1'", "publication_names " + primary.QuoteLiteral(pgx.Identifier{r.Publication.Name}.Sanitize())}
	if r.Heartbeat != nil && primary.ServerVersion(conn) >= 14 {
		args = append(args, "messages 'true'")
	}
	// Position 0/0: the server starts at the slot's confirmed flush LSN. Asking for less is moved forward silently, asking
	// for more would skip.
	err = pglogrepl.StartReplication(ctx, conn, pgx.Identifier{r.Slot.Name}.Sanitize(), 0, pglogrepl.StartReplicationOptions{PluginArgs: args})
	if err != nil {
		return fail(err)
	}
	return conn, s, r.silence(timeout), nil
}

// checkSlot compares the slot, which no other process can move now, with the state of the process.
func (r *Reader) checkSlot(ctx context.Context) error {
	confirmed, found, err := r.Slot.Confirmed(ctx)
	if err != nil || !found {
		return err // not found: the stream says so too
	}
	if r.reported = max(r.reported, r.Confirmed); confirmed > r.reported {
		return ErrMoved
	}
	return nil
}

// read is the loop: read waits, and calls a step for each message.
func (r *Reader) read(ctx context.Context, s *session) error {
	status := time.Now()
	s.stream.heard = status
	for {
		if now := time.Now(); !now.Before(status) {
			if s.silence > 0 && now.Sub(s.stream.heard) > s.silence {
				r.silent++
				return fmt.Errorf("%w: no message for %s", errSilent, s.silence)
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
		if r.restart.asked() {
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
		if msg.Code == pgerror.UndefinedObject || aboutPublication(msg.Routine, msg.Message) {
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
			return false, &primary.Problem{What: fmt.Sprintf("the stream of slot %q cannot be decoded at %s", s.Slot.Name, x.WALStart),
				Remedy: "use a version of outflow that supports this primary, or run: " + primary.ResetCommand, Err: err}
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
