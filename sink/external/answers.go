package external

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/fit"
	"outflow/internal/pgerror"
	"outflow/mapping"
)

// What one external server says is bounded before it is kept: rows by their bytes, errors by their text. A server may answer any query with
// anything, whatever its LIMIT.

const (
	answerBytes = 1 << 20 // of the answer to a question of Outflow's own
	cellBytes   = 24      // the memory of a value beside its bytes
	keptBytes   = 8 << 10 // of the text of an error
)

// read runs one statement with the extended protocol and returns the first rows, in text form, as many as have so many bytes; cut says
// that there were more. The first row is returned whatever its size; the connection bounds a message.
func (s *Session) read(ctx context.Context, bound int, sql string, args []string) (rows [][][]byte, cut bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.db.Options.AnswerTimeout())
	defer cancel()
	began := time.Now()
	s.Place.ask()
	defer s.Place.answered()
	reader := s.conn.ExecParams(ctx, sql, texts(args...), nil, nil, nil)
	for size := 0; reader.NextRow(); {
		values := reader.Values()
		size += cellBytes
		for _, v := range values {
			size += len(v) + cellBytes
		}
		if cut = cut || len(rows) > 0 && size > bound; cut {
			continue
		}
		row := make([][]byte, len(values))
		for i, v := range values {
			row[i] = bytes.Clone(v) // NULL stays nil
		}
		rows = append(rows, row)
	}
	if _, err = reader.Close(); err != nil {
		return nil, false, s.named(pgerror.WithoutValues(err), began)
	}
	s.db.Answered.Set(time.Now())
	return rows, cut, nil
}

// prepare prepares a statement without rows of the tenant in it, the unnamed one where name is "".
func (s *Session) prepare(ctx context.Context, name, sql string, oids []uint32) (*pgconn.StatementDescription, error) {
	ctx, cancel := context.WithTimeout(ctx, s.db.Options.AnswerTimeout())
	defer cancel()
	began := time.Now()
	s.Place.ask()
	defer s.Place.answered()
	described, err := s.conn.Prepare(ctx, name, sql, oids)
	return described, s.named(pgerror.Bounded(err), began)
}

// answer is read for rows of exactly the given number of columns.
func (s *Session) answer(ctx context.Context, bound, columns int, sql string, args ...string) (rows [][][]byte, cut bool, err error) {
	rows, cut, err = s.read(ctx, bound, sql, args)
	for _, row := range rows {
		if len(row) != columns {
			return nil, false, &wrongAnswer{host: s.db.host(), what: fmt.Sprintf("a row of %d columns instead of %d", len(row), columns)}
		}
	}
	return rows, cut, err
}

// AskWhole is answer where more bytes are an error.
func (s *Session) AskWhole(ctx context.Context, bound, columns int, sql string, args ...string) ([][][]byte, error) {
	rows, cut, err := s.answer(ctx, bound, columns, sql, args...)
	if err == nil && cut {
		return nil, &wrongAnswer{host: s.db.host(), what: fmt.Sprintf("more than %d bytes", bound)}
	}
	return rows, err
}

// Kept is the error with a text that may be kept: a server's text may have megabytes, also in fields that no text shows. The place in a
// mapping's file stays.
func (e *Error) Kept() *Error {
	if own := serverError(e.Err); own != nil {
		if told := serverError(pgerror.Bounded(own)); told != nil {
			*own = *told // a refused login comes wrapped by the driver
		}
	}
	text := e.Err.Error()
	if len(text) <= keptBytes {
		return e
	}
	k := *e
	k.class = e.Class()
	k.Err = errors.New(fit.Text(text, fit.Page))
	if fault := (*mapping.Fault)(nil); errors.As(e.Err, &fault) {
		place := *fault
		place.Message = fit.Text(place.Message, fit.Page)
		k.Err = &place
	}
	return &k
}
