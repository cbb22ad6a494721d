// Package sql holds the SQL that Outflow ships: the migrations of the schema outflow on the primary, and the default
// mappings.
package sql

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"outflow/internal/failpoint"
)

// Number 00004 was taken back before it was part of any version. Numbers are not used twice: goose and Script go by outflow.migration and
// need no sequence without gaps.
//
//go:embed migrations/*.sql
var migrations embed.FS

//go:embed mappings/*.yaml
var mappings embed.FS

// Migrations are the steps of the schema outflow, for goose and for printing.
func Migrations() fs.FS { return sub(migrations, "migrations") }

// Mappings are the files of the default mappings.
func Mappings() fs.FS { return sub(mappings, "mappings") }

func sub(files embed.FS, dir string) fs.FS {
	f, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // the directory is named in the embed directive above
	}
	return f
}

// Migrate brings the schema outflow on the primary to this program's version. It may run in several processes at once (it
// takes an advisory lock) and changes nothing where nothing is pending. The role needs CREATE on the database the first
// time; afterwards it must own the schema for a new version of it.
func Migrate(ctx context.Context, config *pgx.ConnConfig) error {
	config = config.Copy()
	config.RuntimeParams["search_path"] = "outflow"
	db := stdlib.OpenDB(*config)
	defer db.Close()
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT to_regnamespace('outflow') IS NOT NULL`).Scan(&exists); err != nil {
		return fmt.Errorf("looking for the schema outflow: %w", err)
	}
	if !exists { // asked first: IF NOT EXISTS demands the right to create even where there is nothing to do
		if _, err := db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS outflow`); err != nil {
			return fmt.Errorf("creating the schema outflow: %w", err)
		}
	}
	if err := failpoint.Fail(failpoint.SchemaCreated); err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, Migrations(),
		goose.WithTableName("outflow.migration"), goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	pending, err := provider.HasPending(ctx)
	if err != nil {
		return fmt.Errorf("reading outflow.migration: %w", err)
	}
	if !pending {
		return nil
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema outflow: %w", err)
	}
	return failpoint.Fail(failpoint.SchemaMigrated)
}
