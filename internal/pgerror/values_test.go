package pgerror

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"outflow/internal/fit"
	"outflow/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func asServer(t *testing.T, err error) *pgconn.PgError {
	t.Helper()
	e := (*pgconn.PgError)(nil)
	if !errors.As(err, &e) {
		t.Fatalf("no error of a server: %v", err)
	}
	return e
}

// A message stays where the report shows that the message has no value of a row; any other message is replaced.
func TestErrorsHaveNoValues(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Database(t, pgtest.Shared(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `CREATE TABLE item (id int PRIMARY KEY, name text CHECK (name <> 'secret'));
		INSERT INTO item VALUES (7, 'a');
		CREATE FUNCTION shout(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'got %', $1 USING ERRCODE = '23505'; END $$`); err != nil {
		t.Fatal(err)
	}
	for sql, says := range map[string]string{
		`SELEC 'secret'`:                              "syntax error",
		`SELECT absent FROM item`:                     `column "absent" does not exist`,
		`INSERT INTO item VALUES (7, 'secret2')`:      "item_pkey",
		`INSERT INTO item VALUES (8, 'secret')`:       "item_name_check",
		`SELECT ('secret' || id)::int FROM item`:      "invalid text representation; the message may have values of rows",
		`SELECT ('secret' || id)::regclass FROM item`: "may have values of rows",
		`SELECT shout('secret')`:                      "unique violation; the message may have values of rows",
	} {
		_, err := conn.Exec(ctx, sql)
		told := fmt.Sprintf("%+v", *asServer(t, WithoutValues(err)))
		if strings.Contains(strings.TrimPrefix(told, sql), "secret") || !strings.Contains(told, says) {
			t.Errorf("%s: %s", sql, told)
		}
		if SQLState(fmt.Errorf("wrapped: %w", err)) != asServer(t, err).Code {
			t.Errorf("%s: the SQLSTATE of a wrapped error is %q", sql, SQLState(err))
		}
	}
}

// A hostile server can fill each field.
func TestFieldsOfErrorsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	hostile := &pgconn.PgError{Severity: long, Code: "\x1b[2J'", Message: long, Detail: long, Hint: long, Where: long, InternalQuery: long,
		SchemaName: long, TableName: long, ColumnName: long, DataTypeName: long, ConstraintName: long, File: long, Routine: long, Position: 1}
	for _, err := range []error{WithoutValues(hostile), Bounded(hostile)} {
		told := asServer(t, err)
		if size := len(fmt.Sprintf("%+v", *told)); size > 3*int(fit.Reason)+8*int(fit.Value)+1000 || told.Code != "XX000" || told.Where+told.InternalQuery != "" {
			t.Errorf("%d bytes, SQLSTATE %q", size, told.Code)
		}
	}
	own := errors.New("no server's")
	if !errors.Is(WithoutValues(own), own) || !errors.Is(Bounded(own), own) || SQLState(own) != "" || WithoutValues(nil) != nil {
		t.Error("an error of no server was changed")
	}
}
